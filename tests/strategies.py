"""Hypothesis strategies for configurations that break none of the laws."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from kernlb.checks.spec import (
    AgentProbe,
    BfdProbe,
    Check,
    CommandProbe,
    DnsProbe,
    Exit,
    Expect,
    FileProbe,
    GrpcProbe,
    HttpProbe,
    Match,
    PingProbe,
    Send,
    SmtpProbe,
    Start,
    StatusRange,
    TcpProbe,
    TlsOptions,
    TlsProbe,
    Transport,
    UdpProbe,
)
from kernlb.config.values import (
    AddressBind,
    Addresses,
    Announce,
    Bind,
    Config,
    Engine,
    EngineChoice,
    Loader,
    MarkBind,
    Metrics,
    OnFailure,
    Policy,
    Server,
    Service,
)
from kernlb.model import (
    Family,
    Forwarding,
    Persistence,
    Protocol,
    Scheduler,
    SchedulerFlag,
    SyncDaemon,
    SyncKey,
    SyncRole,
    Timers,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
)
from kernlb.ports import PortRange

ports = st.integers(1, 65535)
intervals = st.one_of(st.sampled_from([0.5, 1.0, 2.0, 60.0, 90.0, 3600.0]), st.floats(0.01, 86400))
names = st.from_regex(r"[A-Za-z0-9_.:-]{1,12}", fullmatch=True).filter(lambda name: name != "sorry")
lines = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
words = st.from_regex(r"[A-Za-z-]{1,12}", fullmatch=True)
arguments = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
octets = st.one_of(st.binary(max_size=12), st.sampled_from([b"PING\r\n", b'"\\\x00\x7f', "é".encode()]))
servers_ipv4 = st.integers(0, 2**16 - 1).map(lambda n: IPv4Address("10.0.0.1") + n)
servers_ipv6 = st.integers(0, 2**16 - 1).map(lambda n: IPv6Address("2001:db8::1") + n)
unicast = servers_ipv4 | servers_ipv6

tls = st.builds(
    TlsOptions,
    server_name=st.none() | lines,
    verify=st.booleans(),
    ca_file=st.none() | st.just("/etc/ssl/own.pem"),
    certificate_days=st.none() | st.integers(0, 3650),
    alpn=st.sampled_from([(), ("h2", "http/1.1")]),
)
matches = st.builds(Match, text=octets, negate=st.booleans()) | st.builds(
    Match, pattern=st.sampled_from([r"^\d+ ok$", "it's", 'a"b\\.']), negate=st.booleans()
)
statuses = st.tuples(st.integers(100, 599), st.integers(100, 599)).map(
    lambda pair: StatusRange(first=min(pair), last=max(pair))
)
headers = st.tuples(words, lines.map(str.strip))
probes = st.one_of(
    st.builds(
        TcpProbe,
        steps=st.lists(
            st.builds(Send, data=octets) | st.builds(Expect, match=matches, min_bytes=st.integers(0, 9)), max_size=3
        ).map(tuple),
        tls=st.none() | tls,
    ),
    st.builds(
        HttpProbe,
        method=words,
        path=st.sampled_from(["/", "/healthz?full=1", "*"]),
        host=st.none() | lines,
        headers=st.lists(headers, max_size=3).map(tuple),
        body=octets,
        status=st.lists(statuses, min_size=1, max_size=3).map(tuple),
        match=st.none() | matches,
        body_limit=st.integers(1, 1 << 24),
        tls=st.none() | tls,
    ),
    st.builds(TlsProbe, tls=tls),
    st.builds(
        DnsProbe,
        name=st.sampled_from([".", "example.org"]),
        record_type=st.sampled_from(["SOA", "AAAA"]),
        transport=st.sampled_from(Transport),
        rcodes=st.sampled_from([("NOERROR",), ("NOERROR", "NXDOMAIN")]),
        match=st.none() | matches,
    ),
    st.builds(UdpProbe, payload=octets, require_reply=st.booleans(), match=st.none() | matches),
    st.builds(PingProbe, payload_bytes=st.integers(0, 65507)),
    st.builds(SmtpProbe, helo=lines, starttls=st.booleans(), tls=st.none() | tls),
    st.builds(GrpcProbe, service=st.just("") | lines, authority=st.none() | lines, tls=st.none() | tls),
    st.builds(
        CommandProbe,
        argv=st.lists(arguments, min_size=1).map(tuple),
        exit=st.sampled_from(Exit),
        user=st.none() | lines,
        output_limit=st.integers(1, 1 << 20),
    ),
    st.builds(AgentProbe, send=octets),
    st.builds(
        FileProbe,
        path=st.sampled_from(["/run/weight", "/run/a file"]),
        adjust=st.none() | st.integers(1 - 2**31, 2**31 - 1),
    ),
    st.just(BfdProbe(min_tx=0.05, min_rx=0.001, multiplier=5, passive=True, multihop=True, min_ttl=250)),
)  # fmt: skip


def checks(kinds: st.SearchStrategy[object] = probes) -> st.SearchStrategy[Check]:
    return st.builds(
        Check,
        probe=kinds,
        interval=intervals,
        timeout=st.none() | intervals,
        rise=st.integers(1, 9),
        fall=st.integers(1, 9),
        fast_interval=st.none() | intervals,
        down_interval=st.none() | intervals,
        start=st.sampled_from(Start),
        port=ports,
        address=st.none() | unicast,
        bind_address=st.none() | unicast,
        mark=st.none() | st.integers(1, 2**32 - 1),
        interface=st.none() | st.just("eth0"),
    ).map(_alike)


def _alike(check: Check) -> Check:
    """Two different sessions with one neighbour would break a law."""
    if not isinstance(check.probe, BfdProbe):
        return check
    return replace(check, bind_address=None, mark=None, interface=None)


@st.composite
def binds(draw: st.DrawFn, number: int) -> tuple[Bind, ...]:
    """Of addresses and marks that no service of another number has."""
    kind = draw(st.sampled_from(["address", "both", "range", "wildcard", "mark"]))
    port = draw(ports)
    ipv4, ipv6 = IPv4Address("203.0.113.0") + number, IPv6Address("2001:db8:1::") + number
    match kind:
        case "address":
            return (AddressBind(draw(st.sampled_from([ipv4, ipv6])), port, port),)
        case "both":
            return (AddressBind(ipv4, port, port), AddressBind(ipv6, port, port))
        case "range":
            low, high = sorted((port, draw(ports)))
            return (AddressBind(ipv4, low, high),)
        case "wildcard":
            port = 1000 + number
            return (AddressBind(draw(st.sampled_from(Family)), port, port),)
    return (MarkBind(draw(st.sampled_from(Family)), 1 + number),)


def _families(bound: tuple[Bind, ...]) -> set[Family]:
    def family(bind: Bind) -> Family:
        if isinstance(bind, MarkBind):
            return bind.family
        if isinstance(bind.address, Family):
            return bind.address
        return Family.IPV4 if bind.address.version == 4 else Family.IPV6

    return {family(bind) for bind in bound}


tunnels = st.one_of(
    st.just(Tunnel()),
    st.builds(Tunnel, st.just(TunnelKind.GUE), ports, st.sampled_from(TunnelChecksum)),
    st.builds(
        Tunnel, st.just(TunnelKind.GRE), st.just(0), st.sampled_from([TunnelChecksum.NONE, TunnelChecksum.CHECKSUM])
    ),
)


@st.composite
def servers(
    draw: st.DrawFn,
    *,
    bound: tuple[Bind, ...],
    protocol: Protocol,
    forwardings: st.SearchStrategy[Forwarding],
    shared: st.SearchStrategy[tuple[Check, ...]],
    sorry: bool = False,
) -> Server:
    forwarding = draw(forwardings)
    if forwarding is Forwarding.FULLNAT and protocol is Protocol.SCTP:
        forwarding = Forwarding.NAT
    tunnel = draw(tunnels) if forwarding is Forwarding.TUNNEL else None
    ends = {(bind.first, bind.last) if isinstance(bind, AddressBind) else (0, 0) for bind in bound}
    first, last = next(iter(ends))
    only = first if len(ends) == 1 and first == last else 0
    port = only if forwarding in (Forwarding.DIRECT, Forwarding.TUNNEL) else draw(st.just(only) | ports)
    # Only a tunnel carries one family inside the other.
    families = list(Family) if forwarding is Forwarding.TUNNEL else sorted(_families(bound))
    family = draw(st.sampled_from(families))
    most = draw(st.just(0) | st.integers(2, 9999))
    return Server(
        name=draw(st.just("sorry") | names) if sorry else draw(names),
        address=draw(servers_ipv4 if family is Family.IPV4 else servers_ipv6),
        port=port,
        weight=draw(st.just(1) | st.integers(0, 65535)),
        forwarding=forwarding,
        tunnel=tunnel,
        max_connections=most,
        min_connections=draw(st.integers(0, max(0, most - 1))),
        backup=not sorry and draw(st.booleans()),
        disabled=not sorry and draw(st.booleans()),
        slow_start=0.0 if sorry else draw(st.sampled_from([0.0, 0.0, 30.0, 0.25])),
        checks=draw(shared),
        agent=draw(st.none() | checks(st.builds(AgentProbe, send=octets))),
    )


@st.composite
def services(draw: st.DrawFn, number: int = 0, *, name: str | None = None) -> Service:
    bound = draw(binds(number))
    protocol = draw(st.sampled_from(Protocol))
    everywhere = draw(st.sampled_from(Forwarding))
    forwardings = st.just(everywhere) | st.sampled_from(Forwarding)
    some = st.lists(checks(), max_size=3).map(tuple)
    shared = st.just(draw(some)) | some
    host = servers(bound=bound, protocol=protocol, forwardings=forwardings, shared=shared)
    pool = draw(st.lists(host, max_size=4, unique_by=(lambda s: s.name, lambda s: (s.address, s.port))))
    taken = {(s.address, s.port) for s in pool}
    sorry = draw(
        st.none()
        | servers(bound=bound, protocol=protocol, forwardings=forwardings, shared=shared, sorry=True).filter(
            lambda s: (s.address, s.port) not in taken and s.name not in {other.name for other in pool}
        )
    )
    scheduler = draw(st.sampled_from([*Scheduler, *Policy]))
    if isinstance(scheduler, Policy) and any(server.timed is None for server in pool):
        scheduler = Scheduler.WRR
    one_way = {Forwarding.DIRECT, Forwarding.TUNNEL} & {s.forwarding for s in [*pool, *([sorry] if sorry else [])]}
    families = _families(bound)
    whole = 128 if Family.IPV6 in families else 32
    weight = sum(server.weight for server in pool if not server.backup)
    quorum = draw(st.integers(1, max(1, weight)))
    return Service(
        name=name or draw(names),
        binds=bound,
        protocol=protocol,
        engine=draw(st.sampled_from([EngineChoice.AUTO, EngineChoice.IPVS])),
        scheduler=scheduler,
        flags=draw(st.frozensets(st.sampled_from(SchedulerFlag)))
        if scheduler in (Scheduler.SH, Scheduler.MH)
        else frozenset(),
        persistence=draw(
            st.none()
            | st.builds(
                Persistence,
                st.integers(1, 2678400),
                st.just(whole) if len(families) > 1 else st.integers(1, whole),
                st.sampled_from([None, "sip"]) if protocol is Protocol.UDP else st.none(),
            )
        ),
        one_packet=protocol is Protocol.UDP and draw(st.booleans()),
        max_connections=None if one_way else draw(st.none() | st.integers(1, 2**32 - 1)),
        servers=tuple(pool),
        sorry_server=sorry,
        quorum=quorum,
        hysteresis=draw(st.integers(0, max(0, min(quorum - 1, weight - quorum)))),
        panic=draw(st.just(0.0) | st.floats(0, 1)),
        pool=draw(st.none() | names),
        on_failure=draw(st.sampled_from(OnFailure)),
        all_backups=draw(st.booleans()),
    )


def _sync(role: SyncRole) -> st.SearchStrategy[tuple[tuple[SyncKey, SyncDaemon], ...]]:
    daemons = st.builds(
        SyncDaemon,
        st.just("eth1"),
        st.integers(0, 255),
        st.sampled_from([IPv4Address("224.0.0.81"), IPv6Address("ff02::81")]),
        ports,
        st.integers(1, 255),
        st.sampled_from([0, 1400]),
    )
    return st.just(()) | daemons.map(lambda daemon: ((SyncKey(role), daemon),))


port_ranges = st.builds(lambda ends: PortRange(*sorted(ends)), st.tuples(*[st.integers(1024, 65535)] * 2))


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Whole configurations: load(write(config)) must give them back."""
    called = draw(st.lists(names, max_size=3, unique=True))
    made = tuple(draw(services(number, name=name)) for number, name in enumerate(called))
    hosts = [
        s for service in made for s in (*service.servers, *([service.sorry_server] if service.sorry_server else []))
    ]
    one_way = any(s.forwarding in (Forwarding.DIRECT, Forwarding.TUNNEL) for s in hosts)
    tunnels_used = any(s.forwarding is Forwarding.TUNNEL for s in hosts)
    manage = draw(st.booleans())
    return Config(
        services=made,
        engine=Engine(
            default=draw(st.sampled_from([EngineChoice.AUTO, EngineChoice.IPVS])),
            interfaces=draw(st.sampled_from([(), ("eth0", "eth1.7")])),
            loader=draw(st.sampled_from(Loader)),
            mark_base=draw(st.integers(0x10, 0xFFFF).map(lambda n: n << 16)),
            idle_timeout=draw(st.just(900.0) | st.floats(1, 86400)),
        ),
        addresses=Addresses(
            manage=manage,
            interface=draw(st.sampled_from(["lo", "eth0"])),
            announce=draw(st.sampled_from(Announce)) if manage else Announce.ALWAYS,
            source=draw(st.lists(unicast, max_size=2).map(tuple)),
            source_ports=draw(st.none() | port_ranges),
        ),
        max_connections=None if one_way else draw(st.none() | st.integers(1, 2**32 - 1)),
        timers=draw(st.none() | st.builds(Timers, st.integers(1, 9999), st.integers(1, 9999), st.integers(1, 2678400))),
        sync=() if tunnels_used else draw(_sync(SyncRole.MASTER)) + draw(_sync(SyncRole.BACKUP)),
        metrics=draw(st.none() | st.builds(Metrics, address=unicast | st.just(IPv6Address("::")), port=ports)),
    )
