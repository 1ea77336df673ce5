"""The demo's network with a director that is called as its user calls it, without a fresh interpreter each time.

client 192.0.2.10 -- 192.0.2.1 director 10.0.0.254 -- 10.0.0.1, .2, .3 servers
client 192.0.2.10 ------------------------------------ the same servers, for answers that bypass the director
IPv6: fd00:1::10 -- fd00:1::1, fd00:2::254 -- fd00:2::1, ::2, ::3
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kernlb.cli import load
from kernlb.demo.director import Director as Demonstrated
from kernlb.demo.director import Said
from kernlb.demo.http import Tally, fetch, serve
from kernlb.demo.namespaces import DIRECTOR_BACK, SERVERS, Lab, lab

SERVERS6 = {name: address.replace("10.0.0.", "fd00:2::") for name, address in SERVERS.items()}
PATIENCE = 200.0


class Director(Demonstrated):
    """With what tests want beyond the demo."""

    def file(self, text: str, name: str = "kernlb.toml") -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def apply(self, text: str, *options: str, code: int = 0) -> Said:
        return self.call("apply", self.file(text), *options, allowed=(code,))

    def requests(self, count: int, address: str, *, port: int = 80, parallel: int = 1) -> Tally:
        """HTTP requests of the client, each on a connection of its own."""
        tally: Tally = self.lab.ask("client", fetch, address, port, count, parallel).value(timeout=PATIENCE)
        return tally


@contextmanager
def director(directory: Path) -> Iterator[Director]:
    """The network, and the three real servers answering on port 80 of both families."""
    with lab() as built:
        _second_family(built)
        _ways_back(built)
        for name in SERVERS:
            for address in (SERVERS[name], SERVERS6[name]):
                built.start(name, serve, name, address, 80)
        found = Director(built, directory, load())
        for address in (*SERVERS.values(), *SERVERS6.values()):
            until(lambda address=address: not built.ask("director", fetch, address, 80, 1, 1).value(timeout=9).failed)
        yield found


def until(true: Callable[[], bool], *, patience: float = 20.0) -> None:
    """Ask again until it is so. Fails at the deadline."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"not so within {patience:g} s"
        time.sleep(0.02)


def _second_family(built: Lab) -> None:
    built.ip("client", ["addr add fd00:1::10/128 dev eth0 nodad", "route add fd00:1::1 dev eth0"])
    built.ip("client", ["route add default via 192.0.2.1", "route add default via fd00:1::1"])
    built.ip("director", ["addr add fd00:1::1/128 dev front nodad", "route add fd00:1::10 dev front"])
    for name, address in SERVERS6.items():
        built.ip(
            "director",
            [f"addr add fd00:2::254/128 dev {name} nodad", f"route add {address} dev {name} src fd00:2::254"],
        )
        built.ip(name, [f"addr add {address}/128 dev eth0 nodad", "route add fd00:2::254 dev eth0"])


def _ways_back(built: Lab) -> None:
    client = built.namespace("client")
    for name in SERVERS:
        built.ip(name, [f"link add eth1 type veth peer name {name} netns {client}", "link set eth1 up"])
        built.ip("client", [f"link set {name} up"])


def answer_directly(built: Lab) -> None:
    """Real servers answer the client over the wire of their own."""
    for name in SERVERS:
        built.ip(name, ["route replace 192.0.2.10 dev eth1"])


def answer_through_director(built: Lab) -> None:
    for name in SERVERS:
        built.ip(
            name,
            [
                f"route replace 192.0.2.10 via {DIRECTOR_BACK} dev eth0",
                "route replace fd00:1::10 via fd00:2::254 dev eth0",
            ],
        )


def answer_nobody(built: Lab) -> None:
    """No route beyond the director."""
    for name in SERVERS:
        built.ip(name, ["route flush 192.0.2.10", "route flush fd00:1::10"])
