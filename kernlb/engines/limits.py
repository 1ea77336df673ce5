"""Limits on connections, as the program counts them: by the step at which a connection expires."""

import struct
from collections.abc import Collection, Mapping, Sequence
from zlib import crc32

import numpy as np

from kernlb.engines import abi, clock, flows
from kernlb.engines.maps import Map

_HEAD = struct.Struct("=4xIIHH")  # the lock, live, step, full, timeouts


def live(limits: Map) -> Mapping[int, int]:
    """By key: connections that are let in, and had not expired when the program last looked."""
    return {_number(key): _HEAD.unpack_from(limits[key])[0] for key in limits.keys()}  # noqa: SIM118


def keep(limits: Map, wanted: Collection[int], *, table: Map, timeouts: Sequence[int]) -> None:
    """These and no others. One that is there goes on counting, unless other timeouts hold now: then, and when it is
    new, it begins with the connections that the program has counted in the flow `table`."""
    mark = crc32(repr(tuple(timeouts)).encode()) & 0xFFFF
    known = {_number(key): _HEAD.unpack_from(limits[key])[3] for key in limits.keys()}  # noqa: SIM118
    anew = [number for number in wanted if known.get(number) != mark]
    if anew:
        endings = flows.endings(table, timeouts)
        shift = abi.step_shift(timeouts)
        now = clock.now() >> shift
        for number in anew:
            steps = endings.get(number, np.zeros(0, dtype=np.int64)) >> shift
            counted = np.bincount(steps[steps >= now] % abi.LIMIT_STEPS, minlength=abi.LIMIT_STEPS)
            head = _HEAD.pack(int(counted.sum()), now, 0, mark)
            limits[abi.index(number)] = head + counted.astype(np.uint32).tobytes()
    for number in known.keys() - set(wanted):
        del limits[abi.index(number)]


def _number(key: bytes) -> int:
    return int(struct.unpack("=I", key)[0])
