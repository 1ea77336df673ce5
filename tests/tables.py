"""Hypothesis strategies for Tables: small worlds in which collisions, orphans and changes are likely."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from kernlb.model import (
    CheckTimeouts,
    CheckTimeoutsKey,
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
    Persistence,
    Protocol,
    RealServer,
    Ruleset,
    RulesetKey,
    Scheduler,
    SchedulerFlag,
    ServerKey,
    SourceKey,
    SourceNat,
    Sysctl,
    SysctlKey,
    Table,
    Timers,
    TimersKey,
    Value,
    Vip,
    VipKey,
    VirtualService,
)
from kernlb.ports import PortRange

addresses4 = st.sampled_from([IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), IPv4Address("203.0.113.9")])
addresses6 = st.sampled_from([IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")])
addresses = addresses4 | addresses6
ports = st.sampled_from([80, 443, 8080])
protocols = st.sampled_from(Protocol)
marks = st.sampled_from([1, 7, 0x4B4C0001])
kernel_schedulers = st.sampled_from([s for s in Scheduler if s is not Scheduler.MAGLEV])

service_keys = st.builds(Endpoint, st.just(EngineName.IPVS), protocols, addresses, ports) | st.builds(
    Fwmark, st.sampled_from(Family), marks
)
persistences = st.none() | st.builds(Persistence, st.sampled_from([60, 300]), st.sampled_from([24, 32]))
virtual_services = st.builds(
    VirtualService,
    kernel_schedulers,
    st.frozensets(st.sampled_from(SchedulerFlag)),
    persistences,
    st.booleans(),
)
real_servers = st.builds(
    RealServer,
    st.sampled_from([Forwarding.NAT, Forwarding.DIRECT]),
    st.integers(0, 3),
    st.sampled_from([0, 100]),
)
source_nats = st.sampled_from([SourceNat(), SourceNat(ports=PortRange(1024, 2047))])
loose: st.SearchStrategy[tuple[Key, Value]] = st.one_of(
    st.tuples(
        st.builds(SysctlKey, st.sampled_from(["net.ipv4.ip_forward", "net.ipv4.vs.conntrack"])),
        st.builds(Sysctl, st.sampled_from(["0", "1"])),
    ),
    st.tuples(st.just(TimersKey()), st.builds(Timers, st.integers(1, 900), st.just(120), st.just(300))),
    st.tuples(st.just(RulesetKey()), st.builds(Ruleset, st.sampled_from(["a", "b"]))),
    st.tuples(st.just(CheckTimeoutsKey()), st.builds(CheckTimeouts, st.integers(0, 9))),
    st.tuples(st.builds(MarkKey, addresses | st.sampled_from(Family), protocols, ports, ports), st.builds(Mark, marks)),
    st.tuples(st.builds(ExemptKey, addresses, protocols, ports), st.just(Exempt())),
    st.tuples(st.builds(LimitKey, st.none() | marks), st.builds(Limit, st.integers(1, 9))),
    st.tuples(st.builds(SourceKey, marks, addresses, protocols, ports), source_nats),
    st.tuples(st.builds(VipKey, st.just("lo"), addresses), st.just(Vip(32))),
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """A Table in which every real server belongs to a virtual service that is there."""
    table: dict[Key, Value] = dict(draw(st.dictionaries(service_keys, virtual_services, max_size=4)))
    for service in list(table):
        for address, port in draw(st.lists(st.tuples(addresses, ports), max_size=3, unique=True)):
            assert isinstance(service, Endpoint | Fwmark)
            table[ServerKey(service, address, port)] = draw(real_servers)
    table.update(draw(st.lists(loose, max_size=6)))
    return table
