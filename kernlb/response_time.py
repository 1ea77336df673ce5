"""Least response time: weights that follow how fast servers answer. No clock: samples and times in, factors out.

A server's share is to be proportional to 1 / (floor + smoothed time). Reference is the median server, so that one odd
server moves its own weight and not everybody's. Three things keep the loop from swinging, since a weight changes
the very time it is made from: a difference must exceed both `band` and the noise of what it is made from; after a move,
new samples must outweigh those of before; a server that is pushed to and fro is moved by ever smaller parts.
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from math import exp, hypot, log, sqrt
from statistics import median_low
from typing import Generic, TypeVar

UNIT = 100  # the kernel's weight of a server of configured weight 1 at factor 1

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    floor: float = 0.001  # seconds; makes microsecond differences equal
    least: float = 0.1  # no factor below
    greatest: float = 10.0  # nor above
    step: float = 1.5  # the most that a factor changes at once
    threshold: float = 0.1  # smaller changes are not made
    band: float = 0.15  # logarithm of the ratio of times below which they count as equal
    memory: float = 40.0  # seconds of the mean
    certainty: float = 4.0  # standard errors that a difference must exceed
    settling: int = 3  # samples between two moves of a server; more of one that swings
    stale: float = 30.0  # seconds after which samples begin to count less
    caution: float = 0.1  # the least part of a difference that a swinging server is moved by
    calm: float = 600.0  # seconds in which caution wears off


DEFAULT = Tuning()
DOUBT = 0.3  # standard deviation of a sample's logarithm, until samples tell
_SLOWER = 2  # times the mean's memory is the variance's
_INSTANT = 1e-9  # seconds; no sample counts as less


class _Course:
    """One server: its smoothed time, and where its factor stands."""

    __slots__ = ("at", "count", "direction", "factor", "gain", "last", "mean", "moved", "spread", "variance")

    def __init__(self) -> None:
        self.mean = 0.0
        self.last = _INSTANT  # the newest sample
        self.variance = DOUBT**2  # of the samples' logarithms
        self.spread = 1.0  # the sum of their squared weights in the mean
        self.count = 0  # samples that count since the last move
        self.at: float | None = None
        self.factor = 1.0
        self.direction = 0
        self.moved: float | None = None
        self.gain = 1.0  # the part of a difference that a move makes up for

    def take(self, seconds: float, now: float, memory: float) -> None:
        seconds = max(seconds, _INSTANT)
        if self.at is None:
            self.mean, self.last, self.count, self.at = seconds, seconds, 1, now
            return
        self.count += 1
        weight = max(1 - exp(-max(now - self.at, 0.0) / memory), 1 / self.count)
        # From one sample to the next: a server that becomes slow for good does not count as a noisy one.
        jump = log(seconds / self.last)
        self.variance += weight / _SLOWER * (jump * jump / 2 - self.variance)
        self.last = seconds
        self.mean += weight * (seconds - self.mean)
        self.spread = (1 - weight) ** 2 * self.spread + weight * weight
        self.at = now

    def error(self, usual: float, floor: float) -> float:
        """The mean's standard error, relative to what it is compared by; of no less a variance than is usual."""
        return sqrt(max(self.variance, usual) * self.spread) * self.mean / (floor + self.mean)


