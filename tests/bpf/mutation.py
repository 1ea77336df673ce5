"""Packets mutated and run through a program many at a time: arrays of frames, one raw system call a frame."""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]

_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_TEST_RUN = 10
_ATTRIBUTES = np.dtype({
    "names": ["program", "verdict", "size_in", "size_out", "data_in", "data_out"],
    "formats": ["u4", "u4", "u4", "u4", "u8", "u8"],
    "offsets": [0, 4, 8, 12, 16, 24],
    "itemsize": 80,
})  # fmt: skip
"""The head of what `union bpf_attr` has for BPF_PROG_TEST_RUN (linux/bpf.h)."""
_GROWTH = 128
_TURNS, _LONGEST_TAIL = 4, 64
_SPECIAL = np.array([[0, 0], [0xFF, 0xFF], [0x7F, 0xFF], [0, 1]], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Frames:
    """A frame a row; what is beyond its length is zero."""

    rows: Bytes
    lengths: Numbers

    def __getitem__(self, which: NDArray[np.bool_]) -> "Frames":
        return Frames(self.rows[which], self.lengths[which])

    def frame(self, number: int) -> bytes:
        return self.rows[number, : self.lengths[number]].tobytes()

    def within(self) -> NDArray[np.bool_]:
        return np.arange(self.rows.shape[1]) < self.lengths[:, None]


def frames(packets: Sequence[bytes]) -> Frames:
    """With room for what mutations and outer headers add."""
    lengths = np.array([len(packet) for packet in packets])
    width = int(lengths.max()) + _TURNS * _LONGEST_TAIL + _GROWTH
    rows = np.zeros((len(packets), width), dtype=np.uint8)
    for number, packet in enumerate(packets):
        rows[number, : len(packet)] = np.frombuffer(packet, dtype=np.uint8)
    return Frames(rows, lengths)


def mutated(dice: np.random.Generator, seeds: Frames, count: int, *, shortest: int) -> Frames:
    """One to four mutations each: bytes, bits, special values, an end that is cut off or added."""
    chosen = np.arange(count) % len(seeds.lengths)
    rows, lengths = seeds.rows[chosen], seeds.lengths[chosen]
    each = np.arange(count)
    mutations = dice.integers(1, _TURNS + 1, count)
    for turn in range(_TURNS):
        kind = np.where(mutations > turn, dice.integers(0, 5, count), -1)
        place = (12 + dice.random(count) * (lengths - 12)).astype(np.int64)
        near = (12 + dice.random(count) * (np.minimum(lengths, 80) - 12)).astype(np.int64)
        noise = dice.integers(0, 256, count).astype(np.uint8)
        rows[each[kind == 0], place[kind == 0]] = noise[kind == 0]
        rows[each[kind == 1], near[kind == 1]] ^= (1 << (noise[kind == 1] & 7)).astype(np.uint8)
        special = (kind == 4) & (lengths > 40)
        pair = np.clip(place[special], 14, lengths[special] - 2)
        values = _SPECIAL[dice.integers(0, len(_SPECIAL), len(pair))]
        rows[each[special], pair], rows[each[special], pair + 1] = values[:, 0], values[:, 1]
        lengths = np.where(kind == 2, np.maximum(14, place), lengths)
        (grown,) = np.nonzero(kind == 3)
        tails = dice.integers(0, 256, (len(grown), _LONGEST_TAIL), dtype=np.uint8)
        rows[grown[:, None], lengths[grown, None] + np.arange(_LONGEST_TAIL)] = tails
        lengths = np.where(kind == 3, lengths + dice.integers(0, _LONGEST_TAIL, count), lengths)
    rows[np.arange(rows.shape[1]) >= lengths[:, None]] = 0
    # The kernel takes no shorter frame for a test run.
    return Frames(rows, np.maximum(lengths, shortest))


def run(program: int, packets: Frames) -> tuple[NDArray[np.uint32], Frames]:
    """Verdicts and what became of the packets, in order. Raises OSError where the kernel refuses to run one."""
    count, width = packets.rows.shape
    given = np.ascontiguousarray(packets.rows)
    out = np.zeros((count, width), dtype=np.uint8)
    attributes = np.zeros(count, dtype=_ATTRIBUTES)
    attributes["program"], attributes["size_in"], attributes["size_out"] = program, packets.lengths, width
    attributes["data_in"] = given.ctypes.data + np.arange(count) * width
    attributes["data_out"] = out.ctypes.data + np.arange(count) * width
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
    number, size, first = _SYS_BPF[os.uname().machine], attributes.itemsize, attributes.ctypes.data
    for place in range(first, first + count * size, size):
        if call(number, _PROG_TEST_RUN, place, size):
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno), packets.frame((place - first) // size).hex())
    return attributes["verdict"].copy(), Frames(out, attributes["size_out"].astype(np.int64))
