"""Work for the loop that runs the checks: a little at a time, and whatever is due in between.

Not a thread: whoever calls the system there gives the interpreter away, and a thread that computes keeps it for a while
each time, so that a turn of the loop with many system calls would take as long as all of the thread's work.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

TURN = 0.004
"""Seconds at a time."""
FRESH = 0.5
"""Seconds for which an answer is good enough."""


async def unhurried(work: Iterable[T]) -> list[T]:
    """All that comes of it."""
    found = []
    began = time.monotonic()
    for each in work:
        found.append(each)
        if time.monotonic() - began > TURN:
            await asyncio.sleep(0)
            began = time.monotonic()
    return found


class Answer(Generic[T]):
    """One answer for all who ask within FRESH. Whoever asks after the `version` has changed gets another."""

    def __init__(self, make: Callable[[], Awaitable[T]], *, version: Callable[[], object] = lambda: None) -> None:
        self._make = make
        self._version = version
        self._made: tuple[float, object, T] | None = None  # and when it was begun, of which version
        self._making = asyncio.Lock()

    async def get(self) -> T:
        asked = time.monotonic()
        async with self._making:
            began, version = time.monotonic(), self._version()
            if self._made is not None:
                before, of, made = self._made
                if before >= asked or (began - before < FRESH and of == version):
                    return made
            made = await self._make()
            self._made = began, version, made
            return made
