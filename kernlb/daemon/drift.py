"""Watches for changes that others make to the kernel. Repairs nothing: it wakes the loop that does."""

import asyncio
from collections.abc import Callable
from socket import socket

from kernlb.daemon.writer import Writer
from kernlb.errors import KernlbError

EVERY = 1.0
"""Seconds between looks at what sends no notifications."""


class Drift:
    def __init__(
        self, writer: Writer, *, wake: Callable[[], None], complain: Callable[[str, KernlbError], None]
    ) -> None:
        self._writer = writer
        self._wake = wake
        self._complain = complain

    async def keep_watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            try:
                if await self._writer.changed():
                    self._wake()
            except KernlbError as error:
                self._complain("watch", error)
            except Exception as error:  # A defect here must not end what the daemon does for the rest.
                self._complain("watch", KernlbError(repr(error)))

    def listen(self) -> None:
        """For notifications of the kernel that the writer has now."""
        loop = asyncio.get_running_loop()
        for sock in self._writer.signs.sockets():
            loop.add_reader(sock.fileno(), self._heed, sock)

    def deaf(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._writer.signs.sockets():
            loop.remove_reader(sock.fileno())

    def _heed(self, sock: socket) -> None:
        if self._writer.signs.heed(sock):
            self._wake()
