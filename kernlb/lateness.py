"""How late things began, by milliseconds. No clock: seconds in, quantiles out."""

LONGEST = 1000
"""Milliseconds; what is later counts as this."""


class Lateness:
    def __init__(self) -> None:
        self._counts = [0] * (LONGEST + 1)

    def add(self, seconds: float) -> None:
        self._counts[min(int(seconds * 1000), LONGEST)] += 1

    def quantile(self, share: float) -> float:
        """Seconds that `share` of all were late by at most."""
        left = share * sum(self._counts)
        for milliseconds, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return milliseconds / 1000
        return LONGEST / 1000
