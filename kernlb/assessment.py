"""From what checks, operators and the passing of time say to the pools of all services. No kernel; time comes in.

Works out again only the services that something happened to: a verdict in a thousand services costs one pool.
"""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from kernlb import slow_start
from kernlb.config.values import Config, Policy, Server, Service
from kernlb.health import State, Status
from kernlb.pool import Override, Pool, Rating, ServerName, pool
from kernlb.ratings import all_servers, rating
from kernlb.response_time import ResponseTimes

RESPONSE_TIMES = 2.0
"""Seconds between looks at the response times of a service."""


class Assessment:
    def __init__(self, config: Config, *, now: float, record: Mapping[str, Any] | None = None) -> None:
        """`record` is what an Assessment before a restart left."""
        self.config = Config()
        self.states: dict[ServerName, State] = {}
        self.overrides: Mapping[ServerName, Override] = {}
        self.pools: dict[str, Pool] = {}
        self._services: dict[str, Service] = {}
        self._returned: dict[ServerName, float] = {}
        self._slow: dict[ServerName, float] = {}  # when the share of a server in its slow start next grows
        self._times: dict[str, ResponseTimes[str]] = {}
        self._due_times: dict[str, float] = {}
        self._dirty: set[str] = set()
        self._quorum: dict[str, bool] = {}
        self.reconfigure(config, now=now)
        self._restore(record or {}, now)

    # --- what happened

    def reconfigure(self, config: Config, *, now: float) -> None:
        """Another configuration; what is known of servers that are still there stays known."""
        self.config = config
        self._services = {service.name: service for service in config.services}
        names = {(service.name, server.name) for service in config.services for server in all_servers(service)}
        self.states = {name: state for name, state in self.states.items() if name in names}
        self._returned = {name: at for name, at in self._returned.items() if name in names}
        self._slow = {name: at for name, at in self._slow.items() if name in names}
        self.pools = {name: each for name, each in self.pools.items() if name in self._services}
        self._quorum = {name: had for name, had in self._quorum.items() if name in self._services}
        timed = {name for name, each in self._services.items() if isinstance(each.scheduler, Policy)}
        self._times = {name: self._times.get(name) or ResponseTimes() for name in timed}
        self._due_times = {name: self._due_times.get(name, now) for name in timed}
        self._dirty = set(self._services)

    def order(self, overrides: Mapping[ServerName, Override], *, now: float) -> None:
        """The operator's orders as they are now; who is released from one starts slowly."""
        before, self.overrides = self.overrides, overrides
        for name in {*before, *overrides}:
            was, is_now = before.get(name), overrides.get(name)
            if was != is_now:
                self._dirty.add(name[0])
                if was and was.hold and not (is_now and is_now.hold):
                    self._return(name, now)

    def judge(self, name: ServerName, state: State, *, now: float) -> None:
        """A server's state has changed."""
        before = self.states.get(name)
        self.states[name] = state
        self._dirty.add(name[0])
        if state.serves and before is not None and before.status not in (Status.UP, Status.UNKNOWN):
            self._return(name, now)
        elif not state.serves:
            self._returned.pop(name, None)
            self._slow.pop(name, None)
            if name[0] in self._times:
                self._times[name[0]].forget(name[1])

    def adopt(self, states: Mapping[ServerName, State], *, now: float) -> None:
        """All states that there are now; whoever is checked no more has none."""
        for name in self.states.keys() - states.keys():
            del self.states[name]
        for name, state in states.items():
            if self.states.get(name) != state:
                self.judge(name, state, now=now)

    def sample(self, name: ServerName, seconds: float, *, now: float) -> None:
        """A check's response time; counts where the service heeds them."""
        times = self._times.get(name[0])
        if times is not None:
            times.sample(name[1], seconds, now)

    # --- what it means

    def assess(self, *, now: float) -> set[str]:
        """Brings `pools` up to date; returns the services whose pool changed."""
        self._dirty |= {service for (service, _), due in self._slow.items() if due <= now}
        for timed in [timed for timed, due in self._due_times.items() if due <= now]:
            self._due_times[timed] = now + RESPONSE_TIMES
            if self._times[timed].adjust(self._timed(timed), now):
                self._dirty.add(timed)
        changed = set()
        for name in self._dirty & self._services.keys():
            service = self._services[name]
            before = self.pools.get(name)
            self._start_slowly(service, now)
            after = self._pool(service, now)
            self._quorum[name] = after.quorum
            if after != before:
                self.pools[name] = after
                changed.add(name)
        self._dirty.clear()
        return changed

    def trial(self, config: Config, *, now: float) -> dict[str, Pool]:
        """The pools that another configuration would have, by what is known of its servers."""
        return {service.name: self._pool(service, now) for service in config.services}

    def next_change(self) -> float | None:
        """When `assess` would find something new although nothing happens."""
        return min([*self._slow.values(), *self._due_times.values()], default=None)

    def record(self) -> dict[str, Any]:
        """What a restart must not lose, JSON-safe."""
        returned: dict[str, dict[str, float]] = {}
        for (service, server), at in self._returned.items():
            returned.setdefault(service, {})[server] = at
        shares = {
            service: {server.name: times.factor(server.name) for server in self._services[service].servers}
            for service, times in self._times.items()
        }
        return {"returned": returned, "quorum": dict(self._quorum), "response_time_shares": shares}

    # --- inside

    def _restore(self, record: Mapping[str, Any], now: float) -> None:
        for name, at in _numbers(record.get("returned")):
            self._return(name, min(at, now))
        quorum = record.get("quorum")
        self._quorum = {name: bool(had) for name, had in quorum.items()} if isinstance(quorum, dict) else {}
        for (service, server), share in _numbers(record.get("response_time_shares")):
            if service in self._times:
                self._times[service].adopt(server, share, now)

    def _return(self, name: ServerName, now: float) -> None:
        service = self._services.get(name[0])
        if service is not None and any(s.name == name[1] and s.slow_start for s in all_servers(service)):
            self._returned[name] = now
            self._slow[name] = now

    def _timed(self, service: str) -> list[str]:
        """The servers whose response times are compared: those that serve."""
        return [
            server.name
            for server in self._services[service].servers
            if (state := self.states.get((service, server.name))) is None or state.serves
        ]

    def _start_slowly(self, service: Service, now: float) -> None:
        """When the shares of servers in their slow start next grow. Those whose share is whole are forgotten."""
        for server in all_servers(service):
            name = (service.name, server.name)
            at = self._returned.get(name)
            if at is None:
                continue
            step = slow_start.next_step(now - at, server.slow_start)
            if step is None:
                del self._returned[name]
                self._slow.pop(name, None)
            else:
                self._slow[name] = at + step

    def _pool(self, service: Service, now: float) -> Pool:
        return pool(
            service,
            ratings={(service.name, each.name): self._rating(service, each, now) for each in all_servers(service)},
            overrides=self.overrides,
            had_quorum=self._quorum.get(service.name, True),
        )

    def _rating(self, service: Service, server: Server, now: float) -> Rating:
        name = (service.name, server.name)
        returned = self._returned.get(name)
        factor = 1.0 if returned is None else slow_start.share(now - returned, server.slow_start)
        if service.name in self._times and isinstance(service.scheduler, Policy):
            factor *= self._times[service.name].factor(server.name)
        return rating(self.states.get(name), factor=factor)


def _numbers(recorded: Any) -> Iterator[tuple[ServerName, float]]:
    """A number a server, as a record has it; what cannot be understood is left out."""
    for service, servers in recorded.items() if isinstance(recorded, dict) else ():
        for server, number in servers.items() if isinstance(servers, dict) else ():
            if isinstance(number, int | float) and isfinite(number):
                yield (service, server), float(number)
