"""Which firewall mark belongs to which service: from the configuration's names alone, so that directors agree."""

from collections.abc import Collection, Iterable
from zlib import crc32

SPAN = 1 << 16
"""Marks are base + 0..65535; the upper 16 bits tell kernlb's marks from everybody else's."""


def assign(names: Iterable[str], *, base: int, beside: Collection[int] = ()) -> dict[str, int]:
    """A mark for each name, whatever their order, and none of those in `beside`.

    The number is a hash of the name, so that adding or removing other services moves nobody's mark, but for two
    names that collide (for 1,000 services some 8 pairs): of those the one that sorts later yields.
    Raises ValueError beyond 65,535 marks.
    """
    others = {mark - base for mark in beside}
    taken: dict[int, str] = {}
    for name in sorted(set(names)):
        if len(taken) + len(others) >= SPAN - 1:
            raise ValueError(f"more than {SPAN - 1} marks are needed")
        attempt = 0
        # Offset 0 is left out: with the default base nothing may look like "no service".
        offset = 0
        while not offset or offset in taken or offset in others:
            offset = crc32(f"{name}\0{attempt}".encode()) % (SPAN - 1) + 1
            attempt += 1
        taken[offset] = name
    return {name: base + offset for offset, name in taken.items()}


def is_ours(mark: int, *, base: int) -> bool:
    return mark & ~(SPAN - 1) == base
