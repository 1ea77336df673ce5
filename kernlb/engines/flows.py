"""Connections of full NAT looked at in the program's own table, in place: nothing is copied, nothing is slowed down."""

import mmap
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kernlb.engines import abi, clock
from kernlb.engines.abi import FlowState
from kernlb.engines.maps import Map

_ENTRY = np.dtype(
    {
        "names": ["limit", "seen", "server", "state", "flags"],
        "formats": ["<u2", "<u4", "<u2", "u1", "u1"],
        "offsets": [38, 116, 124, 126, 127],
        "itemsize": abi.FLOW_BUCKET_SIZE // abi.FLOWS_PER_BUCKET,
    }
)
_FORWARD, _COUNTED = 1, 64


def count(flows: Map, timeouts: Sequence[int]) -> Mapping[int, tuple[int, int]]:
    """By server: connections that are established, and others that are still known. Datagrams have no end: others."""
    used = _used(flows)
    states, servers = used["state"], used["server"]
    # A packet may have come since the clock was read.
    age = (np.uint32(clock.now()) - used["seen"]).astype(np.int32)
    fresh = age <= _limits(timeouts)[states]
    numbers = int(servers.max(initial=0)) + 1
    active = np.bincount(servers[fresh & (states == FlowState.ESTABLISHED)], minlength=numbers)
    others = np.bincount(servers[fresh & (states != FlowState.ESTABLISHED)], minlength=numbers)
    return {n: (int(active[n]), int(others[n])) for n in np.nonzero(active + others)[0].tolist()}


def endings(flows: Map, timeouts: Sequence[int]) -> Mapping[int, NDArray[np.int64]]:
    """By limit: the ticks at which the connections that count in it expire, if nothing is heard of them."""
    used = _used(flows)
    live = used[(used["flags"] & _COUNTED).astype(bool) & (used["state"] != FlowState.CLOSED)]
    ends = live["seen"] + _limits(timeouts)[live["state"]]
    by_limit = {int(abi.LimitKind.TOGETHER): ends}
    for kind, numbers in ((abi.LimitKind.SERVICE, live["limit"]), (abi.LimitKind.SERVER, live["server"])):
        by_limit |= {kind | int(number): ends[numbers == number] for number in np.unique(numbers)}
    return by_limit


def _used(flows: Map) -> NDArray[np.void]:
    """One entry a connection. One half of the table is the other direction, and most of it is empty."""
    size = flows.max_entries * abi.FLOW_BUCKET_SIZE
    memory = mmap.mmap(flows.fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
    entries = np.frombuffer(memory, dtype=_ENTRY, count=size // _ENTRY.itemsize)
    used: NDArray[np.void] = entries[(entries["flags"] & _FORWARD).astype(bool) & (entries["state"] != FlowState.FREE)]
    del entries
    memory.close()
    return used


def _limits(timeouts: Sequence[int]) -> NDArray[np.int64]:
    return np.array([*timeouts, *[0] * (256 - len(timeouts))], dtype=np.int64)
