"""Limits on connections as the program counts them. Userland makes and removes them, and never writes into one."""

import struct
from collections.abc import Collection, Mapping

from kernlb.engines import abi
from kernlb.engines.libbpf import Map

_LIVE = struct.Struct("=4xI")


def live(limits: Map) -> Mapping[int, int]:
    """By key: connections that are let in, and had not expired when the program last looked."""
    return {_number(key): _LIVE.unpack_from(limits[key])[0] for key in limits.keys()}  # noqa: SIM118


def keep(limits: Map, wanted: Collection[int]) -> None:
    """These and no others. One that is there goes on counting."""
    known = {_number(key) for key in limits.keys()}  # noqa: SIM118
    for number in set(wanted) - known:
        limits[abi.index(number)] = bytes(limits.value_size)
    for number in known - set(wanted):
        del limits[abi.index(number)]


def _number(key: bytes) -> int:
    return int(struct.unpack("=I", key)[0])
