"""The slots of every service in the kernel's tables, brought to its servers. What is settled is found there."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernlb.engines import Transit, abi, memories
from kernlb.engines.carried import NOBODY, Book, Carried
from kernlb.engines.clock import TICK, seconds_of
from kernlb.engines.dataplane import Dataplane
from kernlb.engines.placement import idle_ticks, name_of, weights
from kernlb.hashing import Assignment, assign
from kernlb.model import Endpoint, Forwarding, ServiceKey
from kernlb.transition import NEVER, Times, Transition

EVERY = 10.0
"""Seconds between looks at what time has ended, at most."""
_REMEMBERED = 16
"""Assignments that are kept because the next one is made faster from them: a megabyte each."""


@dataclass(frozen=True, slots=True)
class _Tracked:
    """What of a transition the kernel's table does not say: since when slots are tracked, when they last changed."""

    slots: NDArray[np.uint32]
    began: Times
    changed: Times


class Slots:
    """Tables are looked at and left again: of a thousand services what is mapped would be much memory."""

    def __init__(self) -> None:
        self._under_way: dict[int, _Tracked] = {}
        self._settled: set[int] = set()
        self._assignments: dict[int, Assignment] = {}
        self._looked = NEVER
        self._swept = NEVER
        self._remembers = True

    def forget(self, number: int) -> None:
        self._under_way.pop(number, None)
        self._settled.discard(number)
        self._assignments.pop(number, None)

    def forget_all(self) -> None:
        self._under_way.clear()
        self._settled.clear()
        self._assignments.clear()
        self._looked = NEVER
        self._remembers = True

    def begin(self, book: Book, plane: Dataplane) -> None:
        """Fill the tables of a program that has none yet: nothing is known of any before."""
        for carried in book.services.values():
            self.forget(carried.id)
            carried.changed = 0.0
        self.move(book, plane, book.services, ())

    def move(self, book: Book, plane: Dataplane, changed: Collection[Endpoint], dead: Collection[int]) -> None:
        """Bring the slots of services that changed to their servers."""
        now = time.monotonic()
        for key in changed:
            carried = book.services[key]
            desired = self._desired(carried, book.slots)
            transition = None if not carried.changed else self._transition(book, plane, carried, now)
            stateful = all(m.value.forwarding is Forwarding.FULLNAT for m in carried.members.values())
            if transition is None or (stateful and not transition.active):
                # Connections of full NAT are known one by one: there is nothing to find out.
                transition = Transition.settled(desired)
            else:
                transition = transition.toward(desired, now=now, dead=dead)
            self._write(book, plane, carried, transition)
            carried.moved(now, under_way=transition.active)

    def settle(self, book: Book, plane: Dataplane, *, unused: Callable[[], Collection[int]]) -> None:
        """What time has ended. `unused` tells the servers that were sent nothing for the idle timeout."""
        now = time.monotonic()
        if now - self._looked < min(EVERY, book.wish.idle / 10):
            return
        self._looked = now
        still = unused()
        for carried in book.services.values():
            if carried.id in self._settled:
                continue
            transition = self._transition(book, plane, carried, now)
            if transition.active:
                used = seconds_of(plane.table(carried.id, book.slots).used(), now=now)
                transition = transition.settle(now=now, idle=book.wish.idle, used=used, unused=still)
            self._write(book, plane, carried, transition)
            if not transition.active:
                carried.settled()
        self._sweep(book, plane, now)

    def _sweep(self, book: Book, plane: Dataplane, now: float) -> None:
        """The memory of the program: a flow of hours ago is not to decide about one of now."""
        if all(carried.id in self._settled for carried in book.services.values()):
            if self._remembers:
                memories.wipe(plane.maps["memories"])
            self._remembers = False
        elif now - self._swept >= memories.EVERY:
            memories.sweep(plane.maps["memories"], idle=idle_ticks(book.wish, TICK))
            self._swept = now

    def transits(self, book: Book, plane: Dataplane) -> dict[ServiceKey, Transit]:
        """The services of which some slots keep the connections of before."""
        now = time.monotonic()
        found: dict[ServiceKey, Transit] = {}
        for key, carried in book.services.items():
            if carried.id in self._settled:
                continue
            transition = self._transition(book, plane, carried, now)
            if transition.active:
                used = seconds_of(plane.table(carried.id, book.slots).used(), now=now)
                found[key] = Transit(
                    slots=int(np.count_nonzero(transition.tracked)),
                    of=book.slots,
                    seconds=max(0.0, transition.ends(idle=book.wish.idle, used=used) - now),
                    before={k: m.value.weight if m.before is None else m.before for k, m in carried.members.items()},
                )
            plane.leave_table(carried.id)
        return found

    def _desired(self, carried: Carried, slots: int) -> np.ndarray:
        known = assign(weights(carried), slots=slots, previous=self._assignments.pop(carried.id, None))
        self._assignments[carried.id] = known
        while len(self._assignments) > _REMEMBERED:
            del self._assignments[next(iter(self._assignments))]
        numbers = {name_of(server): member.id for server, member in carried.members.items()}
        by_owner = np.array([*(numbers[name] for name in known.names), NOBODY], dtype=np.uint16)
        return by_owner[known.owner]

    def _transition(self, book: Book, plane: Dataplane, carried: Carried, now: float) -> Transition:
        """As the table says, and since when: as this process knows, or else as if every slot had just changed."""
        current, marked = plane.table(carried.id, book.slots).read()
        tracked = marked & abi.SLOT_TRACKED != 0
        previous = np.where(tracked, marked & ~np.uint16(abi.SLOT_TRACKED), current).astype(np.uint16)
        began = np.where(tracked, min(carried.changed, now), NEVER)
        changed = began.copy()
        known = self._under_way.get(carried.id)
        if known is not None:
            began[known.slots], changed[known.slots] = known.began, known.changed
        return Transition(current, previous, tracked, began, changed)

    def _write(self, book: Book, plane: Dataplane, carried: Carried, transition: Transition) -> None:
        plane.table(carried.id, book.slots).write(*transition.words())
        if transition.active:
            (slots,) = np.nonzero(transition.tracked)
            known = _Tracked(slots.astype(np.uint32), transition.began[slots], transition.changed[slots])
            self._under_way[carried.id] = known
            self._settled.discard(carried.id)
            self._remembers = True
        else:
            self._under_way.pop(carried.id, None)
            self._settled.add(carried.id)
        plane.leave_table(carried.id)
