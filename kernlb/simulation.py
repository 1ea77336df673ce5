"""A configuration under scripted failures, in compressed time, on the memory engine. No kernel, no clock, no socket.

The script says what the servers do; health, pools, slow starts and response times are the daemon's own. A script:

    # when   what         service/server
    5s       down         web/s1            refuses connections
    5s       silent       web/s1            answers nothing
    20s      up           web/s1
    0s       time         web/s2   30ms     answers in so long
    30s      drain        web/s3   60s
    30s      connections  web/s3   4        has so many live ones
    90s      resume       web/s3
    90s      disable      web/s3
    95s      weight       web/s2   5
    120s     end
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from kernlb import operator
from kernlb.assessment import Assessment
from kernlb.checks.spec import Check
from kernlb.checks.verdict import Code, Outcome, Verdict
from kernlb.config.values import Config, chosen_engine
from kernlb.desired import desired
from kernlb.engines.memory import Memory
from kernlb.errors import ConfigError, KernlbError, Mistake
from kernlb.health import Health, combined
from kernlb.model import RealServer, Ruleset, ServerKey
from kernlb.operator import Overrides
from kernlb.plan import diff
from kernlb.pool import ServerName, scale_of
from kernlb.ratings import all_servers

DAY = 86400.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_ARGUMENTS = {
    "down": None,
    "silent": None,
    "up": None,
    "resume": None,
    "disable": None,
    "time": "a duration",
    "drain": "a duration",
    "connections": "a number",
    "weight": "a number",
}
_AFTER = 60.0  # seconds simulated past the last event of a script without an end


@dataclass(frozen=True, slots=True, order=True)
class Event:
    at: float
    verb: str
    name: ServerName
    argument: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    events: tuple[Event, ...]
    end: float


@dataclass(frozen=True, slots=True)
class Change:
    """Weights in configured units; None: out of the kernel. `status` is the server's, or what the operator ordered."""

    at: float
    service: str
    server: str
    before: float | None
    weight: float | None
    status: str


def parsed(text: str, file: str, config: Config) -> Script:
    """Raises ConfigError with every line that cannot be understood."""
    events: list[Event] = []
    mistakes: list[Mistake] = []
    end: float | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            at = _duration(words[0])
            if words[1:] == ["end"]:
                end = at
            else:
                events.append(_event(at, words[1:], config))
        except (ValueError, KernlbError) as error:
            hint = error.hint if isinstance(error, KernlbError) else "a line is: 5s down service/server"
            mistakes.append(Mistake("", str(error), number, hint))
    if mistakes:
        raise ConfigError(file, mistakes)
    last = max((event.at for event in events), default=0.0)
    return Script(tuple(sorted(events)), last + _AFTER if end is None else end)


@dataclass(slots=True)
class _Server:
    """How a real server behaves now."""

    alive: bool = True
    silent: bool = False
    seconds: float = 0.001
    connections: int = 0
    checks: tuple[Check, ...] = ()
    healths: list[Health] = field(default_factory=list)
    timed: int | None = None  # which of its checks says how fast it is


def simulate(config: Config, script: Script) -> Iterator[Change]:
    """Every change of a weight in the kernel, in order. What the kernel has from the start comes at time 0."""
    return _Simulation(config, script).run()


