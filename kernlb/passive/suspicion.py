"""Which real servers the traffic speaks against. No socket, no clock: sightings and times in, servers out.

A refused connection speaks against its server, and so does a SYN that stays without an answer for much longer than
others to that server, or that is sent again. Resets of established connections do so too, but weakly: some programs
end every connection by reset.
"""

import heapq
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernlb.model import ServerKey
from kernlb.passive.packets import End, Kind, Sighting
from kernlb.pool import ServerName

PAUSE = 0.2
"""Seconds between two suspicions of one server."""
WEAK_PAUSE = 2.0
"""Seconds between two that rest on resets of established connections."""
ANSWERED = 0.25
"""Seconds within which a SYN ought to be answered, where a server does not usually take longer."""
TOO_LONG = 4.0
"""Times the usual after which an answer is overdue."""
REMEMBERED = 8192
"""SYNs without an answer."""
AGAIN = 10.0
"""Seconds within which the same SYN is the same attempt."""
_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class _Attempt:
    """`ends` are the server's and the client's."""

    ends: tuple[End, End]
    began: float
    sequence: int


class Suspicion:
    def __init__(self) -> None:
        self._servers: dict[End, list[ServerName]] = {}
        self._ports: dict[object, list[ServerName]] = {}
        self._open: OrderedDict[tuple[End, End], _Attempt] = OrderedDict()
        self._due: list[tuple[float, int, _Attempt]] = []
        self._number = 0
        self._usual: dict[End, float] = {}
        self._last: dict[ServerName, float] = {}
        self._weak: dict[ServerName, float] = {}

    def aim(self, servers: Mapping[ServerName, Sequence[ServerKey]]) -> None:
        """The servers to look for. Port 0 means every port."""
        self._servers, self._ports = {}, {}
        for name, keys in servers.items():
            for key in keys:
                names = (
                    self._servers.setdefault((key.address, key.port), [])
                    if key.port
                    else self._ports.setdefault(key.address, [])
                )
                if name not in names:
                    names.append(name)
        self._last = {name: at for name, at in self._last.items() if name in servers}
        self._weak = {name: at for name, at in self._weak.items() if name in servers}
        self._usual = {end: seconds for end, seconds in self._usual.items() if self._of(end)}

    def see(self, seen: Sighting, now: float) -> list[ServerName]:
        """The servers that this makes suspect, each at most once in PAUSE seconds."""
        if seen.kind is Kind.SYN:
            return self._attempted(seen, now)
        names = self._of(seen.source)
        if not names:
            return []
        attempt = self._open.pop((seen.source, seen.target), None)
        match seen.kind:
            case Kind.ANSWER:
                if attempt is not None:
                    self._answered(seen.source, now - attempt.began)
                return []
            case Kind.RESET:
                names = [name for name in names if now - self._weak.get(name, float("-inf")) >= WEAK_PAUSE]
                self._weak.update((name, now) for name in names)
        return self._suspect(names, now)

    def blame(self, end: End, now: float) -> list[ServerName]:
        """The servers at this end, of which somebody else has seen that they do not answer."""
        return self._suspect(self._of(end), now)

    def overdue(self, now: float) -> list[ServerName]:
        """The servers that owe an answer since too long. Ask after `see` has had everything that arrived."""
        found: list[ServerName] = []
        while self._due and self._due[0][0] <= now:
            _, _, attempt = heapq.heappop(self._due)
            if self._waits(attempt):
                found += self._suspect(self._of(attempt.ends[0]), now)
        return found

    @property
    def next(self) -> float | None:
        """When to ask what is overdue; None while nobody owes an answer."""
        return self._due[0][0] if self._due else None

    def _attempted(self, seen: Sighting, now: float) -> list[ServerName]:
        names = self._of(seen.target)
        if not names:
            return []
        ends = (seen.target, seen.source)
        before = self._open.get(ends)
        if before is not None and before.sequence == seen.sequence and now - before.began < AGAIN:
            return self._suspect(names, now)
        attempt = self._open[ends] = _Attempt(ends, now, seen.sequence)
        self._open.move_to_end(ends)
        patience = max(ANSWERED, TOO_LONG * self._usual.get(self._known(seen.target), 0.0))
        self._number += 1  # so that equals are never compared: an address of IPv4 has no order with one of IPv6
        heapq.heappush(self._due, (now + patience, self._number, attempt))
        while len(self._open) > REMEMBERED or next(iter(self._open.values())).began <= now - AGAIN:
            self._open.popitem(last=False)
        if len(self._due) > 2 * REMEMBERED:
            self._due = [each for each in self._due if self._waits(each[2])]
            heapq.heapify(self._due)
        return []

    def _waits(self, attempt: _Attempt) -> bool:
        return self._open.get(attempt.ends) is attempt

    def _answered(self, server: End, seconds: float) -> None:
        known = self._known(server)
        usual = self._usual.get(known, seconds)
        self._usual[known] = usual + _SMOOTHING * (seconds - usual)

    def _suspect(self, names: Sequence[ServerName], now: float) -> list[ServerName]:
        found = [name for name in names if now - self._last.get(name, float("-inf")) >= PAUSE]
        self._last.update((name, now) for name in found)
        return found

    def _known(self, end: End) -> End:
        """What the server at this end is known by: its port, unless every port is its own."""
        return end if end in self._servers else (end[0], 0)

    def _of(self, end: End) -> list[ServerName]:
        return self._servers.get(end) or self._ports.get(end[0]) or []
