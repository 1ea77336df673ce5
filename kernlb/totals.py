"""Counters that outlive their servers' stay in the kernel: what was counted before a removal is carried. No kernel."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kernlb.counters import Counters
from kernlb.model import Key

_TOTALS = ("connections", "packets_in", "packets_out", "bytes_in", "bytes_out")


@dataclass(frozen=True, slots=True)
class Known:
    """What a restart must not lose: what the kernel knows no more, and what it counted when it was last asked."""

    carried: Mapping[Key, Counters]
    last: Mapping[Key, Counters]


class Totals:
    """`observe` what the kernel counts; `of` a key what there was altogether since this object was made, or since the
    one was whose `known` it is given."""

    def __init__(self, known: "Known | None" = None) -> None:
        self._carried: dict[Key, Counters] = dict(known.carried) if known else {}
        self._last: dict[Key, Counters] = dict(known.last) if known else {}

    def observe(self, counted: Mapping[Key, Counters]) -> None:
        """A counter that went back to less began anew; one that is gone stays as it was."""
        for key, counters in counted.items():
            last = self._last.get(key)
            if last is not None and _began_anew(last, counters):
                self._carried[key] = _sum(self._carried.get(key, Counters()), last)
            self._last[key] = counters
        for key, last in self._last.items():
            if key not in counted:
                self._last[key] = replace(last, active_connections=0, inactive_connections=0)

    def of(self, key: Key) -> Counters:
        """All None for a key that was never seen."""
        last = self._last.get(key, Counters())
        carried = self._carried.get(key)
        return last if carried is None else replace(_sum(carried, last), **_live(last))

    @property
    def known(self) -> "Known":
        return Known(dict(self._carried), dict(self._last))

    def everything(self) -> dict[Key, Counters]:
        return {key: self.of(key) for key in self._last}

    def keep(self, keys: set[Key]) -> None:
        """Forget all others: they are configured no more."""
        self._carried = {key: value for key, value in self._carried.items() if key in keys}
        self._last = {key: value for key, value in self._last.items() if key in keys}


def _began_anew(before: Counters, after: Counters) -> bool:
    pairs = ((getattr(before, name), getattr(after, name)) for name in _TOTALS)
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
