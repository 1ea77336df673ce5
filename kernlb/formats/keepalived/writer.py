"""A Config as keepalived.conf that `keepalived -t` takes; what it has no word for stands there as a comment."""

from collections.abc import Iterator

from kernlb.checks.spec import CommandProbe
from kernlb.config.values import AddressBind, Bind, Config, MarkBind, OnFailure, Policy, Server, Service
from kernlb.formats.keepalived.sessions import block, names_of
from kernlb.formats.keepalived.written import Names, checkers, quoted, track_files
from kernlb.model import (
    Family,
    Forwarding,
    Persistence,
    Scheduler,
    SchedulerFlag,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
    family_of,
)

_METHODS = {
    Forwarding.NAT: "NAT",
    Forwarding.FULLNAT: "NAT",
    Forwarding.DIRECT: "DR",
    Forwarding.TUNNEL: "TUN",
}
_SUMS = {TunnelChecksum.NONE: "nocsum", TunnelChecksum.CHECKSUM: "csum", TunnelChecksum.REMOTE: "remcsum"}
_NUMBERED = {SchedulerFlag.FALLBACK: "flag-1", SchedulerFlag.PORT: "flag-2", SchedulerFlag.FLAG_3: "flag-3"}


def write(config: Config) -> str:
    lines: list[str] = []
    if said := list(_global(config)):
        lines += ["global_defs {", *(f"    {line}" for line in said), "}", ""]
    if config.max_connections is not None:
        lines += [f"# not said: max_connections {config.max_connections} of all services", ""]
    if config.sync:
        lines += ["# not said: synchronisation daemons; lvs_sync_daemon wants a VRRP instance", ""]
    servers = [server for service in config.services for server in service.servers]
    names = Names(track_files(check for server in servers for check in server.checks), names_of(servers))
    for path, name in names.files.items():
        lines += [f"track_file {name} {{", f"    file {quoted(path)}", "}", ""]
    for session, name in names.sessions.items():
        lines += [*block(session, name), ""]
    for number, service in enumerate(config.services, 1):
        lines += [*_service(service, number, names), ""]
    return "\n".join(lines)


def _global(config: Config) -> Iterator[str]:
    if config.timers is not None:
        yield f"lvs_timeouts tcp {config.timers.tcp} tcpfin {config.timers.tcp_fin} udp {config.timers.udp}"
    checks = (check for service in config.services for server in service.servers for check in server.checks)
    if any(isinstance(check.probe, CommandProbe) for check in checks):
        # keepalived refuses scripts whose safety nobody has asked it to check.
        yield "script_user root"
        yield "enable_script_security"


def _service(service: Service, number: int, names: Names) -> Iterator[str]:
    """`names` are those of what its checkers refer to."""
    name = service.name.replace("\n", " ")
    yield f"# {name}"
    for fact in _unsaid(service):
        yield f"# not said of {name}: {fact}"
    families = {family_of(server.address) for server in service.servers}
    tunnelled = all(server.forwarding is Forwarding.TUNNEL for server in service.servers)
    if not service.servers:
        yield f"# not said: {name}, which has no real servers"
        return
    for family in Family:
        binds = [bind for bind in service.binds if _family(bind) is family and _sayable(bind)]
        if binds and (tunnelled or family in families):
            yield from _virtual_servers(service, binds, family, f"group{number}_{family}", names)


def _virtual_servers(service: Service, binds: list[Bind], family: Family, group: str, names: Names) -> Iterator[str]:
    words = [word for bind in binds for word in _addresses(bind)]
    if len(words) == 1:
        heading = f"virtual_server {words[0]}"
    else:
        yield f"virtual_server_group {group} {{"
        for word in words:
            yield f"    {word}"
        yield "}"
        heading = f"virtual_server group {group}"
    yield f"{heading} {{"
    for line in _body(service, family, names):
        yield f"    {line}"
    yield "}"