@dataclass(frozen=True, slots=True)
class _Usual:
    """The median server: its time with the floor, that time's relative error, and the median of variances."""

    seconds: float
    error: float
    variance: float

    @classmethod
    def of(cls, courses: Sequence[_Course], floor: float) -> "_Usual":
        variance = median_low(course.variance for course in courses)
        middle = sorted(courses, key=lambda course: course.mean)[(len(courses) - 1) // 2]
        return cls(floor + middle.mean, middle.error(variance, floor), variance)


class ResponseTimes(Generic[K]):
    """The servers of one service. Feed `sample`; call `adjust` every second or two; read `factor`."""

    def __init__(self, tuning: Tuning = DEFAULT) -> None:
        self._tuning = tuning
        self._courses: dict[K, _Course] = {}

    def sample(self, server: K, seconds: float, now: float) -> None:
        course = self._courses.get(server)
        if course is None:
            course = self._courses[server] = _Course()
        course.take(seconds, now, self._tuning.memory)

    def forget(self, server: K) -> None:
        """It left, or went down: when it comes back, nothing is known of it."""
        self._courses.pop(server, None)

    def adopt(self, server: K, factor: float, now: float) -> None:
        """Where a server stood before a restart; it stays there until there are samples."""
        course = self._courses[server] = _Course()
        course.factor, course.moved = factor, now

    def factor(self, server: K) -> float:
        """What to multiply the configured weight by; 1 for a server of which nothing is known."""
        course = self._courses.get(server)
        return 1.0 if course is None else course.factor

    def smoothed(self, server: K) -> float | None:
        """Seconds."""
        course = self._courses.get(server)
        return None if course is None else course.mean

    def adjust(self, servers: Collection[K], now: float) -> bool:
        """One step toward proportion among the serving ones; whether any factor changed."""
        known = (course for server in servers if (course := self._courses.get(server)) is not None)
        courses = [course for course in known if course.at is not None]
        if not courses:
            return False
        usual = _Usual.of(courses, self._tuning.floor)
        moves = [(course, factor) for course in courses if (factor := self._next(course, usual, now)) != course.factor]
        for course, factor in moves:
            self._move(course, factor, now)
        if moves:
            for course in courses:
                course.count = 1  # the load has moved between them all
        return bool(moves)

    def _next(self, course: _Course, usual: _Usual, now: float) -> float:
        tuning = self._tuning
        if course.count <= tuning.settling / course.gain and self._freshness(course, now) == 1:
            return course.factor
        error = hypot(course.error(usual.variance, tuning.floor), usual.error)
        band = max(tuning.band, tuning.certainty * error)
        target = log(usual.seconds / (tuning.floor + course.mean)) * self._freshness(course, now)
        target = min(max(target, log(tuning.least)), log(tuning.greatest))
        here = log(course.factor)
        # Equal is a resting place: left only for a difference beyond the band, returned to within half of it.
        if abs(target) < (band if course.factor == 1 else band / 2):
            target, band = 0.0, 0.0
        if abs(target - here) < max(band, log(1 + tuning.threshold)):
            return course.factor
        most, least = log(tuning.step), log(1 + tuning.threshold)
        change = (target - here) * self._gain(course, 1 if target > here else -1, now)
        if abs(change) < least:
            return course.factor
        landing = here + min(max(change, -most), most)
        # Short of equal no later step could be large enough to go the rest of the way.
        return exp(landing) if abs(landing) >= least else 1.0

    def _gain(self, course: _Course, direction: int, now: float) -> float:
        """Halved where a server is to go back where it came from, raised where it goes on."""
        tuning = self._tuning
        if course.moved is None or self._freshness(course, now) < 1:
            return 1.0
        calmed = 1 - (1 - course.gain) * exp(-(now - course.moved) / tuning.calm)
        return max(calmed / 2, tuning.caution) if direction == -course.direction else min(calmed * 1.5, 1.0)

    def _freshness(self, course: _Course, now: float) -> float:
        """1 while samples are young, toward 0 as they age."""
        age = now - (now if course.at is None else course.at)
        return 1.0 if age <= self._tuning.stale else exp(1 - age / self._tuning.stale)

    def _move(self, course: _Course, factor: float, now: float) -> None:
        direction = 1 if factor > course.factor else -1
        course.gain = self._gain(course, direction, now)
        course.direction, course.factor, course.moved = direction, factor, now


def kernel_weight(configured: int, factor: float) -> int:
    """The integer that the kernel gets for a server that is up; at least 1, unless 0 was configured."""
    return max(round(configured * UNIT * factor), 1) if configured > 0 else 0
