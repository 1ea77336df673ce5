"""What services need around them: marks, limits, source NAT, exemptions, addresses, sysctls. Pure.

All of it follows from the configuration, as if every server served: a verdict writes none of it.
"""

from collections.abc import Collection, Iterator
from math import ceil

from kernlb.balanced import by_service, reachable
from kernlb.checks.spec import BfdProbe, CommandProbe, FileProbe, PingProbe, Probe, UdpProbe
from kernlb.config.values import AddressBind, Config, Service
from kernlb.model import (
    CheckTimeouts,
    Endpoint,
    EngineName,
    Exempt,
    ExemptKey,
    Family,
    Forwarding,
    Fwmark,
    Key,
    Limit,
    LimitKey,
    Mark,
    MarkKey,
    RealServer,
    Ruleset,
    RulesetKey,
    ServerKey,
    ServiceKey,
    SourceKey,
    SourceNat,
    Sysctl,
    SysctlKey,
    Table,
    TimersKey,
    Value,
    Vip,
    VipKey,
    VirtualService,
)
from kernlb.ratings import all_servers
from kernlb.vip_checks import ACCEPT_LOCAL

TRACELESS: tuple[type[Probe], ...] = (PingProbe, UdpProbe, CommandProbe, FileProbe, BfdProbe)
"""Probes that open no TCP connection of kernlb's own."""

CONNTRACK = SysctlKey("net.ipv4.vs.conntrack")
EXPIRE_NODEST = SysctlKey("net.ipv4.vs.expire_nodest_conn")
EXPIRE_TEMPLATES = SysctlKey("net.ipv4.vs.expire_quiescent_template")
FORWARD = {Family.IPV4: SysctlKey("net.ipv4.ip_forward"), Family.IPV6: SysctlKey("net.ipv6.conf.all.forwarding")}
SYSCTLS = (CONNTRACK, EXPIRE_NODEST, EXPIRE_TEMPLATES, ACCEPT_LOCAL, *FORWARD.values())


def mark(table: dict[Key, Value], config: Config, service: Service, default: int) -> None:
    """What nftables does for a service of IPVS: marks, limits, source NAT."""
    fullnat = [server for server in all_servers(service) if server.forwarding is Forwarding.FULLNAT]
    limited = service.max_connections is not None or config.max_connections is not None
    marks: set[int] = set()
    for key, binds in by_service(service, default):
        number = key.mark if isinstance(key, Fwmark) else default
        if isinstance(key, Fwmark) or fullnat or limited:
            marks.add(number)
            for bind in binds:
                if isinstance(bind, AddressBind):
                    table[MarkKey(bind.address, service.protocol, bind.first, bind.last)] = Mark(number)
        for server in fullnat:
            if reachable(server, key):
                sources = tuple(a for a in config.addresses.source if a.version == server.address.version)
                source = SourceNat(sources, config.addresses.source_ports)
                table[SourceKey(number, server.address, service.protocol, server.port)] = source
    if service.max_connections is not None:
        for number in marks:
            table[LimitKey(number)] = Limit(service.max_connections)


def vips(config: Config, lost: Collection[str]) -> Iterator[tuple[Key, Value]]:
    """Where kernlb manages them. A VIP that several services share stays while any of them has quorum."""
    for service in config.services if config.addresses.manage else ():
        for bind in service.binds if service.name not in lost else ():
            if isinstance(bind, AddressBind) and not isinstance(bind.address, Family):
                yield VipKey(config.addresses.interface, bind.address), Vip(bind.address.max_prefixlen)


def exempt(table: dict[Key, Value], foreign: Collection[ServiceKey]) -> None:
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


def check_timeouts(config: Config) -> CheckTimeouts | None:
    """What conntrack is to know of the checks' connections: an answer in time belongs to its SYN. None where nothing
    is checked over TCP."""
    checks = [check for service in config.services for server in all_servers(service) for check in server.probed]
    patient = [check.patience for check in checks if not isinstance(check.probe, TRACELESS)]
    return CheckTimeouts(ceil(max(patient))) if patient else None


def settings(result: dict[Key, Value], table: Table, config: Config, ruleset: Ruleset) -> None:
    """What the services need of the whole namespace."""
    kinds = {type(key) for key in table}
    mine = [key for key in table if isinstance(key, ServerKey) and key.service.engine is EngineName.IPVS]
    for key in mine:
        server = table[key]
        if isinstance(server, RealServer) and server.forwarding is Forwarding.NAT:
            result[FORWARD[key.service.family]] = Sysctl("1")
    if any(isinstance(key, Endpoint | Fwmark) and key.engine is EngineName.IPVS for key in table):
        result[EXPIRE_NODEST] = Sysctl("1")
    persistent = {key for key, value in table.items() if isinstance(value, VirtualService) and value.persistence}
    if any(isinstance(key, Endpoint | Fwmark) and key.engine is EngineName.IPVS for key in persistent):
        result[EXPIRE_TEMPLATES] = Sysctl("1")
    if config.max_connections is not None and MarkKey in kinds:
        result[LimitKey(None)] = Limit(config.max_connections)
    if SourceKey in kinds or LimitKey in kinds or LimitKey(None) in result:
        result[CONNTRACK] = Sysctl("1")
    if kinds & {MarkKey, SourceKey, LimitKey, ExemptKey}:
        result[RulesetKey()] = ruleset
    if config.timers is not None and mine:
        result[TimersKey()] = config.timers
    for sync_key, daemon in config.sync:
        result[sync_key] = daemon
