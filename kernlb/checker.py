"""Runs checks on time and feeds Health. Knows no kernel tables and decides no weights: it tells what changed.

One probe serves every server that asks the same of the same address.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from kernlb.accused import LASTING, Accused
from kernlb.agenda import Agenda, latest_beat, spread_evenly
from kernlb.checks.base import Kinds, Late, Prober, Report, Target, target_of
from kernlb.checks.kinds import Probers
from kernlb.checks.spec import Address, BfdProbe, Check, FileProbe, measures
from kernlb.checks.verdict import Code, Outcome, Verdict
from kernlb.entries import Entry, Server, Watched, groups_of
from kernlb.haste import HURRY, Haste
from kernlb.health import Health, State
from kernlb.lateness import Lateness
from kernlb.standing import Standing

RELIEF = 0.5  # seconds at most between the probes that hints bring about while the server is well
FIRST_ROUND = 2.0
"""Seconds over which first probes are spread, at most: what is dead is known soon. The second ones are spread over
their interval, and stay so."""

HEARTBEAT = 1.0  # seconds between heartbeats, at most
UP, DOWN = Outcome.UP, Outcome.DOWN

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Change(Generic[K]):
    key: K
    before: State
    after: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """`asked` checks were wanted and `probed` targets serve them. Lateness is of starts, and of waits for a place where
    many of a kind are under way, in seconds."""

    asked: int
    probed: int
    started: int
    internal: int  # verdicts that the director's own shortages prevented
    outcomes: Mapping[Outcome, int]
    lateness_p50: float
    lateness_p99: float

    @property
    def saved(self) -> int:
        """Probes that sharing saves in each round."""
        return self.asked - self.probed


Identity = tuple[int, Address, int]  # the number of a kind of check, and what it probes


class Checker(Generic[K]):
    """Made inside a running event loop. `replace` says whom to check; `changed` is told of every change of a server's
    state, `sampled` of response times, and `hindered` with each heartbeat of those who cannot be asked. Times of states
    come from `clock` (wall clock, seconds)."""

    def __init__(
        self,
        changed: Callable[[Sequence[Change[K]]], None],
        *,
        sampled: Callable[[K, float, float], None] | None = None,
        heartbeat: Callable[[], None] | None = None,
        hindered: Callable[[Mapping[K, str]], None] | None = None,
        spread: Callable[[int], float] = spread_evenly,
        clock: Callable[[], float] = time.time,
        kinds: Callable[[Report, Late], Kinds] = Probers,
    ) -> None:
        self._changed = changed
        self._sampled = sampled
        self._heartbeat = heartbeat
        self._told_hindered = hindered
        self._spread = spread
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._lateness = Lateness()
        self._probers = kinds(self._judge, self._lateness.add)
        self._entries: dict[Identity, Entry[K]] = {}
        self._numbers: dict[Check, int] = {}
        self._kinds: dict[int, int] = {}
        self._last_number = 0
        # And since when; the hurried also, whom somebody suspects.
        self._flying: dict[Target, tuple[Entry[K], float, Watched[K] | None]] = {}
        self._accused: Accused[Hashable, Address] = Accused()
        self._servers: dict[K, Server[K]] = {}
        self._agenda: Agenda[Entry[K]] = Agenda(self._start)
        self._started = 0
        self._internal = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._hindered: dict[Entry[K], Verdict] = {}
        self._beat: asyncio.TimerHandle | None = None
        self._pulse()

    # --- whom to check

    def replace(self, servers: Iterable[Watched[K]], *, last: Mapping[K, Standing] | None = None) -> None:
        """Checks these and no others from now on. A server known under its key, at the same address, keeps its state
        whatever became of its checks; of the others, `last` may tell what they were before a restart (`standing`)."""
        servers = list(servers)
        before, self._servers = self._servers, {}
        former, self._entries = self._entries, {}
        self._count_kinds(servers)
        self._accused.among(groups_of(servers))
        for watched in servers:
            known = before.get(watched.key)
            entries = [
                self._entry(former, check, watched, number, known, (last or {}).get(watched.key, Standing()))
                for number, check in enumerate(watched.checks)
            ]
            if not entries:
                continue
            server = self._servers[watched.key] = Server(watched, entries)
            if known is not None and known.watched.address == watched.address:
                server.state = server.together(known.state)
            for entry in entries:
                entry.servers.append(server)
            if watched.timed:
                for entry in [entry for entry in entries if measures(entry.target.check.probe)][:1]:
                    entry.timed += (watched.key,)
        for identity, entry in former.items():
            if identity not in self._entries:
                entry.gone = True
                self._hindered.pop(entry, None)

    def _count_kinds(self, servers: Sequence[Watched[K]]) -> None:
        """Numbers equal checks alike, so that ten thousand servers need not hash theirs again and again."""
        former, self._numbers = self._numbers, {}
        self._kinds.clear()
        for check in {id(check): check for watched in servers for check in watched.checks}.values():
            number = self._numbers.get(check, former.get(check))
            if number is None:
                self._last_number += 1
                number = self._last_number
            self._numbers[check] = self._kinds[id(check)] = number

    def _entry(
        self,
        former: dict[Identity, Entry[K]],
        check: Check,
        watched: Watched[K],
        number: int,
        known: Server[K] | None,
        last: Standing,
    ) -> Entry[K]:
        address = watched.address if check.address is None else check.address
        port = watched.port if check.port is None else check.port
        identity = (self._kinds[id(check)], address, port)
        entry = self._entries.get(identity)
        if entry is not None:
            return entry
        entry = former.get(identity)
        if entry is not None:
            entry.servers, entry.timed = [], ()
        else:
            now = self._clock()
            if known is not None and known.watched.address == watched.address:
                health = Health(check, now=now, resume=known.standing.heirs(watched.checks)[number])
            else:
                health = Health(check, now=now, last=last.heirs(watched.checks)[number])
            target = target_of(check, address, port)
            # Its prober is made here and not at the first probe: loading a library late would hold up the others.
            entry = Entry(target, self._probers.of(target), health)
            share, first = self._spread(len(self._entries)), min(check.interval, FIRST_ROUND)
            entry.lead = (1 - share) * (check.interval - first)
            self._agenda.put(entry, self._loop.time() + share * first)
        self._entries[identity] = entry
        return entry

    def states(self) -> dict[K, State]:
        return {key: server.state for key, server in self._servers.items()}

    def standing(self) -> dict[K, Standing]:
        """What each server's checks say, for `replace` after a restart."""
        return {key: server.standing for key, server in self._servers.items()}

    def verdicts(self, key: K) -> tuple[Verdict | None, ...]:
        """The latest verdict of each of a server's checks."""
        server = self._servers.get(key)
        return () if server is None else tuple(entry.health.verdict for entry in server.entries)

    def hindered(self) -> Mapping[K, str]:
        """Those who could not be asked the last time, for a shortage of the director's own, and what it was."""
        found = self._hindered.items()
        return {server.watched.key: verdict.text for entry, verdict in found for server in entry.servers}

    def response_time(self, key: K) -> float | None:
        """Seconds, as its first check that measures one last measured."""
        server = self._servers.get(key)
        times = [] if server is None else [entry.health.response_time for entry in server.entries]
        return next((seconds for seconds in times if seconds is not None), None)

    def hasten(self, key: K) -> None:
        """Somebody saw this server fail: as many probes as take it down, the first at once. Where most are suspected at
        once it is the director's own link rather than they: checks keep their pace."""
        server = self._servers.get(key)
        if server is None:
            return
        now = self._loop.time()
        watched = server.watched
        self._accused.repeat(watched.address, watched.groups, now)
        if self._accused.most(watched.groups, since=now - LASTING, now=now):
            return
        for entry in server.entries:
            if isinstance(entry.target.check.probe, FileProbe | BfdProbe):
                continue  # one knows nothing of the traffic, the other is watching all the time
            haste = entry.haste = entry.haste or Haste(watched)
            if haste.left or entry.flying > 1:
                continue
            haste.suspect(watched, fall=entry.target.check.fall, now=now)
            # Hints may come by the thousand about a server that is well.
            calm = not entry.flying and not entry.health.in_transition
            pause = max(HURRY, min(entry.target.check.interval / 4, RELIEF)) if calm else HURRY
            due = max(now, entry.started + pause)
            if not entry.flying:
                self._agenda.sooner(entry, due)
            elif entry.overlapping:
                self._agenda.put(entry, due)

    # --- when

    def _start(self, due: list[Entry[K]], now: float) -> None:
        by_prober: dict[Prober, list[Target]] = defaultdict(list)
        flying = self._flying
        for entry in due:
            accused = None if entry.haste is None or entry.gone else self._accuse(entry.haste, now)
            if entry.gone or (entry.flying and not accused):
                continue
            target = replace(entry.target) if entry.flying else entry.target
            entry.flying += 1
            self._lateness.add(now - entry.due)
            entry.started = latest_beat(entry.due, target.check.interval, now) - entry.lead
            entry.lead = 0.0
            flying[target] = entry, now, accused
            by_prober[entry.prober].append(target)
            if entry.haste is not None and entry.haste.left and entry.overlapping:
                self._agenda.put(entry, now + entry.haste.gap(target.check.fall))
        for prober, targets in by_prober.items():
            self._started += len(targets)
            prober.start(targets)

    def _accuse(self, haste: Haste[Watched[K]], now: float) -> Watched[K] | None:
        """Whom the next hurried probe is about; None where there is to be none."""
        accused = haste.accused
        if haste.left:
            self._accused.accuse(accused.address, accused.groups, now)
            if self._accused.most(accused.groups, since=now - LASTING, now=now):
                haste.end()
        if not haste.left:
            return None
        haste.left -= 1
        return accused

    # --- what came of it

    def _judge(self, verdicts: Sequence[tuple[Target, Verdict]]) -> None:
        now, wall = self._loop.time(), self._clock()
        moved: dict[K, Server[K]] = {}
        flying, up = self._flying, 0
        ended: list[Entry[K]] = []
        for target, verdict in verdicts:
            entry, started, accused = flying.pop(target)
            entry.flying -= 1
            if verdict.outcome is UP:
                up += 1
            else:
                self._outcomes[verdict.outcome] += 1
                self._internal += verdict.code is Code.INTERNAL
            if entry.gone:
                continue
            if verdict.outcome is Outcome.NEUTRAL and verdict.code is Code.INTERNAL:
                self._hindered[entry] = verdict
            elif self._hindered:
                self._hindered.pop(entry, None)
            health, haste = entry.health, entry.haste
            if accused is None or self._counts(accused, verdict, started, now):
                was_down = haste is not None and health.down
                if health.judge(verdict, wall) is not None:
                    for server in entry.servers:
                        moved[server.watched.key] = server
                if entry.timed and verdict.seconds is not None and self._sampled is not None:
                    for key in entry.timed:
                        self._sampled(key, verdict.seconds, now)
                interval = health.interval
                if haste is not None:
                    interval = haste.interval(health, started=started, fell=health.down and not was_down, now=now)
                due = latest_beat(entry.started, interval, now) + interval
            else:
                due = now  # for the one whose place it took
                if haste is not None:
                    haste.end()
            if haste is not None and haste.left and entry.overlapping:
                if verdict.outcome is DOWN and not verdict.silent:
                    self._agenda.sooner(entry, max(now, entry.started + HURRY))
            elif entry.watched:
                entry.due = now
                ended.append(entry)
            elif not entry.flying:
                self._agenda.put(entry, due)
        if ended:
            self._start(ended, now)
        if up:
            self._outcomes[UP] += up
        if moved:
            self._tell(moved.values())

    def _counts(self, accused: Watched[K], verdict: Verdict, started: float, now: float) -> bool:
        """Whether the verdict of a hurried probe is one on its target, and not on the way to most."""
        if verdict.outcome is UP:
            self._accused.clear(accused.address, accused.groups, now)
        return verdict.outcome is not DOWN or not self._accused.most(accused.groups, since=started - LASTING, now=now)

    def _tell(self, moved: Iterable[Server[K]]) -> None:
        changes = []
        for server in moved:
            before, server.state = server.state, server.together(server.state)
            if before != server.state:
                changes.append(Change(server.watched.key, before, server.state))
        if changes:
            self._changed(changes)

    def _pulse(self) -> None:
        """Runs in the same loop as the probes: when they stall, so does the heartbeat."""
        if self._heartbeat is not None:
            self._heartbeat()
        if self._told_hindered is not None:
            self._told_hindered(self.hindered())
        self._beat = self._loop.call_later(HEARTBEAT, self._pulse)

    def statistics(self) -> Statistics:
        return Statistics(
            asked=sum(len(entry.servers) for entry in self._entries.values()),
            probed=len(self._entries),
            started=self._started,
            internal=self._internal,
            outcomes=dict(self._outcomes),
            lateness_p50=self._lateness.quantile(0.50),
            lateness_p99=self._lateness.quantile(0.99),
        )

    def close(self) -> None:
        """Stops every probe and frees every descriptor. States stay readable."""
        self._agenda.close()
        if self._beat is not None:
            self._beat.cancel()
        self._probers.close()
