"""The program as it is shipped, built from source and loaded once for a module; its maps are small."""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kernlb.engines import abi
from kernlb.engines.bcc_loader import Compilation
from kernlb.engines.building import Maker
from kernlb.engines.bytecode import Code
from kernlb.engines.dataplane import PROGRAMS, TC, XDP, Dataplane, Sizes
from kernlb.engines.libbpf import Object
from tests.bpf.world import World
from tests.features import Feature, need

BPF = Path(__file__).parents[2] / "bpf"
BUCKETS = 1024
SIZES = Sizes(services=16, keys=64, servers=1024, sources=16)
HOOKS = pytest.mark.parametrize("hook", [XDP, TC])
FAMILIES = pytest.mark.parametrize("family", [4, 6])
LOADERS = pytest.mark.parametrize("loaded", list(Maker), indirect=True, scope="session")
"""The same laws on the program as it is shipped and as BCC compiles it."""


@pytest.fixture(scope="session")
def balancer() -> Path:
    """The object file."""
    need(Feature.BPF, Feature.CLANG)
    subprocess.run(("make", "-s", "-C", BPF), check=True)
    return BPF / "balancer.bpf.o"


@pytest.fixture(scope="session")
def loaded(balancer: Path, request: pytest.FixtureRequest) -> Iterator[Dataplane]:
    """By the loader that the tests name, else from the object."""
    settings = abi.Settings(secret=0x5EED, memory_buckets=BUCKETS, flow_buckets=BUCKETS, limits=True)
    bcc = getattr(request, "param", Maker.OBJECT) is Maker.BCC
    code = compiled(balancer, settings, PROGRAMS) if bcc else None
    with Dataplane.load(balancer, settings=settings, sizes=SIZES, code=code) as plane:
        yield plane


def compiled(balancer: Path, settings: abi.Settings, programs: Sequence[str]) -> Code:
    """What BCC makes of the source."""
    need(Feature.BCC)
    with Object(balancer) as opened:
        maps = opened.map_names()
    return Compilation(balancer.parent, settings, programs=programs, maps=maps).result()


@pytest.fixture
def plane(loaded: Dataplane) -> Dataplane:
    """The loaded program, without services, flows, memories and counts."""
    for name in ("services", "fragments", "limits", "links"):
        for key in list(loaded.maps[name].keys()):
            del loaded.maps[name][key]
    for name in ("flows", "memories", "servers", "traffic", "causes"):
        empty = loaded.maps[name]
        keys = b"".join(map(abi.index, range(empty.max_entries)))
        values = bytes(empty.value_size * empty.values_per_key * empty.max_entries)
        empty.update_packed(keys, values, empty.max_entries)
    return loaded


@pytest.fixture
def world(plane: Dataplane) -> World:
    return World(plane)
