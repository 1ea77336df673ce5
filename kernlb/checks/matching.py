"""Whether received bytes hold what a check wants, in bounded time: a hostile answer cannot stall an expression."""

import time
from functools import lru_cache

import regex

from kernlb.checks.dialogue import Failed
from kernlb.checks.spec import Match
from kernlb.checks.verdict import Code

PATIENCE = 0.04  # seconds that the expressions of one probe may take together


class Matcher:
    """Judges one probe's answers; their time counts together."""

    def __init__(self, match: Match) -> None:
        self._match = match
        self._left = PATIENCE

    def found(self, data: bytes) -> bool:
        """Whether `data` holds it, `negate` apart. Failed where the expression takes too long."""
        if self._match.text is not None and self._match.text not in data:
            return False
        return self._match.pattern is None or self._searched(self._match.pattern, data)

    def satisfied(self, data: bytes) -> bool:
        return self.found(data) is not self._match.negate

    @property
    def complaint(self) -> str:
        match = self._match
        wanted = repr(match.pattern) if match.pattern is not None else repr((match.text or b"").decode("latin-1"))
        return f"answered with {wanted}" if match.negate else f"answered without {wanted}"

    def _searched(self, pattern: str, data: bytes) -> bool:
        started = time.monotonic()
        try:
            if self._left <= 0:
                raise TimeoutError
            return _compiled(pattern).search(data, timeout=self._left) is not None
        except TimeoutError:
            raise Failed(Code.L7RSP, f"the expression {pattern!r} takes too long on this answer") from None
        finally:
            self._left -= time.monotonic() - started


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> "regex.Pattern[bytes]":
    return regex.compile(pattern.encode())
