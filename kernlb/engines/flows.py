"""Connections of full NAT counted in the program's own table, in place: nothing is copied, nothing is slowed down."""

import mmap
from collections.abc import Mapping, Sequence

import numpy as np

from kernlb.engines import abi, clock
from kernlb.engines.abi import FlowState
from kernlb.engines.libbpf import Map

_SIZE = abi.FLOW_BUCKET_SIZE // abi.FLOWS_PER_BUCKET
_SEEN, _SERVER, _STATE, _FLAGS = 116, 124, 126, 127
_FORWARD = 1


def count(flows: Map, timeouts: Sequence[int]) -> Mapping[int, tuple[int, int]]:
    """By server: connections that are established, and others that are still known. Datagrams have no end: others."""
    memory = mmap.mmap(flows.fd, _pages(flows.max_entries * abi.FLOW_BUCKET_SIZE), mmap.MAP_SHARED, mmap.PROT_READ)
    entries = np.frombuffer(memory, dtype=np.uint8, count=flows.max_entries * abi.FLOW_BUCKET_SIZE).reshape(-1, _SIZE)
    # One half of the table is the other direction, and most of it is empty: look at what is used only.
    used = entries[(entries[:, _FLAGS] & _FORWARD).astype(bool) & (entries[:, _STATE] != FlowState.FREE)]
    del entries
    memory.close()
    states = used[:, _STATE]
    seen = used[:, _SEEN : _SEEN + 4].copy().view(np.uint32).ravel()
    servers = used[:, _SERVER : _SERVER + 2].copy().view(np.uint16).ravel()
    limits = np.array([*timeouts, *[0] * (256 - len(timeouts))], dtype=np.int64)[states]
    # A packet may have come since the clock was read.
    age = (np.uint32(clock.now()) - seen).astype(np.int32)
    fresh = age <= limits
    numbers = int(servers.max(initial=0)) + 1
    active = np.bincount(servers[fresh & (states == FlowState.ESTABLISHED)], minlength=numbers)
    others = np.bincount(servers[fresh & (states != FlowState.ESTABLISHED)], minlength=numbers)
    return {n: (int(active[n]), int(others[n])) for n in np.nonzero(active + others)[0].tolist()}


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
