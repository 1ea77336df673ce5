"""A Config as haproxy.cfg that HAProxy accepts; what it has no word for stands there as a comment."""

from collections.abc import Iterable, Iterator

from kernlb.checks.title import title
from kernlb.config.values import AddressBind, Bind, Config, MarkBind, OnFailure, Policy, Server, Service
from kernlb.formats.haproxy.assemble import KERNEL_TIMERS
from kernlb.formats.haproxy.written import carried, checked, clean, seconds, server_words, time
from kernlb.model import Family, Forwarding, Protocol, Scheduler, SchedulerFlag

_BALANCE: dict[Scheduler | Policy, str] = {
    Scheduler.WRR: "roundrobin",
    Scheduler.RR: "roundrobin",
    Scheduler.WLC: "leastconn",
    Scheduler.LC: "leastconn",
    Scheduler.SED: "leastconn",
    Scheduler.NQ: "leastconn",
    Scheduler.LBLC: "leastconn",
    Scheduler.LBLCR: "leastconn",
    Scheduler.FO: "first",
    Scheduler.OVF: "first",
    Scheduler.SH: "source",
    Scheduler.MH: "source",
    Scheduler.DH: "source",
    Scheduler.MAGLEV: "source",
    Policy.LEAST_RESPONSE_TIME: "roundrobin",
}
_SAME = frozenset({Scheduler.WRR, Scheduler.WLC})
_CONSISTENT = frozenset({Scheduler.MH, Scheduler.MAGLEV})
HEAVIEST = 256


