"""What is due when. Things wait in buckets of `TICK` seconds, so that a round of ten thousand costs a few hundred
wake-ups. Knows nothing of what is done then."""

import asyncio
import heapq
from collections.abc import Callable
from math import ceil
from typing import Generic, Protocol, TypeVar

TICK = 0.02  # seconds
GOLDEN = 0.6180339887498949  # its multiples spread evenly, however many there are


def spread_evenly(index: int) -> float:
    """Where in the first round the index-th target starts, 0..1: even for any number of targets."""
    return index * GOLDEN % 1.0


def latest_beat(since: float, interval: float, now: float) -> float:
    """The last of `since` and every `interval` after it that is not after `now`, at least `since`. Who starts by it
    keeps his phase however late he is: neither do rounds drift, nor do all start together after a stall."""
    return since if now < since + interval else now - (now - since) % interval


class Due(Protocol):
    """`due` is in the loop's time; `tick` names the bucket that counts, 0 where it waits in none."""

    due: float
    tick: int


D = TypeVar("D", bound=Due)


class Agenda(Generic[D]):
    """Made inside a running event loop; `turn` is called with what is due and the time."""

    def __init__(self, turn: Callable[[list[D], float], None]) -> None:
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self._buckets: dict[int, list[D]] = {}
        self._ticks: list[int] = []
        self._wake: asyncio.TimerHandle | None = None

    def put(self, item: D, due: float) -> None:
        """Wherever it stood before, this is its place now."""
        tick = ceil(due / TICK)
        item.due, item.tick = due, tick
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.append(item)
            return
        self._buckets[tick] = [item]
        heapq.heappush(self._ticks, tick)
        if self._ticks[0] == tick:
            self._set_wake()

    def sooner(self, item: D, due: float) -> None:
        """As `put`, unless it is due by then anyway."""
        if ceil(due / TICK) < item.tick:
            self.put(item, due)

    def close(self) -> None:
        if self._wake is not None:
            self._wake.cancel()

    def _set_wake(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake = self._loop.call_at(self._ticks[0] * TICK, self._wakened) if self._ticks else None

    def _wakened(self) -> None:
        self._wake = None
        now = self._loop.time()
        tick_now = int(now / TICK + 1e-6)
        due: list[D] = []
        while self._ticks and self._ticks[0] <= tick_now:
            tick = heapq.heappop(self._ticks)
            for item in self._buckets.pop(tick):
                # What was moved stands in two places, maybe of one bucket; only its latest counts, and once.
                if item.tick == tick:
                    item.tick = 0
                    due.append(item)
        self._turn(due, now)
        if self._wake is None:
            self._set_wake()