class _Simulation:
    def __init__(self, config: Config, script: Script) -> None:
        self._config = config
        self._script = script
        self._kernel = Memory()
        self._assessment = Assessment(config, now=0.0)
        self._overrides: Overrides = {}
        self._servers: dict[ServerName, _Server] = {}
        self._queue: list[tuple[float, int, ServerName, int]] = []
        self._count = 0
        self._weights: dict[ServerName, float] = {}
        for service in config.services:
            for server in all_servers(service):
                name = (service.name, server.name)
                healths = [Health(check, now=0.0) for check in server.checks]
                timed = None if server.timed is None else server.checks.index(server.timed)
                self._servers[name] = _Server(checks=server.checks, healths=healths, timed=timed)
                for number, check in enumerate(server.checks):
                    self._plan(check.interval * (len(self._queue) % 7) / 7, name, number)

    def run(self) -> Iterator[Change]:
        events = list(reversed(self._script.events))
        now = 0.0
        yield from self._settle(now)
        while True:
            now = min(
                events[-1].at if events else float("inf"),
                self._queue[0][0] if self._queue else float("inf"),
                self._assessment.next_change() or float("inf"),
                self._next_drain(now),
            )
            if now > self._script.end:
                return
            while events and events[-1].at <= now:
                self._happen(events.pop())
            while self._queue and self._queue[0][0] <= now:
                _, _, name, number = heapq.heappop(self._queue)
                self._probe(name, number, now)
            self._overrides = operator.ended(self._overrides, lambda n: self._servers[n].connections, now=now)
            self._assessment.order(self._overrides, now=now)
            yield from self._settle(now)

    def _next_drain(self, now: float) -> float:
        due = float("inf")
        for name in operator.under_way(self._overrides):
            override = self._overrides[name]
            settled = (override.since or 0.0) + operator.SETTLE
            if settled > now and not self._servers[name].connections:
                due = min(due, settled)
            if override.deadline is not None:
                due = min(due, override.deadline)
        return due

    def _happen(self, event: Event) -> None:
        server, now = self._servers[event.name], event.at
        match event.verb:
            case "down" | "silent":
                server.alive, server.silent = False, event.verb == "silent"
            case "up":
                server.alive, server.silent = True, False
            case "time":
                server.seconds = event.argument
            case "connections":
                server.connections = int(event.argument)
            case "drain":
                until = now + event.argument
                self._overrides = operator.drain(self._overrides, event.name, now=now, deadline=until)
            case "resume":
                self._overrides = operator.resume(self._overrides, event.name)
            case "disable":
                self._overrides = operator.disable(self._overrides, event.name, now=now)
            case "weight":
                self._overrides = operator.weigh(self._overrides, event.name, int(event.argument))

    def _probe(self, name: ServerName, number: int, now: float) -> None:
        server = self._servers[name]
        health, check = server.healths[number], server.checks[number]
        if server.alive and server.seconds <= check.patience:
            verdict = Verdict(Outcome.UP, Code.L4OK, "", server.seconds)
            if number == server.timed:
                self._assessment.sample(name, server.seconds, now=now)
        elif server.alive or server.silent:
            verdict = Verdict(Outcome.DOWN, Code.L4TOUT, f"no answer within {check.patience:g} s")
        else:
            verdict = Verdict(Outcome.DOWN, Code.L4CON, "connection refused")
        if health.judge(verdict, now) is not None:
            state = combined([each.state for each in server.healths], self._assessment.states.get(name))
            self._assessment.judge(name, state, now=now)
        # A probe without an answer ends with its patience, and the next one starts no sooner.
        took = check.patience if verdict.code is Code.L4TOUT else 0.0
        self._plan(now + max(health.interval, took), name, number)

    def _plan(self, at: float, name: ServerName, number: int) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, name, number))

    def _settle(self, now: float) -> Iterator[Change]:
        """Writes what changed, and reads the weights back from the kernel."""
        if not self._assessment.assess(now=now):
            return
        engines = {s.name: chosen_engine(s, self._config, ipvs_available=True) for s in self._config.services}
        want = desired(self._config, self._assessment.pools, engines=engines, ruleset=Ruleset("simulated"))
        self._kernel.apply(diff(want.table, self._kernel.read()))
        weights: dict[ServerName, float] = {}
        scales = {service.name: scale_of(service) for service in self._config.services}
        for key, value in self._kernel.read().items():
            name = want.names.get(key)
            if isinstance(key, ServerKey) and isinstance(value, RealServer) and name and name.server:
                weights[name.service, name.server] = value.weight / scales[name.service]
        for each in self._servers:
            before, after = self._weights.get(each), weights.get(each)
            if before != after:
                yield Change(now, *each, before, after, self._why(each))
        self._weights = weights

    def _why(self, name: ServerName) -> str:
        override = self._overrides.get(name)
        if override is not None and override.hold is not None:
            return "drained" if override.drained else str(override.hold)
        state = self._assessment.states.get(name)
        return "unknown" if state is None else str(state.status)


def _event(at: float, words: list[str], config: Config) -> Event:
    """Raises ValueError or Unknown."""
    if not words or words[0] not in _ARGUMENTS:
        raise ValueError(f"an event is one of {', '.join(_ARGUMENTS)}, end")
    verb, *rest = words
    wanted = _ARGUMENTS[verb]
    if len(rest) != (1 if wanted is None else 2):
        raise ValueError(f"{verb} needs service/server" + (f" and {wanted}" if wanted else " and nothing more"))
    service, _, server = rest[0].partition("/")
    name = operator.known(config, service, server)
    return Event(at, verb, name, 0.0 if wanted is None else _argument(rest[1], wanted))


def _argument(text: str, wanted: str) -> float:
    if wanted == "a duration":
        return _duration(text)
    if not text.isdigit():
        raise ValueError(f"{text!r} is no number")
    return float(text)


def _duration(text: str) -> float:
    digits = text.rstrip("hms")
    try:
        seconds = float(digits) * _UNITS[text[len(digits) :]]
    except (ValueError, KeyError):
        raise ValueError(f"{text!r} is no duration: write 30s, 5m, 500ms") from None
    if not 0 <= seconds <= 365 * DAY:
        raise ValueError(f"{text!r} is out of range")
    return seconds
