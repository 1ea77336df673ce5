"""What the parts of a Config must not do together. Holds for every Config, whatever file it came from."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from kernlb.checks.spec import BfdProbe, Check, CommandProbe, FileProbe, PingProbe
from kernlb.config.findings import Finding, Path
from kernlb.config.notation import write_bind, write_socket
from kernlb.config.values import (
    AddressBind,
    Announce,
    Bind,
    Config,
    EngineChoice,
    MarkBind,
    Policy,
    Server,
    Service,
)
from kernlb.marks import SPAN, is_ours
from kernlb.model import (
    Family,
    Forwarding,
    IPAddress,
    Protocol,
    Scheduler,
    TunnelChecksum,
    TunnelKind,
    family_of,
)
from kernlb.vip_checks import PATHLESS, vips

ONE_WAY = frozenset({Forwarding.DIRECT, Forwarding.TUNNEL})
"""Replies go past the director, and ports stay as the client wrote them."""

HASHED = frozenset({Scheduler.SH, Scheduler.MH})
COUNTED = frozenset({
    Scheduler.FO, Scheduler.OVF, Scheduler.LBLC, Scheduler.LBLCR, Scheduler.DH, Scheduler.SED, Scheduler.NQ,
})  # fmt: skip
"""Schedulers that need what only IPVS keeps."""

PORTLESS = (PingProbe, CommandProbe, FileProbe, BfdProbe)
_HOW = {Family.IPV4: "an IPv4", Family.IPV6: "an IPv6"}


def findings(config: Config) -> Iterator[Finding]:
    """Everything in a Config that cannot work, each with what would."""
    yield from _settings(config)
    yield from _binds(config)
    yield from _sessions(config)
    for service in config.services:
        path: Path = ("service", service.name)
        yield from _service(service, path)
        yield from _engine(service, config, path)
        yield from _limits(service, config, path)
        yield from _servers(service, config, path)


def named_servers(service: Service) -> Iterator[tuple[Path, Server]]:
    """Every real server and its place under the service."""
    for server in service.servers:
        yield ("servers", server.name), server
    if service.sorry_server:
        yield ("sorry_server",), service.sorry_server


def families(service: Service) -> set[Family]:
    return {family_of_bind(bind) for bind in service.binds}


def family_of_bind(bind: Bind) -> Family:
    if isinstance(bind, MarkBind):
        return bind.family
    return bind.address if isinstance(bind.address, Family) else family_of(bind.address)


def family_of_marks(servers: Sequence[Server], binds: Sequence[object]) -> Family:
    """The family of an `fwmark:N` that names none: IPv6 where nothing of the service is IPv4."""
    families = {family_of(server.address) for server in servers}
    families = families or {family_of_bind(bind) for bind in binds if isinstance(bind, AddressBind)}
    return Family.IPV6 if families == {Family.IPV6} else Family.IPV4


def _settings(config: Config) -> Iterator[Finding]:
    if not is_ours(config.engine.mark_base, base=config.engine.mark_base) or not config.engine.mark_base:
        hint = f"write {config.engine.mark_base & ~(SPAN - 1) or 0x4B4C0000:#x}"
        yield Finding(("engine", "mark_base"), "the lower 16 bits must be zero: they number the services", hint)
    if config.addresses.announce is Announce.QUORUM and not config.addresses.manage:
        yield Finding(("addresses", "announce"), "kernlb takes no VIP away that it does not manage", "manage = true")
    if config.max_connections is not None:
        past = [s.name for s in config.services if any(x.forwarding in ONE_WAY for _, x in named_servers(s))]
        if past:
            yield Finding(("max_connections",), f"cannot count the connections of {', '.join(past[:3])}", _COUNTING)
    if len(config.services) >= SPAN:
        yield Finding(("service",), f"{len(config.services):,} services", f"at most {SPAN - 1:,}")


def _binds(config: Config) -> Iterator[Finding]:
    taken: dict[tuple[Protocol, IPAddress | Family], list[tuple[int, int, Path]]] = defaultdict(list)
    marks: dict[tuple[Family, int], Path] = {}
    for service in config.services:
        for index, bind in enumerate(service.binds):
            path = ("service", service.name, "bind", index)
            match bind:
                case MarkBind(family=family, mark=mark):
                    if is_ours(mark, base=config.engine.mark_base):
                        wrong = f"mark {mark:#x} is one of kernlb's own"
                        yield Finding(path, wrong, "take another mark, or move engine.mark_base")
                    first = marks.setdefault((family, mark), path)
                    if first != path:
                        yield Finding(path, f"{write_bind(bind)} is already bound by {_who(first)}", _TWICE)
                case AddressBind(address=address, first=low, last=high):
                    taken[service.protocol, address].append((low, high, path))
    for (protocol, address), ranges in taken.items():
        yield from _overlaps(protocol, address, ranges)


def _overlaps(
    protocol: Protocol, address: IPAddress | Family, ranges: list[tuple[int, int, Path]]
) -> Iterator[Finding]:
    """Any port of one address yields to its single ports, as in the kernel; among wildcards nothing yields."""
    if len(ranges) < 2:
        return
    wildcard = isinstance(address, Family)
    spans = [(1, 65535, p) if wildcard and not high else (low, high, p) for low, high, p in ranges]
    order = {path: index for index, (_, _, path) in enumerate(spans)}
    widest: tuple[int, int, Path] | None = None
    for low, high, path in sorted(spans, key=lambda span: span[:2]):
        if widest and low <= widest[1]:
            # The one that stands later in the file is told.
            later, earlier = sorted((path, widest[2]), key=order.__getitem__, reverse=True)
            first, last = low, min(high, widest[1])
            bind = write_bind(AddressBind(address, first, last))
            yield Finding(later, f"{protocol} {bind} is already bound by {_who(earlier)}", _TWICE)
        if widest is None or high > widest[1]:
            widest = (low, high, path)


def _who(path: Path) -> str:
    return f"service {path[1]}"


def _service(service: Service, path: Path) -> Iterator[Finding]:
    if service.one_packet and service.protocol is not Protocol.UDP:
        wrong = f"one_packet schedules datagrams, and the protocol is {service.protocol}"
        yield Finding((*path, "one_packet"), wrong, 'leave it out, or write protocol = "udp"')
    if service.flags and service.scheduler not in HASHED:
        names = ", ".join(sorted(service.flags))
        yield Finding((*path, "flags"), f"{names}: scheduler {service.scheduler} has no flags", "sh and mh have")
    if service.persistence is not None:
        here = (*path, "persistence")
        prefix, bound = service.persistence.prefix, families(service)
        if prefix > 32 and Family.IPV6 not in bound and bound:
            yield Finding(here, f"an IPv4 client has no prefix of {prefix} bits", "write 1 to 32")
        if prefix != 128 and len(bound) > 1:
            wrong = f"a prefix of {prefix} bits cannot fit IPv4 and IPv6 alike"
            yield Finding(here, wrong, "make one service for each family, or leave the prefix out")
        if service.persistence.engine == "sip" and service.protocol is not Protocol.UDP:
            yield Finding(here, f"engine sip reads UDP, and the protocol is {service.protocol}", 'protocol = "udp"')
    total = sum(server.weight for server in service.servers if not server.backup)
    asked = service.quorum + service.hysteresis
    if service.hysteresis >= service.quorum and service.hysteresis:
        wrong = f"a hysteresis of {service.hysteresis} would never let a quorum of {service.quorum} be lost"
        yield Finding((*path, "hysteresis"), wrong, f"write less than {service.quorum}")
    elif asked > 1 and asked > total:
        more = f" with its hysteresis of {service.hysteresis}" if service.hysteresis else ""
        wrong = f"a quorum of {service.quorum}{more} is out of reach: the weights sum up to {total}"
        yield Finding((*path, "quorum"), wrong, f"write at most {max(1, total - service.hysteresis)}")
    if isinstance(service.scheduler, Policy) and (untimed := [s.name for s in service.servers if s.timed is None]):
        wrong = f"{service.scheduler} learns from checks that measure time, and {', '.join(untimed[:3])} has none"
        yield Finding((*path, "scheduler"), wrong, 'write check = { type = "http", path = "/" }')


def _engine(service: Service, config: Config, path: Path) -> Iterator[Finding]:
    """What the eBPF program can never carry, where it is asked for by name. What it lacks today is its to say."""
    engine = service.engine if service.engine is not EngineChoice.AUTO else config.engine.default
    for index, bind in enumerate(service.binds):
        marked = service.max_connections or config.max_connections
        marked = marked or any(server.forwarding is Forwarding.FULLNAT for server in service.servers)
        if isinstance(bind, MarkBind) and engine is EngineChoice.XDP:
            hint = 'write engine = "ipvs", or bind the address'
            yield Finding((*path, "bind", index), "the eBPF program runs before marks are set", hint)
        any_port = isinstance(bind, AddressBind) and not isinstance(bind.address, Family) and not bind.last
        if any_port and engine is not EngineChoice.XDP and service.persistence is None and not marked:
            wide = write_bind(bind).removesuffix("0") + "1-65535"
            hint = f'write persistence = true, or bind "{wide}"'
            yield Finding((*path, "bind", index), "IPVS takes port 0 only with persistence", hint)
    if engine is not EngineChoice.XDP:
        return
    if service.protocol is Protocol.SCTP:
        yield Finding((*path, "protocol"), "engine xdp carries tcp and udp", 'write engine = "ipvs"')
    if service.scheduler in COUNTED:
        wrong = f"engine xdp has no scheduler {service.scheduler}"
        yield Finding((*path, "scheduler"), wrong, 'write scheduler = "maglev", or engine = "ipvs"')
    if service.one_packet:
        yield Finding((*path, "one_packet"), "engine xdp hashes flows, never single datagrams", 'engine = "ipvs"')


_TWICE = "bind it in one service only"
_COUNTING = (
    "replies of direct and tunnel servers bypass the director, which never sees their connections end; "
    "write max_connections at each server instead"
)


def _limits(service: Service, config: Config, path: Path) -> Iterator[Finding]:
    past = [server for _, server in named_servers(service) if server.forwarding in ONE_WAY]
    if service.max_connections is not None and past:
        yield Finding((*path, "max_connections"), f"{past[0].forwarding} connections cannot be counted", _COUNTING)
    tunnelled = [server for server in past if server.forwarding is Forwarding.TUNNEL]
    mixed = [server for server in tunnelled if any(family_of(server.address) is not f for f in families(service))]
    if mixed and config.sync:
        wrong = f"{mixed[0].name} is of another family than the service, which connection synchronisation cannot tell"
        yield Finding((*path, "servers", mixed[0].name), wrong, "use servers of the same family, or leave [sync] out")


def _servers(service: Service, config: Config, path: Path) -> Iterator[Finding]:
    seen: dict[tuple[IPAddress, int], str] = {}
    names: set[str] = set()
    bound = families(service)
    for place, server in named_servers(service):
        here = (*path, *place)
        other = seen.setdefault((server.address, server.port), server.name)
        if server.name in names:
            yield Finding((*here, "name"), f"a server is already called {server.name}", "give it another name")
        elif other != server.name:
            address = write_socket(server.address, server.port)
            yield Finding(here, f"{address} is already server {other}", "keep one of the two, with their weights' sum")
        names.add(server.name)
        family = family_of(server.address)
        if bound and family not in bound and server.forwarding is not Forwarding.TUNNEL:
            wrong = f"{_HOW[family]} server cannot serve {_HOW[next(iter(bound))]} service by {server.forwarding}"
            yield Finding(here, wrong, "write an address of the same family; only forwarding tunnel mixes them")
        if server.forwarding in ONE_WAY and server.port:
            yield from _same_port(service, server, here)
        if server.forwarding is Forwarding.FULLNAT and service.protocol is Protocol.SCTP:
            yield Finding(here, "fullnat carries tcp and udp", 'write forwarding = "nat", "direct" or "tunnel"')
        if server.min_connections and server.min_connections >= server.max_connections:
            hint = "write min_connections below max_connections" if server.max_connections else "write max_connections"
            yield Finding((*here, "min_connections"), "begins again where it never stopped", hint)
        yield from _tunnel(server, here)
        yield from _via_vip(service, server, config, here)
        if not server.port and any(not (c.port or isinstance(c.probe, PORTLESS)) for c in server.checks):
            hint = "write port = 80 in the check, or at the server"
            yield Finding(here, "the server has no port of its own: its check needs one", hint)


def _via_vip(service: Service, server: Server, config: Config, path: Path) -> Iterator[Finding]:
    if server.agent is not None and server.agent.via_vip:
        yield Finding((*path, "agent", "via_vip"), "an agent speaks for its server, not for the VIP", "leave it out")
    for index, check in enumerate(server.checks):
        if check.via_vip:
            yield from _check_via_vip(service, server, check, config, (*path, *_place(server, index), "via_vip"))


def _place(server: Server, index: int) -> Path:
    return ("check",) if len(server.checks) == 1 else ("check", index)


def _check_via_vip(service: Service, server: Server, check: Check, config: Config, here: Path) -> Iterator[Finding]:
    fixed = next((n for n in ("address", "mark", "interface") if getattr(check, n) is not None), None)
    engine = service.engine if service.engine is not EngineChoice.AUTO else config.engine.default
    if server.forwarding not in ONE_WAY:
        wrong = f"forwarding {server.forwarding} gives the server its own address to answer, never the VIP"
        yield Finding(here, wrong, "leave it out: the ordinary check takes the path of the traffic")
    elif isinstance(check.probe, PATHLESS):
        yield Finding(here, "this kind of check cannot go the way of the traffic", "use tcp, http or another")
    elif fixed is not None:
        yield Finding(here, f"a check through the VIP chooses its {fixed} itself", f"leave {fixed} or via_vip out")
    elif engine is EngineChoice.XDP:
        yield Finding(here, "engine xdp does not see what the director itself sends", 'write engine = "ipvs"')
    elif not vips(service, server):
        wrong = f"the service is bound to no address of the server's family, {family_of(server.address)}"
        yield Finding(here, wrong, "bind an address, or leave via_vip out")


def _sessions(config: Config) -> Iterator[Finding]:
    """Between two machines there is one BFD session over each port: RFC 5880 6.3, RFC 5881 3, RFC 5883 4.1."""
    seen: dict[tuple[IPAddress, bool], object] = {}
    for service in config.services:
        for place, server in named_servers(service):
            for index, check in enumerate(server.checks):
                if not isinstance(check.probe, BfdProbe):
                    continue
                address = check.address or server.address
                way = (check.probe, check.bind_address, check.mark, check.interface)
                if seen.setdefault((address, check.probe.multihop), way) != way:
                    here = ("service", service.name, *place, *_place(server, index))
                    wrong = f"another check of type bfd has a session with {address} already, with other options"
                    yield Finding(here, wrong, "write the same options for both: they share the session")


def _same_port(service: Service, server: Server, path: Path) -> Iterator[Finding]:
    for bind in service.binds:
        if isinstance(bind, AddressBind) and (bind.first, bind.last) != (server.port, server.port):
            wrong = f"forwarding {server.forwarding} cannot change the port of {write_bind(bind)} to {server.port}"
            yield Finding(path, wrong, f'write "{server.address}", or forwarding = "nat" or "fullnat"')
            return


def _tunnel(server: Server, path: Path) -> Iterator[Finding]:
    if server.tunnel is None or server.tunnel.checksum is TunnelChecksum.NONE:
        return
    kind, checksum = server.tunnel.kind, server.tunnel.checksum
    if kind is TunnelKind.IPIP or (checksum is TunnelChecksum.REMOTE and kind is not TunnelKind.GUE):
        hint = "leave it out, or use gue" + ("" if checksum is TunnelChecksum.REMOTE else " or gre")
        yield Finding((*path, "tunnel"), f"{kind} has no {checksum}", hint)
