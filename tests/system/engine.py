"""The eBPF engine in the namespace of the demo's director: a process enters it for each change, as kernlb's user would.

A test module that imports the fixture `director` has a fixture `network`, which is the Lab.
"""

from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from kernlb.config.values import Loader
from kernlb.demo.namespaces import Lab
from kernlb.engines.carried import Wish
from kernlb.engines.dataplane import Dataplane, Sizes
from kernlb.engines.xdp import Xdp
from kernlb.model import Table
from kernlb.places import Places
from kernlb.plan import diff
from tests.system.network import run

SMALL = Sizes(services=16, keys=64, servers=1024, sources=16, memory_buckets=1024, flow_buckets=4096)


class Director:
    def __init__(self, network: Lab) -> None:
        self._lab = network
        self.pins = Places(namespace=network.namespace("director")).pins

    def hold(self, table: Table, wish: Wish | None = None, loader: Loader = Loader.OBJECT) -> None:
        """What `kernlb apply` does."""
        namespace = self._lab.namespace("director")
        assert self._lab.ask("director", _hold, namespace, table, wish or Wish(), loader).value(timeout=60)

    def causes(self) -> dict[str, int]:
        with Dataplane.pinned(self.pins) as plane:
            return {cause.name: number for cause, number in plane.causes().items() if number}


@pytest.fixture
def director(network: Lab) -> Iterator[Director]:
    made = Director(network)
    yield made
    made.hold({})


def inside(network: Lab, part: str, *command: str) -> str:
    return run("ip", "netns", "exec", network.namespace(part), *command)


def _hold(result: Connection, namespace: str, table: Table, wish: Wish, loader: Loader) -> None:
    engine = Xdp(Places(namespace=namespace).pins, wish=wish, sizes=SMALL, slots=1009, loader=loader)
    engine.apply(diff(table, engine.read()))
    engine.tend()
    result.send(engine.read() == table)
