"""What a configuration means as a Table: virtual services, marks, limits, source NAT, addresses and settings."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from kernlb.config.notation import write_bind
from kernlb.config.values import AddressBind, Announce, Bind, Config, MarkBind, Server, Service
from kernlb.marks import assign
from kernlb.model import (
    Endpoint,
    EngineName,
    Exempt,
    ExemptKey,
    Family,
    Forwarding,
    Fwmark,
    IPAddress,
    Key,
    Limit,
    LimitKey,
    Mark,
    MarkKey,
    Persistence,
    RealServer,
    Ruleset,
    RulesetKey,
    Scheduler,
    SchedulerFlag,
    ServerKey,
    ServiceKey,
    SourceKey,
    SourceNat,
    Sysctl,
    SysctlKey,
    TimersKey,
    Tunnel,
    Value,
    Vip,
    VipKey,
    VirtualService,
    family_of,
)
from kernlb.pool import Member, Pool
from kernlb.vip_checks import ACCEPT_LOCAL, ways

CONNTRACK = SysctlKey("net.ipv4.vs.conntrack")
EXPIRE_NODEST = SysctlKey("net.ipv4.vs.expire_nodest_conn")
EXPIRE_TEMPLATES = SysctlKey("net.ipv4.vs.expire_quiescent_template")
FORWARD = {Family.IPV4: SysctlKey("net.ipv4.ip_forward"), Family.IPV6: SysctlKey("net.ipv6.conf.all.forwarding")}
_BITS = {Family.IPV4: 32, Family.IPV6: 128}
SYSCTLS = (CONNTRACK, EXPIRE_NODEST, EXPIRE_TEMPLATES, ACCEPT_LOCAL, *FORWARD.values())


@dataclass(frozen=True, slots=True)
class Name:
    """What people call a key: its service, its server, the bind and the scheduling policy as configured. `check`: it is
    there for checks only."""

    service: str
    server: str | None = None
    bind: str | None = None
    policy: str | None = None
    check: bool = False

    def __str__(self) -> str:
        return self.service if self.server is None else f"{self.service}/{self.server}"


@dataclass(slots=True)
class Desired:
    """The Table, and the name of each virtual service and real server, those of `absent` included: real servers
    that are configured but out (dead or drained), which leave at once and not by quiescing. `notes` say what of the
    configuration the chosen engine leaves out."""

    table: dict[Key, Value] = field(default_factory=dict)
    names: dict[Key, Name] = field(default_factory=dict)
    absent: set[ServerKey] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def desired(
    config: Config,
    pools: Mapping[str, Pool],
    *,
    engines: Mapping[str, EngineName],
    ruleset: Ruleset,
    foreign: Collection[ServiceKey] = (),
) -> Desired:
    """`pools` and `engines` by service name; `ruleset` is the static part of the nftables table. `foreign` are
    virtual services of the kernel that are not kernlb's: a wildcard leaves their traffic alone."""
    result = Desired()
    numbers = assign((service.name for service in config.services), base=config.engine.mark_base)
    for service in config.services:
        if engines[service.name] is EngineName.IPVS:
            _ipvs(result, config, service, pools[service.name], numbers[service.name])
        else:
            _xdp(result, config, service, pools[service.name])
        # A VIP that several services share stays while any of them has quorum.
        quorate = config.addresses.announce is Announce.ALWAYS or pools[service.name].quorum
        if config.addresses.manage and quorate:
            for bind in service.binds:
                if isinstance(bind, AddressBind) and not isinstance(bind.address, Family):
                    result.table[VipKey(config.addresses.interface, bind.address)] = Vip(bind.address.max_prefixlen)
    _check_ways(result, config, engines)
    _exempt(result.table, foreign)
    _settings(result.table, config, ruleset)
    return result


