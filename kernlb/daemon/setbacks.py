"""What the kernel refused lately, and when it is tried again. Knows no clock of its own: monotonic seconds come in."""

from kernlb.errors import KernlbError

BACK_OFF = 30.0
"""Seconds at most between attempts to write what the kernel refused."""


class Setbacks:
    """`error` is the last refusal, None once all is as wanted. `blocked`: nothing at all could be done."""

    def __init__(self) -> None:
        self.error: KernlbError | None = None
        self.count = 0
        self.blocked = False
        self.retry = float("inf")

    def add(self, error: KernlbError, now: float, *, blocked: bool) -> float:
        """Seconds until the next attempt."""
        self.count += 1
        self.error, self.blocked = error, blocked
        pause = min(BACK_OFF, 0.25 * 2.0 ** min(self.count, 10))
        self.retry = now + pause
        return pause

    def tried(self, now: float, *, refused: bool) -> bool:
        """Whether what a step has done may be what was refused before it. `refused`: something still is."""
        return self.error is not None and (not refused or now >= self.retry)

    def over(self) -> int:
        """How many attempts it took."""
        count, self.count = self.count, 0
        self.error, self.blocked, self.retry = None, False, float("inf")
        return count
