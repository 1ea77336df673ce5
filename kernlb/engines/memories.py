"""What the program remembers of flows through slots in transition, forgotten before its clock comes round.

A memory tells its age in 14 bits of ticks (bpf/memory.h): after four and a half hours an old one would look fresh.
"""

import mmap

import numpy as np
from numpy.typing import NDArray

from kernlb.engines import abi, clock
from kernlb.engines.maps import Map

EVERY = 3600.0
"""Seconds between sweeps, at most: less than the clock has beyond the longest idle timeout, half of it."""

_AHEAD = 16  # ticks that a packet may have come after the clock was read
_PAGE = 512


def wipe(memories: Map) -> None:
    """Everything, where no slot is in transition: the program asks for no memory then."""
    _words(memories)[:] = 0


def sweep(memories: Map, *, idle: int) -> None:
    """What is older than `idle` ticks, and so decides nothing. The program writes on, there first of all: a page at a
    time, so that next to nothing comes between the look and the zero."""
    words = _words(memories)
    for start in range(0, len(words), _PAGE):
        page = words[start : start + _PAGE]
        age = (np.uint64(clock.now()) - page) & np.uint64(abi.TICK_MASK)
        page[(age > idle) & (age <= abi.TICK_MASK - _AHEAD)] = 0


def _words(memories: Map) -> NDArray[np.uint64]:
    """In place, and mapped for as long as they are referred to."""
    size = memories.max_entries * memories.value_size
    mapped = mmap.mmap(memories.fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    return np.frombuffer(mapped, dtype=np.uint64, count=size // 8)