def _ipvs(result: Desired, config: Config, service: Service, pool: Pool, number: int) -> None:
    members = pool.members
    fullnat = any(member.server.forwarding is Forwarding.FULLNAT for member in members)
    limited = service.max_connections is not None or config.max_connections is not None
    marks: set[int] = set()
    for key, binds in _by_service(service, number):
        result.table[key] = VirtualService(
            _scheduler(service), service.flags, _persistence(service, key.family), service.one_packet
        )
        bound = ", ".join(write_bind(bind) for bind in binds)
        result.names[key] = Name(service.name, bind=bound, policy=service.scheduler)
        mark = key.mark if isinstance(key, Fwmark) else number
        if isinstance(key, Fwmark) or fullnat or limited:
            marks.add(mark)
            for bind in binds:
                if isinstance(bind, AddressBind):
                    result.table[MarkKey(bind.address, service.protocol, bind.first, bind.last)] = Mark(mark)
        _absent(result, service, key, pool)
        for member in members:
            server = member.server
            if not _reachable(server, key):
                continue
            server_key = ServerKey(key, server.address, server.port)
            result.table[server_key] = _real_server(member)
            result.names[server_key] = Name(service.name, server.name)
            if server.forwarding is Forwarding.FULLNAT:
                sources = tuple(a for a in config.addresses.source if a.version == server.address.version)
                source_key = SourceKey(mark, server.address, service.protocol, server.port)
                result.table[source_key] = SourceNat(sources)
    if service.max_connections is not None:
        for mark in marks:
            result.table[LimitKey(mark)] = Limit(service.max_connections)


def _xdp(result: Desired, config: Config, service: Service, pool: Pool) -> None:
    members = pool.members
    limit = service.max_connections or config.max_connections
    if limit is not None:
        result.notes.append(
            f"{service.name}: the eBPF program counts no connections, so max_connections {limit} is not kept"
        )
    for bind in service.binds:
        if not isinstance(bind, AddressBind):
            continue
        for port in range(bind.first, bind.last + 1):
            key = Endpoint(EngineName.XDP, service.protocol, bind.address, port)
            persistence = _persistence(service, key.family)
            result.table[key] = VirtualService(_hashing(service), persistence=persistence)
            result.names[key] = Name(service.name, bind=write_bind(bind), policy=service.scheduler)
            _absent(result, service, key, pool)
            for member in members:
                if _reachable(member.server, key):
                    server_key = ServerKey(key, member.server.address, member.server.port)
                    result.table[server_key] = _real_server(member, fullnat=True)
                    result.names[server_key] = Name(service.name, member.server.name)


def _check_ways(result: Desired, config: Config, engines: Mapping[str, EngineName]) -> None:
    """What leads checks through the VIP to their servers, in the pool or not."""
    for (service, server), way in ways(config).items():
        way.require(engines[service])
        # Port 0 keeps the port that the probe asks.
        server_key = ServerKey(way.service, way.server.address, 0)
        result.table |= {way.service: VirtualService(Scheduler.RR), server_key: way.real_server}
        name = Name(f"check of {service}/{server}", check=True)
        result.names |= {way.service: name, server_key: name}
        if way.service.family is Family.IPV4:
            result.table[ACCEPT_LOCAL] = Sysctl("1")


def _reachable(server: Server, service: ServiceKey) -> bool:
    """Only a tunnel carries one family in the other."""
    return family_of(server.address) is service.family or server.forwarding is Forwarding.TUNNEL


def _absent(result: Desired, service: Service, key: ServiceKey, pool: Pool) -> None:
    present = {member.server.name for member in pool.members}
    for server in (*service.servers, *filter(None, (service.sorry_server,))):
        if server.name not in present and server.name in pool.out:
            absent = ServerKey(key, server.address, server.port)
            result.absent.add(absent)
            result.names[absent] = Name(service.name, server.name)


def _by_service(service: Service, number: int) -> Iterator[tuple[ServiceKey, list[Bind]]]:
    """The virtual services of IPVS that a service needs, each with its binds.

    IPVS knows neither wildcards nor port ranges: where a family has one, all its binds share one mark.
    """
    for family in Family:
        binds = [b for b in service.binds if isinstance(b, AddressBind) and _family(b.address) is family]
        if any(isinstance(b.address, Family) or b.first != b.last or b.first == 0 for b in binds):
            yield Fwmark(family, number), list(binds)
        else:
            for bind in binds:
                assert not isinstance(bind.address, Family)
                yield Endpoint(EngineName.IPVS, service.protocol, bind.address, bind.first), [bind]
    for marked in service.binds:
        if isinstance(marked, MarkBind):
            yield Fwmark(marked.family, marked.mark), [marked]


