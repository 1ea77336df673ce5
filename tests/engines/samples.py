"""Keys and values of IPVS for tests: hypothesis strategies over all that the model can say, and a few by hand."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import strategies as st

from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Forwarding,
    Fwmark,
    IPAddress,
    Persistence,
    Protocol,
    RealServer,
    Scheduler,
    SchedulerFlag,
    ServerKey,
    ServiceKey,
    SyncDaemon,
    SyncKey,
    SyncRole,
    Timers,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
    VirtualService,
)

SCHEDULERS = tuple(scheduler for scheduler in Scheduler if scheduler is not Scheduler.MAGLEV)

addresses = st.one_of(
    st.ip_addresses(network=IPv4Network("10.0.0.0/8")), st.ip_addresses(network=IPv6Network("2001:db8::/32"))
)
ports = st.integers(1, 65535)
endpoints = st.builds(Endpoint, st.just(EngineName.IPVS), st.sampled_from(Protocol), addresses, ports)
fwmarks = st.builds(Fwmark, st.sampled_from(Family), st.integers(1, 2**32 - 1))
service_keys = st.one_of(endpoints, fwmarks)


def persistences(family: Family) -> st.SearchStrategy[Persistence]:
    bits = 32 if family is Family.IPV4 else 128
    return st.builds(Persistence, st.integers(1, 86400), st.integers(1, bits), st.sampled_from([None, "sip"]))


@st.composite
def services(draw: st.DrawFn) -> tuple[ServiceKey, VirtualService]:
    key = draw(service_keys)
    return key, draw(
        st.builds(
            VirtualService,
            st.sampled_from(SCHEDULERS),
            st.frozensets(st.sampled_from(SchedulerFlag)),
            st.none() | persistences(key.family),
            st.booleans(),
        )
    )


tunnels = st.one_of(
    st.just(Tunnel()),
    st.builds(Tunnel, st.just(TunnelKind.GUE), ports, st.sampled_from(TunnelChecksum)),
    st.builds(
        Tunnel,
        st.just(TunnelKind.GRE),
        st.just(0),
        st.sampled_from([TunnelChecksum.NONE, TunnelChecksum.CHECKSUM]),
    ),
)


@st.composite
def real_servers(draw: st.DrawFn) -> RealServer:
    forwarding = draw(st.sampled_from([Forwarding.NAT, Forwarding.DIRECT, Forwarding.TUNNEL]))
    upper = draw(st.integers(0, 2**31 - 1))
    return RealServer(
        forwarding,
        draw(st.integers(0, 2**31 - 1)),
        upper,
        draw(st.integers(0, upper)),
        draw(tunnels) if forwarding is Forwarding.TUNNEL else None,
    )


hashed_services = st.tuples(
    st.builds(Endpoint, st.just(EngineName.XDP), st.sampled_from([Protocol.TCP, Protocol.UDP]), addresses, ports),
    st.builds(
        VirtualService,
        st.sampled_from([Scheduler.MAGLEV, Scheduler.SH]),
        persistence=st.none() | st.builds(Persistence, st.integers(1, 86400), st.sampled_from([32, 128])),
    ),
)
"""What the eBPF program carries."""

hashed_servers = st.one_of(
    st.builds(RealServer, st.sampled_from([Forwarding.FULLNAT, Forwarding.DIRECT]), st.integers(0, 2**20)),
    st.builds(
        RealServer,
        st.just(Forwarding.TUNNEL),
        st.integers(0, 2**20),
        tunnel=st.just(Tunnel()) | st.builds(Tunnel, st.just(TunnelKind.GUE), ports, st.sampled_from(TunnelChecksum)),
    ),
)

server_keys = st.builds(ServerKey, service_keys, addresses, st.integers(0, 65535))
timers = st.builds(Timers, *[st.integers(1, 2**31 // 1000)] * 3)
groups = st.sampled_from([IPv4Address("224.0.0.81"), IPv4Address("239.1.2.3"), IPv6Address("ff02::81")])
daemons = st.builds(
    SyncDaemon,
    st.from_regex(r"[a-z][a-z0-9.]{0,14}", fullmatch=True),
    st.integers(0, 255),
    groups,
    ports,
    st.integers(1, 255),
    st.integers(0, 65535),
)
sync_keys = st.builds(SyncKey, st.sampled_from(SyncRole))


def vip(
    number: int, *, protocol: Protocol = Protocol.TCP, port: int = 80, engine: EngineName = EngineName.IPVS
) -> Endpoint:
    return Endpoint(engine, protocol, IPv4Address("10.64.0.0") + number, port)


def real(service: ServiceKey, number: int, port: int = 80) -> ServerKey:
    base: IPAddress = IPv4Address("10.128.0.0") if service.family is Family.IPV4 else IPv6Address("2001:db8:1::")
    return ServerKey(service, base + number, port)
