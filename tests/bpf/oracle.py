"""What may come out of the program for what went in, of many frames at once: a small parser and the laws of checksums.

Sums are taken modulo 0xFFFF (RFC 1071): a checksum that is right makes 0, one that came wrong has to leave as wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernlb.engines.abi import Address
from tests.bpf.mutation import Bytes, Frames, Numbers

Truths = NDArray[np.bool_]

IPV4, IPV6 = 0x0800, 0x86DD
ICMP, TCP, UDP = 1, 6, 17
ICMPS = (1, 58)
_TAGS = (0x8100, 0x88A8)


@dataclass(frozen=True, slots=True)
class Heads:
    """The outermost IP header of each frame. `version` 0: none; `length` is of the whole packet, as its header says."""

    start: Numbers
    version: Numbers
    size: Numbers
    length: Numbers
    ttl: Numbers
    protocol: Numbers
    source: Bytes
    destination: Bytes


def heads(packets: Frames) -> Heads:
    start = np.full(len(packets.lengths), 12)
    for _ in range(2):
        start = np.where(np.isin(_word(packets, start), _TAGS), start + 4, start)
    kind, start = _word(packets, start), start + 2
    version = np.select([kind == IPV4, kind == IPV6], [4, 6], 0)
    head = _part(packets, start, 40)
    old = version == 4
    addresses = np.zeros((2, len(start), 16), dtype=np.uint8)
    for which in (0, 1):
        addresses[which][old, :4] = head[old, 12 + 4 * which : 16 + 4 * which]
        addresses[which][~old] = head[~old, 8 + 16 * which : 24 + 16 * which]
    total, payload = (head[:, at].astype(np.int64) << 8 | head[:, at + 1] for at in (2, 4))
    return Heads(
        start,
        version,
        np.where(old, (head[:, 0] & 15).astype(np.int64) * 4, 40),
        np.where(old, total, payload + 40),
        np.where(old, head[:, 8], head[:, 7]).astype(np.int64),
        np.where(old, head[:, 9], head[:, 6]).astype(np.int64),
        *addresses,
    )


def addressed(found: Heads, ours: Sequence[Address]) -> Truths:
    """To one of our addresses."""
    answer = np.zeros(len(found.start), dtype=np.bool_)
    for address in ours:
        packed = np.frombuffer(address.packed.ljust(16, b"\0"), dtype=np.uint8)
        answer |= (found.version == address.version) & (found.destination == packed).all(axis=1)
    return answer


def well_formed(packets: Frames, found: Heads) -> Truths:
    """A version that its type promises, and lengths that lie within each other and within the frame."""
    nibble = _part(packets, found.start, 1)[:, 0] >> 4
    room = packets.lengths - found.start
    lengths = (found.size >= 20) & (found.size <= found.length) & (found.length <= room)
    answer: Truths = (found.version != 0) & (nibble == found.version) & lengths
    return answer


def head_sum(packets: Frames, found: Heads) -> Numbers:
    """Of the IPv4 header; of IPv6, which has no checksum, 0."""
    return np.where(found.version == 4, _sum(packets, found.start, found.size), 0)


def transport_sum(packets: Frames, found: Heads) -> Numbers:
    """Of TCP or UDP with its pseudo header, or of ICMP of IPv4."""
    at, length = found.start + found.size, found.length - found.size
    pseudo = found.protocol + length
    for address in (found.source, found.destination):
        pseudo = pseudo + (address.reshape(len(at), 8, 2).astype(np.int64) * (256, 1)).sum(axis=(1, 2))
    plain = (found.version == 4) & (found.protocol == ICMP)
    return (_sum(packets, at, length) + np.where(plain, 0, pseudo)) % 0xFFFF


def without_checksum(packets: Frames, found: Heads) -> Truths:
    """UDP that says it has none."""
    answer: Truths = (found.protocol == UDP) & (_word(packets, found.start + found.size + 6) == 0)
    return answer


def carried_unchanged(packets: Frames, before: Heads, out: Frames, grown: Numbers) -> Truths:
    """From `grown` bytes behind the new frame's IP header on: what came, but for one hop less and its checksum."""
    width = packets.rows.shape[1]
    longest = int((packets.lengths - before.start).max(initial=0))
    came, went = _part(packets, before.start, longest), _part(out, before.start + grown, longest)
    may = np.zeros((len(grown), longest), dtype=np.bool_)
    old = before.version == 4
    may[old, 8], may[~old, 7] = True, True
    may[old, 10:12] = True
    hop = np.where(old, 8, 7)
    each = np.arange(len(grown))
    fewer = went[each, hop] + 1 == came[each, hop].astype(np.int64)
    inner = _sum(out, before.start + grown, before.size)
    sums = ~old | (inner == _sum(packets, before.start, before.size))
    fits = out.lengths == np.minimum(packets.lengths + grown, width)
    answer: Truths = ((came == went) | may).all(axis=1) & fewer & sums & fits
    return answer


def _part(packets: Frames, start: Numbers, size: int) -> Bytes:
    """`size` bytes from `start` on of each frame; zero beyond its end."""
    columns = start[:, None] + np.arange(size)
    inside = columns < packets.rows.shape[1]
    found: Bytes = np.take_along_axis(packets.rows, np.where(inside, columns, 0), axis=1)
    return np.where(inside & (columns < packets.lengths[:, None]), found, 0).astype(np.uint8)


def _word(packets: Frames, start: Numbers) -> Numbers:
    two = _part(packets, start, 2).astype(np.int64)
    return two[:, 0] << 8 | two[:, 1]


def _sum(packets: Frames, start: Numbers, length: Numbers) -> Numbers:
    longest = int(length.max(initial=0)) + 1 & ~1
    part = np.where(np.arange(longest) < length[:, None], _part(packets, start, longest), 0)
    summed: Numbers = (part.reshape(len(start), -1, 2).astype(np.int64) * (256, 1)).sum(axis=(1, 2)) % 0xFFFF
    return summed
