"""Counters that outlive their servers' stay in the kernel: what was counted before a removal is carried. No kernel."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter

from kernlb.counters import Counters
from kernlb.model import Key

_TOTALS = ("connections", "packets_in", "packets_out", "bytes_in", "bytes_out")
_totals = attrgetter(*_TOTALS)


@dataclass(frozen=True, slots=True)
class Known:
    """What a restart must not lose: what the kernel knows no more, and what it counted when it was last asked."""

    carried: Mapping[Key, Counters]
    last: Mapping[Key, Counters]


class Totals:
    """Is shown what the kernel counts; says `of` a key what there was altogether since this object was made, or since
    the one was whose `known` it is given."""

    def __init__(self, known: "Known | None" = None) -> None:
        self._carried: dict[Key, Counters] = dict(known.carried) if known else {}
        self._last: dict[Key, Counters] = dict(known.last) if known else {}

    def observed(self, counted: Mapping[Key, Counters], keys: Iterable[Key]) -> Iterator[None]:
        """A counter that went back to less began anew; one that is gone stays as it was; all but `keys` are forgotten.
        Pauses after each key, for those who have something else to do, and takes effect at its end."""
        carried: dict[Key, Counters] = {}
        seen: dict[Key, Counters] = {}
        for key in keys:
            last, counters = self._last.get(key), counted.get(key)
            before = self._carried.get(key) if self._carried else None
            if last is not None and counters is not None and _began_anew(last, counters):
                before = _sum(before or Counters(), last)
            if before is not None:
                carried[key] = before
            if counters is not None:
                seen[key] = counters
            elif last is not None:
                seen[key] = replace(last, active_connections=0, inactive_connections=0)
            yield
        self._carried, self._last = carried, seen

    def of(self, key: Key) -> Counters:
        """All None for a key that was never seen."""
        last = self._last.get(key, Counters())
        carried = self._carried.get(key)
        return last if carried is None else replace(_sum(carried, last), **_live(last))

    @property
    def known(self) -> "Known":
        return Known(dict(self._carried), dict(self._last))


def _began_anew(before: Counters, after: Counters) -> bool:
    pairs = zip(_totals(before), _totals(after), strict=True)
    return any(old is not None and new is not None and new < old for old, new in pairs)


def _sum(one: Counters, other: Counters) -> Counters:
    added = {}
    for name in _TOTALS:
        a, b = getattr(one, name), getattr(other, name)
        added[name] = b if a is None else a if b is None else a + b
    return Counters(**added)


def _live(counters: Counters) -> dict[str, int | None]:
    return {
        "active_connections": counters.active_connections,
        "inactive_connections": counters.inactive_connections,
    }
