"""What systemd is told of a daemon: READY once the kernel is as wanted and orders are taken, and a line of status."""

import time
from collections.abc import Callable, Collection

from kernlb.errors import KernlbError
from kernlb.systemd import Notifier

GRACE = 30.0
"""Seconds after which services that are refused hold up READY no longer: the others are served and checked."""


class Readiness:
    def __init__(self, notifier: Notifier, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._notifier = notifier
        self._clock = clock
        self._began = clock()
        self._serving = False
        self._reconciled = False

    def serve(self) -> None:
        """Orders are taken from now on."""
        self._serving = True
        self._tell()

    def reconciled(self, line: str) -> None:
        self._reconciled = True
        self._notifier.status(line)
        self._tell()

    def refused(self, names: Collection[str]) -> None:
        """All but these are as wanted."""
        self._reconciled = self._clock() - self._began >= GRACE
        self._notifier.status(f"{len(names)} not as wanted: {', '.join(list(names)[:5])}")
        self._tell()

    def failed(self, error: KernlbError) -> None:
        """Nothing could be done."""
        self._reconciled = False
        self._notifier.status(f"the kernel is not as wanted: {error.message}")

    def _tell(self) -> None:
        if self._serving and self._reconciled:
            self._notifier.ready()
