"""Whether this kernel takes the eBPF program: loaded, verified, and let go of again. Nothing is pinned or attached."""

from pathlib import Path

from kernlb.engines import abi
from kernlb.engines.dataplane import TC, Dataplane, Sizes
from kernlb.engines.xdp import OBJECT
from kernlb.errors import Unsupported
from kernlb.resources import shipped

_SMALL = Sizes(services=1, keys=8, servers=8, sources=8, memory_buckets=1, flow_buckets=1)


def try_program() -> None:
    """Raises Unsupported where there is no program or no way to load one, KernelError where the kernel refuses it."""
    path = Path(str(shipped("bpf") / OBJECT))
    if not path.is_file():
        raise Unsupported("the eBPF program is not built", where=str(path), hint="make -C bpf (needs clang)")
    Dataplane.load(path, settings=abi.Settings(secret=1), sizes=_SMALL, programs=(TC,)).close()