def _body(service: Service, family: Family, names: Names) -> Iterator[str]:
    scheduler = Scheduler.WRR if isinstance(service.scheduler, Policy) else service.scheduler
    scheduler = Scheduler.MH if scheduler is Scheduler.MAGLEV else scheduler
    yield f"lvs_sched {scheduler}"
    for flag in sorted(service.flags):
        named = scheduler in (Scheduler.SH, Scheduler.MH) and flag is not SchedulerFlag.FLAG_3
        yield f"{scheduler}-{flag}" if named else _NUMBERED[flag]
    if not all(isinstance(bind, MarkBind) for bind in service.binds):
        yield f"protocol {service.protocol.upper()}"
    if family is Family.IPV6 and all(isinstance(bind, MarkBind) for bind in service.binds):
        yield "ip_family inet6"
    if service.one_packet:
        yield "ops"
    if service.persistence is not None:
        yield from _persistence(service.persistence, family)
    servers = [
        server
        for server in service.servers
        if not server.backup and (family_of(server.address) is family or server.forwarding is Forwarding.TUNNEL)
    ]
    yield from _quorum(service, sum(server.weight for server in servers if not server.disabled))
    if service.on_failure is OnFailure.QUIESCE:
        yield "inhibit_on_failure"
    if service.sorry_server is not None:
        sorry = service.sorry_server
        yield f"sorry_server {sorry.address} {sorry.port}".removesuffix(" 0")
        yield f"sorry_server_lvs_method {_method(sorry)}"
    for server in servers:
        yield from _server(server, names)


def _quorum(service: Service, total: int) -> Iterator[str]:
    """A virtual server has the servers of one family, of these weights in all: no quorum is out of their reach."""
    quorum = max(1, min(service.quorum, total))
    hysteresis = max(0, min(service.hysteresis, total - quorum, quorum - 1))
    if (quorum, hysteresis) != (service.quorum, service.hysteresis):
        yield f"# not said: a quorum of {service.quorum} of all its servers, and its hysteresis of {service.hysteresis}"
    if quorum != 1:
        yield f"quorum {quorum}"
    if hysteresis:
        yield f"hysteresis {hysteresis}"


def _persistence(persistence: Persistence, family: Family) -> Iterator[str]:
    yield f"persistence_timeout {persistence.timeout}"
    widest = 32 if family is Family.IPV4 else 128
    if persistence.prefix < widest:
        mask = (2**32 - 1) >> (32 - persistence.prefix) << (32 - persistence.prefix) if widest == 32 else 0
        dotted = ".".join(str(mask >> shift & 255) for shift in (24, 16, 8, 0))
        yield f"persistence_granularity {dotted if widest == 32 else persistence.prefix}"
    if persistence.engine is not None:
        yield f"persistence_engine {quoted(persistence.engine)}"


def _server(server: Server, names: Names) -> Iterator[str]:
    yield f"# {server.name}".replace("\n", " ")
    yield f"real_server {server.address} {server.port} {{".replace(" 0 {", " {")
    yield f"    weight {0 if server.disabled else server.weight}"
    yield f"    lvs_method {_method(server)}"
    if server.max_connections:
        yield f"    uthreshold {server.max_connections}"
    if server.min_connections:
        yield f"    lthreshold {server.min_connections}"
    for line in checkers(server.checks, server.address, names):
        yield f"    {line}"
    yield "}"


def _method(server: Server) -> str:
    tunnel = server.tunnel or Tunnel()
    if server.forwarding is not Forwarding.TUNNEL or tunnel.kind is TunnelKind.IPIP:
        return _METHODS[server.forwarding]
    port = f" port {tunnel.port}" if tunnel.port else ""
    return f"TUN type {tunnel.kind}{port} {_SUMS[tunnel.checksum]}"


def _family(bind: Bind) -> Family:
    match bind:
        case MarkBind(family=family):
            return family
        case AddressBind(address=Family() as family):
            return family
        case AddressBind(address=address):
            return family_of(address) if not isinstance(address, Family) else address


def _sayable(bind: Bind) -> bool:
    return isinstance(bind, MarkBind) or not isinstance(bind.address, Family)


def _addresses(bind: Bind) -> Iterator[str]:
    if isinstance(bind, MarkBind):
        yield f"fwmark {bind.mark}"
        return
    for port in range(bind.first, bind.last + 1):
        yield f"{bind.address} {port}" if port else f"{bind.address}"


def _unsaid(service: Service) -> Iterator[str]:
    if any(not _sayable(bind) for bind in service.binds):
        yield "wildcard binds; keepalived wants addresses, or a firewall mark that nftables sets"
    if isinstance(service.scheduler, Policy) or service.scheduler is Scheduler.MAGLEV:
        yield f"scheduler {service.scheduler}"
    if any(server.forwarding is Forwarding.FULLNAT for server in service.servers):
        yield "fullnat; masquerade its connections with nftables, and set net.ipv4.vs.conntrack=1"
    if service.max_connections is not None:
        yield f"max_connections {service.max_connections}"
    if service.panic:
        yield f"panic below {service.panic:g} of the servers"
    if any(server.backup for server in service.servers):
        yield "backup servers"
    if any(server.agent is not None for server in service.servers):
        yield "agent checks"
    if any(server.slow_start for server in service.servers):
        yield "slow start"
