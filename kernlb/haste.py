"""When the probes of a suspected target follow one another, and how soon a fall in haste is undone. No clock: times in.

Suspected, a target is probed `fall` times, none of which waits for the verdict of another; a good one ends it. Where it
refuses they follow fast. While nothing comes they are spread, so that no short gap on the way swallows all of them.
"""

from typing import Generic, TypeVar

from kernlb.health import Health

HURRY = 0.1  # seconds between the starts of hurried probes
SPREAD = 0.4  # seconds over which they start at least, while nothing answers
FORGIVING = 10.0  # seconds between two hurried falls that are undone in a hurry: who flaps has to wait


W = TypeVar("W")


class Haste(Generic[W]):
    """`accused` is whom the suspicion means that arose at `began`; `left` probes of it are to follow. `pace` is the
    interval of the probes after a hurried fall: it doubles with each that fails."""

    __slots__ = ("accused", "began", "fell", "left", "pace")

    def __init__(self, accused: W) -> None:
        self.accused = accused
        self.began: float | None = None
        self.left = 0
        self.pace: float | None = None
        self.fell = float("-inf")

    def suspect(self, accused: W, *, fall: int, now: float) -> None:
        self.accused, self.began, self.left = accused, now, fall

    def end(self) -> None:
        """There is nothing in the suspicion, or not against this target."""
        self.began, self.left = None, 0

    def gap(self, fall: int) -> float:
        """Seconds from the start of a probe to the next, while none is answered."""
        return max(HURRY, SPREAD / max(1, fall - 1))

    def interval(self, health: Health, *, started: float, fell: bool, now: float) -> float:
        """Seconds to the next probe after a verdict, which `health` knows already, on a probe that `started` then.
        `fell`: that verdict took the target down."""
        usual = health.interval
        if self.began is not None:
            # What was under way when the suspicion arose may be of the time before.
            if not fell and (health.in_transition or started < self.began):
                return min(usual, HURRY)
            self.end()
            if fell:
                self.pace = HURRY if now - self.fell > FORGIVING else None
                self.fell = now
        elif self.pace is not None and started >= self.fell and not health.in_transition:
            self.pace = 2 * self.pace if health.down else None
        if self.pace is None:
            return usual
        if self.pace >= usual:
            self.pace = None
            return usual
        return min(usual, HURRY if health.in_transition else self.pace)