def _family(address: IPAddress | Family) -> Family:
    return address if isinstance(address, Family) else family_of(address)


def _hashing(service: Service) -> Scheduler:
    """The program hashes connections; clients where that is asked for, by what IPVS calls sh or mh without port."""
    by_client = service.scheduler in (Scheduler.SH, Scheduler.MH) and SchedulerFlag.PORT not in service.flags
    return Scheduler.SH if by_client else Scheduler.MAGLEV


def _scheduler(service: Service) -> Scheduler:
    match service.scheduler:
        case Scheduler.MAGLEV:
            return Scheduler.MH
        case Scheduler():
            return service.scheduler
        case _:
            return Scheduler.WRR


def _persistence(service: Service, family: Family) -> Persistence | None:
    """One prefix is configured for both families; IPv4 has no more than 32 bits."""
    kept = service.persistence
    return replace(kept, prefix=min(kept.prefix, _BITS[family])) if kept else None


def _real_server(member: Member, *, fullnat: bool = False) -> RealServer:
    server: Server = member.server
    # IPVS has no fullnat of its own: there it is nat, and nftables changes the source.
    forwarding = Forwarding.NAT if server.forwarding is Forwarding.FULLNAT and not fullnat else server.forwarding
    lower = server.min_connections or server.max_connections * 3 // 4
    tunnel = (server.tunnel or Tunnel()) if forwarding is Forwarding.TUNNEL else None
    return RealServer(forwarding, member.weight, server.max_connections, lower, tunnel)


def _exempt(table: dict[Key, Value], foreign: Collection[ServiceKey]) -> None:
    """Keep wildcards off every destination that has a virtual service of its own: IPVS looks marks up first."""
    wildcards = [key for key in table if isinstance(key, MarkKey) and isinstance(key.address, Family)]
    marked = [key for key in table if isinstance(key, MarkKey) and not isinstance(key.address, Family)]
    for service in [*(key for key in table if isinstance(key, Endpoint)), *foreign]:
        if not isinstance(service, Endpoint) or isinstance(service.address, Family):
            continue
        if any(_covers(key, service) and key.address is service.family for key in wildcards) and not any(
            _covers(key, service) and key.address == service.address for key in marked
        ):
            table[ExemptKey(service.address, service.protocol, service.port)] = Exempt()


def _covers(key: MarkKey, service: Endpoint) -> bool:
    return key.protocol is service.protocol and (key.last == 0 or key.first <= service.port <= key.last)


def _settings(table: dict[Key, Value], config: Config, ruleset: Ruleset) -> None:
    """What the services need of the whole namespace."""
    kinds = {type(key) for key in table}
    mine = [key for key in table if isinstance(key, ServerKey) and key.service.engine is EngineName.IPVS]
    for key in mine:
        server = table[key]
        if isinstance(server, RealServer) and server.forwarding is Forwarding.NAT:
            table[FORWARD[key.service.family]] = Sysctl("1")
    if any(isinstance(key, Endpoint | Fwmark) and key.engine is EngineName.IPVS for key in table):
        table[EXPIRE_NODEST] = Sysctl("1")
    persistent = {key for key, value in table.items() if isinstance(value, VirtualService) and value.persistence}
    if any(isinstance(key, Endpoint | Fwmark) and key.engine is EngineName.IPVS for key in persistent):
        table[EXPIRE_TEMPLATES] = Sysctl("1")
    if config.max_connections is not None and MarkKey in kinds:
        table[LimitKey(None)] = Limit(config.max_connections)
    if SourceKey in kinds or LimitKey in kinds or LimitKey(None) in table:
        table[CONNTRACK] = Sysctl("1")
    if kinds & {MarkKey, SourceKey, LimitKey, ExemptKey}:
        table[RulesetKey()] = ruleset
    if config.timers is not None and mine:
        table[TimersKey()] = config.timers
    for sync_key, daemon in config.sync:
        table[sync_key] = daemon
