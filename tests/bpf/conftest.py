"""The program as it is shipped, built from source and loaded once for a module; its maps are small."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernlb.engines import abi
from kernlb.engines.dataplane import Dataplane, Sizes
from tests.features import Feature, need

BPF = Path(__file__).parents[2] / "bpf"
BUCKETS = 1024
SIZES = Sizes(services=16, keys=64, servers=1024, sources=16)


@pytest.fixture(scope="session")
def balancer() -> Path:
    """The object file."""
    need(Feature.BPF, Feature.CLANG)
    subprocess.run(("make", "-s", "-C", BPF), check=True)
    return BPF / "balancer.bpf.o"


@pytest.fixture(scope="session")
def loaded(balancer: Path) -> Iterator[Dataplane]:
    settings = abi.Settings(secret=0x5EED, memory_buckets=BUCKETS, flow_buckets=BUCKETS, limits=True)
    with Dataplane.load(balancer, settings=settings, sizes=SIZES) as plane:
        yield plane


@pytest.fixture
def plane(loaded: Dataplane) -> Dataplane:
    """The loaded program, without services, flows, memories and counts."""
    for name in ("services", "fragments", "limits"):
        for key in list(loaded.maps[name].keys()):
            del loaded.maps[name][key]
    for name in ("flows", "memories", "servers", "traffic", "causes"):
        empty = loaded.maps[name]
        keys = b"".join(map(abi.index, range(empty.max_entries)))
        values = bytes(empty.value_size * empty.values_per_key * empty.max_entries)
        empty.update_packed(keys, values, empty.max_entries)
    return loaded