def write(config: Config) -> str:
    lines = [*_global(config), *_defaults(config)]
    # What each backend says, by name; a listen section takes its own name for itself.
    pools = {clean(service.name): "listen" for service in config.services if service.pool is None}
    for service in config.services:
        lines += ["", *_service(service, config, pools)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _global(config: Config) -> Iterator[str]:
    commands = any(
        (check := carried(server)) and checked(check).external
        for service in config.services
        for server in service.servers
    )
    if config.max_connections is not None or commands:
        yield "global"
        if config.max_connections is not None:
            yield f"    maxconn {config.max_connections}"
        if commands:
            yield "    external-check"
            yield "    insecure-fork-wanted"
        yield ""
    if config.sync:
        yield "# not said: synchronisation of connections between directors"
    if config.addresses.manage:
        yield f"# not said: addresses are put on {config.addresses.interface}"
    if len(config.addresses.source) > 1:
        yield "# not said: source addresses but the first"
    if config.addresses.source_ports is not None:
        yield f"# not said: source ports {config.addresses.source_ports}"


def _defaults(config: Config) -> Iterator[str]:
    yield "defaults"
    yield "    mode tcp"
    if config.timers is None:
        yield "    # no timers are configured; HAProxy warns of that"
        return
    yield "    timeout connect 5s"
    for side in ("client", "server"):
        yield f"    timeout {side} {config.timers.tcp}s"
    if config.timers.tcp_fin != KERNEL_TIMERS.tcp_fin:
        for side in ("client", "server"):
            yield f"    timeout {side}-fin {config.timers.tcp_fin}s"
    if config.timers.udp != KERNEL_TIMERS.udp:
        yield f"    # not said: UDP connections idle {config.timers.udp} s"


def _service(service: Service, config: Config, pools: dict[str, str]) -> Iterator[str]:
    if service.protocol is not Protocol.TCP:
        yield f"# not said: service {clean(service.name)}, which is {service.protocol}"
        return
    if not any(isinstance(bind, AddressBind) and bind.first for bind in service.binds):
        yield f"# not said: service {clean(service.name)}, which has no address with a port"
        return
    yield from _unsaid(service)
    name, back = clean(service.name), list(_back(service, config))
    front = list(_front(service))
    if service.pool is None:
        yield f"listen {name}"
        yield from front
        yield from back
        return
    pool, body = clean(service.pool), "\n".join(back)
    if pools.get(pool, body) != body:
        # Services share a pool by name only while they say the same of it.
        pool = f"{name}.{pool}"
    new = pool not in pools
    pools[pool] = body
    yield f"frontend {name}"
    yield from front
    yield f"    default_backend {pool}"
    if new:
        yield ""
        yield f"backend {pool}"
        yield from back


def _front(service: Service) -> Iterator[str]:
    if service.max_connections is not None:
        yield f"    maxconn {service.max_connections}"
    for bind in service.binds:
        yield f"    {_bind(bind)}"


def _bind(bind: Bind) -> str:
    if isinstance(bind, MarkBind):
        return f"# not said: packets with firewall mark {bind.mark}"
    if not bind.first:
        return f"# not said: every port of {bind.address}"
    ports = str(bind.first) if bind.first == bind.last else f"{bind.first}-{bind.last}"
    match bind.address:
        case Family.IPV4:
            return f"bind *:{ports}"
        case Family.IPV6:
            return f"bind [::]:{ports} v6only"
        case address:
            return f"bind {address}:{ports}" if address.version == 4 else f"bind [{address}]:{ports}"


def _back(service: Service, config: Config) -> Iterator[str]:
    yield f"    balance {_BALANCE[service.scheduler]}"
    if service.scheduler in _CONSISTENT:
        yield "    hash-type consistent"
    if service.all_backups:
        yield "    option allbackups"
    if service.persistence is not None:
        v6 = any(server.address.version == 6 for server in service.servers)
        yield f"    stick-table type {'ipv6' if v6 else 'ip'} size 1m expire {service.persistence.timeout}s"
        yield "    stick on src"
    if service.servers and all(server.forwarding is Forwarding.NAT for server in service.servers):
        yield "    source 0.0.0.0 usesrc clientip"
    elif config.addresses.source:
        yield f"    source {config.addresses.source[0]}"
    yield from _checks(service.servers)
    heaviest = max((server.weight for server in service.servers), default=1)
    for server in service.servers:
        weight = server.weight
        if heaviest > HEAVIEST:
            weight = max(1, round(server.weight * HEAVIEST / heaviest)) if server.weight else 0
        if service.scheduler is Scheduler.FO:
            weight = 1
        yield f"    {server_words(server, weight)}"
    if service.sorry_server is not None:
        yield f"    {server_words(service.sorry_server, 1)} backup"


def _checks(servers: tuple[Server, ...]) -> Iterator[str]:
    """How the servers are checked, said once for all of them as HAProxy has it."""
    checks = [check for server in servers if (check := carried(server))]
    if not checks:
        return
    first = checked(checks[0])
    for line in (*first.lines, *first.unsaid):
        yield f"    {line}"
    if any(checked(check).lines != first.lines for check in checks[1:]):
        yield "    # not said: some servers are checked in another way"
    impatient = {check.timeout for check in checks if check.timeout is not None}
    if len(impatient) == 1 and len({(check.timeout, check.interval) for check in checks}) == 1:
        timeout = seconds(impatient.pop())
        connect = timeout if first.connect_only else min(timeout / 2, checks[0].interval)
        yield f"    timeout connect {time(min(connect, checks[0].interval))}"
        yield f"    timeout check {time(timeout if first.connect_only else timeout - connect)}"
    elif impatient:
        yield "    # not said: timeouts of checks, which differ"


def _unsaid(service: Service) -> Iterator[str]:
    """Comments for what HAProxy does in another way or not at all."""
    heaviest = max((server.weight for server in service.servers), default=1)
    name = clean(service.name)
    facts: Iterable[tuple[bool, str]] = (
        (name != service.name, f"the name {service.name!r}"),
        (
            service.scheduler not in _SAME
            and not (service.scheduler in (Scheduler.SH, Scheduler.MH) and service.flags == {SchedulerFlag.FALLBACK}),
            f"scheduler {service.scheduler}",
        ),
        (bool(service.flags - {SchedulerFlag.FALLBACK}), f"scheduler flags {', '.join(sorted(service.flags))}"),
        (service.quorum != 1 or service.hysteresis != 0, f"quorum {service.quorum}, hysteresis {service.hysteresis}"),
        (service.panic > 0, f"panic below {service.panic:g} of the servers"),
        (service.on_failure is not OnFailure.REMOVE, f"on_failure {service.on_failure}"),
        (service.one_packet, "one packet is one connection"),
        (service.sorry_server is not None, "a sorry server is not checked; here it is a backup"),
        (heaviest > HEAVIEST, f"weights above {HEAVIEST}: scaled"),
        (
            service.persistence is not None and service.persistence.engine is not None,
            "the persistence engine",
        ),
        (
            service.persistence is not None and service.persistence.prefix not in (32, 128),
            "persistence of whole networks",
        ),
    )
    for true, fact in facts:
        if true:
            yield f"# not said of {name}: {fact}".replace("\n", " ")
    kinds = {str(server.forwarding) for server in service.servers}
    if kinds - {Forwarding.FULLNAT, Forwarding.NAT} or len(kinds) > 1:
        yield f"# not said of {name}: forwarding {', '.join(sorted(kinds))}"
    further = [title(c) for server in service.servers for c in server.checks if c != carried(server)]
    if further:
        said = f"# not said of {name}: HAProxy makes one check of a server, and not {', '.join(dict.fromkeys(further))}"
        yield said.replace("\n", " ")
    if any(server.min_connections for server in service.servers):
        yield f"# not said of {name}: min_connections"
