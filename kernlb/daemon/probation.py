"""A configuration that goes again unless somebody confirms it in time: whoever locked himself out cannot."""

import asyncio
from collections.abc import Awaitable, Callable

PutBack = Callable[[], Awaitable[None]]


class Probation:
    """One at a time. Needs a running loop once it begins."""

    def __init__(self) -> None:
        self._timer: asyncio.Task[None] | None = None
        self._put_back: PutBack | None = None

    def begin(self, seconds: float, put_back: PutBack) -> None:
        self.passed()
        self._put_back = put_back
        self._timer = asyncio.get_running_loop().create_task(self._wait(seconds), name="probation")

    def passed(self) -> bool:
        """What is in force stays. Whether anything was on probation."""
        timer, self._timer, self._put_back = self._timer, None, None
        if timer is not None and timer is not asyncio.current_task():
            timer.cancel()
        return timer is not None

    async def failed(self) -> bool:
        """What was in force before comes back, now. Whether anything was on probation."""
        put_back = self._put_back
        self.passed()
        if put_back is not None:
            await put_back()
        return put_back is not None

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.failed()
