"""What a configuration means as a Table: virtual services with their real servers, and what they need around them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from kernlb.balanced import Balanced, Name, balance
from kernlb.config.values import Announce, Config, Service
from kernlb.marks import assign
from kernlb.model import (
    CheckTimeoutsKey,
    EngineName,
    Family,
    Key,
    Ruleset,
    RulesetKey,
    Scheduler,
    ServerKey,
    ServiceKey,
    Sysctl,
    Value,
    VirtualService,
    service_of,
)
from kernlb.parts import Parts, cut, whole
from kernlb.pool import Member, Pool
from kernlb.ratings import all_servers
from kernlb.surroundings import SYSCTLS, check_timeouts, exempt, mark, settings, vips
from kernlb.vip_checks import ACCEPT_LOCAL, ways

__all__ = ["SYSCTLS", "Desired", "Meaning", "Name", "desired"]


@dataclass(slots=True)
class Desired:
    """The Table, and the name of each virtual service and real server that is configured. `absent` are real servers
    that are out (dead or drained): they leave at once and not by quiescing. `parts` is the Table, cut."""

    table: dict[Key, Value] = field(default_factory=dict)
    names: Mapping[Key, Name] = field(default_factory=dict)
    absent: Collection[ServerKey] = frozenset()
    parts: Parts | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """What one service wants for its pool: virtual services with their real servers, and who is out."""

    pool: Pool
    parts: Parts
    absent: frozenset[ServerKey]


class Meaning:
    """What a configuration means on a machine. Made once a configuration and asked for pool after pool: it works out
    again only the services whose pool is another object than the last time."""

    def __init__(
        self,
        config: Config,
        *,
        engines: Mapping[str, EngineName],
        ruleset: Ruleset,
        tracked: Callable[[], bool | None] = lambda: None,
        probed: bool = True,
    ) -> None:
        """`engines` by service name; `ruleset` is the static part of the nftables table; `tracked` tells whether
        conntrack is at work, None where it has no timeouts for the connections of checks; `probed` whether servers
        are checked, through the VIP too."""
        self._config = config
        self._tracked = tracked
        self._timeouts = check_timeouts(config)
        self._engines = engines
        self._ruleset = ruleset
        self._numbers = assign((service.name for service in config.services), base=config.engine.mark_base)
        # Marks, limits, source NAT and settings follow from the configuration alone, as if everybody served: a
        # verdict writes nothing but weights, and a server that returns finds its source NAT in place.
        all_of_it = Balanced()
        for service in config.services:
            engine, number = engines[service.name], self._numbers[service.name]
            balance(all_of_it, service, _everybody(service), engine, number, together=config.max_connections)
            if engine is EngineName.IPVS:
                mark(all_of_it.table, config, service, number)
        checks = _check_ways(config, engines) if probed else Balanced()
        self._table, self._names = all_of_it.table | checks.table, all_of_it.names | checks.names
        self._rest: tuple[object, dict[Key, Value]] | None = None
        self._services: dict[str, _Part] = {}
        self._parts = dict(cut(checks.table))

    def desired(self, pools: Mapping[str, Pool], foreign: Collection[ServiceKey] = ()) -> Desired:
        """`foreign` are virtual services of the kernel that are not kernlb's: a wildcard leaves their traffic alone."""
        parts = dict(self._parts)
        for service in self._config.services:
            pool, before = pools[service.name], self._services.get(service.name)
            if before is None or before.pool is not pool:
                made = self._services[service.name] = self._part(service, pool)
                parts.update(made.parts)
        parts[None] = self._of_nobody(pools, foreign)
        self._parts = parts
        absent = frozenset[ServerKey]().union(*(part.absent for part in self._services.values() if part.absent))
        return Desired(whole(parts), self._names, absent, parts)

    def _part(self, service: Service, pool: Pool) -> _Part:
        result = Balanced()
        engine, number = self._engines[service.name], self._numbers[service.name]
        balance(result, service, pool, engine, number, together=self._config.max_connections)
        return _Part(pool, cut(result.table), frozenset(result.absent))

    def _of_nobody(self, pools: Mapping[str, Pool], foreign: Collection[ServiceKey]) -> dict[Key, Value]:
        """What belongs to no virtual service; the same object while nothing that matters has changed."""
        always = self._config.addresses.announce is Announce.ALWAYS
        lost = () if always else tuple(name for name, pool in pools.items() if not pool.quorum)
        tracked = None if self._timeouts is None else self._tracked()
        given = (tuple(foreign), lost, tracked)
        if self._rest is None or self._rest[0] != given:
            table = dict(self._table)
            exempt(table, foreign)
            rest = {key: value for key, value in table.items() if service_of(key) is None}
            rest.update(vips(self._config, lost))
            settings(rest, table, self._config, self._ruleset)
            if self._timeouts is not None and tracked is not None and (tracked or RulesetKey() in rest):
                rest[CheckTimeoutsKey()] = self._timeouts
            self._rest = given, rest
        return self._rest[1]


def desired(
    config: Config,
    pools: Mapping[str, Pool],
    *,
    engines: Mapping[str, EngineName],
    ruleset: Ruleset,
    foreign: Collection[ServiceKey] = (),
) -> Desired:
    """What a configuration means for these pools, by service name."""
    return Meaning(config, engines=engines, ruleset=ruleset).desired(pools, foreign)


def _everybody(service: Service) -> Pool:
    return Pool(tuple(Member(server, 1) for server in all_servers(service)), quorum=True)


def _check_ways(config: Config, engines: Mapping[str, EngineName]) -> Balanced:
    """What leads checks through the VIP to their servers, in the pool or not."""
    result = Balanced()
    for (service, server), way in ways(config).items():
        way.require(engines[service])
        # Port 0 keeps the port that the probe asks.
        server_key = ServerKey(way.service, way.server.address, 0)
        result.table |= {way.service: VirtualService(Scheduler.RR), server_key: way.real_server}
        name = Name(f"check of {service}/{server}", check=True)
        result.names |= {way.service: name, server_key: name}
        if way.service.family is Family.IPV4:
            result.table[ACCEPT_LOCAL] = Sysctl("1")
    return result
