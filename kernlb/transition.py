"""How a table gives way to another without moving a flow that is in use. Pure: times come in as numbers of seconds.

A slot has a current server, which gets what is new, and a previous one, which has what was there before. From when
its server changes a slot is tracked: the program remembers the server of every flow it sees (bpf/table.h).

1. The current server may change at any time, at once: the flows it got are in the memory.
2. The previous one stays for `idle` seconds: flows that the memory does not know yet are its own. After that every
   flow in use has been seen, and the previous server becomes the current one, and the slot is still tracked.
3. A slot stops being tracked when for `idle` seconds neither it changed nor a flow used another server than that one.
4. A dead server is neither current nor previous anywhere, at once.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernlb.engines.abi import SLOT_TRACKED

Slots = NDArray[np.uint16]
Times = NDArray[np.float64]

NEVER = -np.inf


@dataclass(frozen=True, slots=True)
class Transition:
    """By slot: server numbers, whether it is tracked, since when, and when it last changed."""

    current: Slots
    previous: Slots
    tracked: NDArray[np.bool_]
    began: Times
    changed: Times

    @classmethod
    def settled(cls, table: Slots) -> "Transition":
        """A table without history."""
        never = np.full(len(table), NEVER)
        return cls(table.copy(), table.copy(), np.zeros(len(table), dtype=np.bool_), never, never.copy())

    @property
    def active(self) -> bool:
        return bool(self.tracked.any())

    def words(self) -> tuple[Slots, Slots]:
        """What the kernel's slots say: current, and previous with the mark of a tracked slot."""
        return self.current, np.where(self.tracked, self.previous | np.uint16(SLOT_TRACKED), self.current)

    def toward(self, desired: Slots, *, now: float, dead: Collection[int] = ()) -> "Transition":
        """The slots with the desired servers, which are alive; flows of those in `dead` are given up."""
        gone = np.isin(self.previous, list(dead))
        died = np.isin(self.current, list(dead))
        moving = desired != self.current
        begins = moving & ~self.tracked & ~died
        previous = np.where(begins, self.current, self.previous)
        previous = np.where(gone & ~begins, desired, previous)
        # A settled slot whose server died has nobody left to keep.
        tracked = self.tracked | begins
        previous = np.where(tracked, previous, desired).astype(np.uint16)
        return Transition(
            desired.astype(np.uint16),
            previous,
            tracked,
            np.where(begins, now, self.began),
            np.where(moving & tracked, now, self.changed),
        )

    def settle(self, *, now: float, idle: float, used: Times, unused: Collection[int] = ()) -> "Transition":
        """What time has ended. `used`: when each slot last sent a packet to a server that is not its current.

        `unused`: servers that got no packet at all for `idle` seconds: nothing of theirs is left to remember.
        """
        seen_all = self.tracked & ((now - self.began >= idle) | np.isin(self.previous, list(unused)))
        previous = np.where(seen_all, self.current, self.previous).astype(np.uint16)
        quiet = now - np.maximum(self.changed, used) >= idle
        ends = seen_all & (quiet | self._only_unused(unused))
        return Transition(self.current, previous, self.tracked & ~ends, self.began, self.changed)

    def ends(self, *, idle: float, used: Times) -> float:
        """When nothing will be tracked any more, at the earliest."""
        last = np.maximum(np.maximum(self.began, self.changed), used)[self.tracked]
        return float(last.max(initial=NEVER)) + idle

    def _only_unused(self, unused: Collection[int]) -> NDArray[np.bool_]:
        """Slots that changed once, from a server that nobody used: there is no third server to remember."""
        only: NDArray[np.bool_] = (self.changed == self.began) & np.isin(self.previous, list(unused))
        return only
