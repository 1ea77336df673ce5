"""Work that may hang in the kernel, in threads of its own: nobody waits for them, not even the end of the process."""

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


def begun(work: Callable[[], T], *, last: bool = False) -> "Future[T]":
    """Begins it at once. `last`: the end of the process waits for it."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # who asked may give up, but it goes on

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="kernlb-beside", daemon=not last).start()
    return future


async def beside(work: Callable[[], T], *, last: bool = False) -> T:
    """What comes of it. Cancelled, it goes on by itself."""
    return await asyncio.wrap_future(begun(work, last=last))


class Shared(Generic[T]):
    """By key, and never twice at once: who asks while it is under way gets what comes of that. What hangs so costs one
    thread a key, however often it is asked for."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, Future[T]] = {}

    async def get(self, key: Hashable, work: Callable[[], T]) -> T:
        under_way = self._under_way.get(key)
        if under_way is None or under_way.done():
            under_way = self._under_way[key] = begun(work)
        return await asyncio.wrap_future(under_way)
