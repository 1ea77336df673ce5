"""Those who gave an order and wait until it has been carried out. Knows no orders: futures by service."""

import asyncio
from collections.abc import Mapping

from kernlb.errors import Ending, KernlbError


class Waiters:
    def __init__(self) -> None:
        self._of: list[tuple[str, asyncio.Future[None]]] = []

    def add(self, service: str) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._of.append((service, waiter))
        return waiter

    def take(self) -> "Waiters":
        """Those who are there now; who comes later waits for what is done later."""
        taken = Waiters()
        taken._of, self._of = self._of, []
        return taken

    def settle(self, refused: Mapping[str, KernlbError]) -> None:
        """All is as they want, but for the services refused."""
        for service, waiter in self._of:
            if not waiter.done():
                error = refused.get(service)
                waiter.set_exception(error) if error else waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Cancelled is what the end of the daemon meets."""
        if isinstance(error, asyncio.CancelledError):
            error = Ending("the daemon is ending", hint="give the order again")
        for _, waiter in self._of:
            if not waiter.done():
                waiter.set_exception(error if isinstance(error, KernlbError) else KernlbError(repr(error)))
                waiter.exception()  # who is gone meanwhile leaves it unread
