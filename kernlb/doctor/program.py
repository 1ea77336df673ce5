"""Whether this kernel takes the eBPF program: loaded, verified, and let go of again. Nothing is pinned or attached."""

from kernlb.engines import abi
from kernlb.engines.building import object_path
from kernlb.engines.dataplane import TC, Dataplane, Sizes

_SMALL = Sizes(services=1, keys=8, servers=8, sources=8, memory_buckets=1, flow_buckets=1)


def try_program() -> None:
    """Raises Unsupported where there is no program or no way to load one, KernelError where the kernel refuses it."""
    Dataplane.load(object_path(), settings=abi.Settings(secret=1), sizes=_SMALL, programs=(TC,)).close()
