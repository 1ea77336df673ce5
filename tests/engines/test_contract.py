"""The laws of an Engine, the same for memory and for the kernel's IPVS."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernlb.engines.ipvs import Ipvs
from kernlb.engines.memory import Memory
from kernlb.errors import KernelError
from kernlb.model import (
    Endpoint,
    Family,
    Forwarding,
    Fwmark,
    Key,
    Persistence,
    Protocol,
    RealServer,
    Scheduler,
    SchedulerFlag,
    ServerKey,
    SyncDaemon,
    SyncKey,
    SyncRole,
    Table,
    Timers,
    TimersKey,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
    Value,
    VirtualService,
)
from kernlb.plan import Operation, Verb, diff, quiesce
from tests.engines import samples
from tests.engines.namespace import fresh_network
from tests.engines.samples import real, vip

DEFAULT_TIMERS: dict[Key, Value] = {TimersKey(): Timers(900, 120, 300)}
NAT = RealServer(Forwarding.NAT, 1)
RR = VirtualService(Scheduler.RR)


@pytest.fixture(params=["memory", pytest.param("ipvs", marks=pytest.mark.ipvs)])
def engine(request: pytest.FixtureRequest) -> Iterator[Memory | Ipvs]:
    if request.param == "memory":
        yield Memory(DEFAULT_TIMERS)
        return
    with fresh_network(), Ipvs() as ipvs:
        yield ipvs


def converge(engine: Memory | Ipvs, desired: Table) -> int:
    """Make the engine hold `desired` and the timers; the number of messages that took."""
    before = engine.writes
    engine.apply(diff({**DEFAULT_TIMERS, **desired}, engine.read()))
    return engine.writes - before


def held(engine: Memory | Ipvs) -> dict[Key, Value]:
    return {key: value for key, value in engine.read().items() if key != TimersKey()}


def test_an_empty_engine_holds_the_default_timers_only(engine: Memory | Ipvs) -> None:
    assert engine.read() == DEFAULT_TIMERS


@st.composite
def tables(draw: st.DrawFn) -> dict[Key, Value]:
    table: dict[Key, Value] = {}
    for key, service in draw(st.lists(samples.services(), max_size=4)):
        table[key] = service if service.scheduler != Scheduler.TWOS else replace(service, scheduler=Scheduler.WLC)
        for number, server in draw(st.dictionaries(st.integers(1, 5), samples.real_servers(), max_size=4)).items():
            table[real(key, number)] = server
    return table


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(desired=tables())
def test_playing_the_difference_makes_what_is_observed_what_is_desired(
    engine: Memory | Ipvs, desired: dict[Key, Value]
) -> None:
    """From whatever the example before has left there."""
    converge(engine, desired)
    assert held(engine) == desired
    assert diff({**DEFAULT_TIMERS, **desired}, engine.read()) == []
    assert converge(engine, desired) == 0


SCHEDULERS = [scheduler for scheduler in samples.SCHEDULERS if scheduler is not Scheduler.TWOS]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([VirtualService(scheduler) for scheduler in SCHEDULERS], id="schedulers"),
        pytest.param(
            [VirtualService(Scheduler.SH, frozenset({flag})) for flag in SchedulerFlag]
            + [VirtualService(Scheduler.MH, frozenset(SchedulerFlag))],
            id="flags",
        ),
        pytest.param(
            [
                VirtualService(Scheduler.WLC, persistence=Persistence(300, 32)),
                VirtualService(Scheduler.WLC, persistence=Persistence(1, 1)),
                VirtualService(Scheduler.WLC, persistence=Persistence(86400, 24, "sip")),
                VirtualService(Scheduler.WLC, one_packet=True),
            ],
            id="persistence",
        ),
    ],
)
def test_every_service_the_kernel_takes_reads_back_as_it_was_given(
    engine: Memory | Ipvs, values: list[VirtualService]
) -> None:
    desired: dict[Key, Value] = {vip(n, protocol=Protocol.UDP): value for n, value in enumerate(values, 1)}
    converge(engine, desired)
    assert held(engine) == desired
    # And each of them turns into the next one in place, by one message.
    turned: dict[Key, Value] = dict(zip(desired, [*values[1:], values[0]], strict=True))
    assert converge(engine, turned) == sum(desired[key] != turned[key] for key in desired)
    assert held(engine) == turned


FORWARDINGS = [
    NAT,
    RealServer(Forwarding.DIRECT, 2**31 - 1),
    RealServer(Forwarding.NAT, 0, 4096, 3072),
    RealServer(Forwarding.TUNNEL, 5, tunnel=Tunnel()),
    *(RealServer(Forwarding.TUNNEL, 6, tunnel=Tunnel(TunnelKind.GUE, 6080, checksum)) for checksum in TunnelChecksum),
    RealServer(Forwarding.TUNNEL, 7, tunnel=Tunnel(TunnelKind.GRE)),
    RealServer(Forwarding.TUNNEL, 7, tunnel=Tunnel(TunnelKind.GRE, 0, TunnelChecksum.CHECKSUM)),
]


@pytest.mark.parametrize("service", [vip(1), Fwmark(Family.IPV4, 7), Fwmark(Family.IPV6, 2**32 - 1)], ids=str)
def test_every_forwarding_and_tunnel_reads_back_as_it_was_given(
    engine: Memory | Ipvs, service: Endpoint | Fwmark
) -> None:
    desired: dict[Key, Value] = {service: RR}
    desired |= {real(service, number): server for number, server in enumerate(FORWARDINGS, 1)}
    converge(engine, desired)
    assert held(engine) == desired
    turned = desired | {real(service, n): server for n, server in enumerate([*FORWARDINGS[1:], FORWARDINGS[0]], 1)}
    assert converge(engine, turned) == len(FORWARDINGS)
    assert held(engine) == turned


def test_an_ipv6_server_behind_a_tunnel_serves_an_ipv4_service(engine: Memory | Ipvs) -> None:
    desired: dict[Key, Value] = {vip(1): RR, ServerKey(vip(1), IPv6Address("2001:db8::7"), 80): FORWARDINGS[3]}
    converge(engine, desired)
    assert held(engine) == desired


def test_port_zero_and_both_families_of_one_mark_are_services_of_their_own(engine: Memory | Ipvs) -> None:
    persistent = VirtualService(Scheduler.RR, persistence=Persistence(60, 32))
    any_port = vip(1, port=0)
    desired: dict[Key, Value] = {
        any_port: persistent,
        real(any_port, 1, 0): NAT,
        vip(1): RR,
        vip(1, protocol=Protocol.SCTP): RR,
        Fwmark(Family.IPV4, 3): RR,
        Fwmark(Family.IPV6, 3): VirtualService(Scheduler.WLC),
    }
    converge(engine, desired)
    assert held(engine) == desired


def test_a_changed_weight_is_one_message_and_no_change_is_none(engine: Memory | Ipvs) -> None:
    desired: dict[Key, Value] = {vip(n): RR for n in range(20)}
    desired |= {real(vip(n), m): NAT for n in range(20) for m in range(5)}
    assert converge(engine, desired) == 120
    assert converge(engine, desired) == 0
    assert converge(engine, desired | {real(vip(7), 3): replace(NAT, weight=9)}) == 1
    assert engine.read()[real(vip(7), 3)] == replace(NAT, weight=9)


def test_the_servers_of_a_service_go_with_it_by_one_message(engine: Memory | Ipvs) -> None:
    kept: dict[Key, Value] = {vip(2): RR, real(vip(2), 1): NAT}
    converge(engine, kept | {vip(1): RR, real(vip(1), 1): NAT, real(vip(1), 2): NAT})
    assert converge(engine, kept) == 1
    assert held(engine) == kept


def test_a_quiesced_server_stays_with_weight_zero(engine: Memory | Ipvs) -> None:
    converge(engine, {vip(1): RR, real(vip(1), 1): replace(NAT, upper_threshold=9)})
    engine.apply(quiesce([real(vip(1), 1)], engine.read()))
    assert engine.read()[real(vip(1), 1)] == replace(NAT, weight=0, upper_threshold=9)


def test_what_the_operations_do_not_name_is_not_touched(engine: Memory | Ipvs) -> None:
    foreign: dict[Key, Value] = {vip(99): VirtualService(Scheduler.SED), real(vip(99), 1): replace(NAT, weight=42)}
    converge(engine, foreign)
    ours: dict[Key, Value] = {vip(1): RR, real(vip(1), 1): NAT}
    engine.apply(diff(ours, {}))
    engine.apply(diff({}, ours))
    assert held(engine) == foreign


def test_a_refused_operation_is_named_and_those_before_it_are_done(engine: Memory | Ipvs) -> None:
    lost = real(vip(9), 1)
    operations = [
        Operation(Verb.ADD, vip(1), None, RR),
        Operation(Verb.ADD, real(vip(1), 1), None, NAT),
        Operation(Verb.ADD, lost, None, NAT),
    ]
    with pytest.raises(KernelError, match=r"real server 10\.128\.0\.1:80 of tcp 10\.64\.0\.9:80") as caught:
        engine.apply(operations)
    assert caught.value.errno
    assert held(engine) == {vip(1): RR, real(vip(1), 1): NAT}


def test_nothing_is_removed_once_an_addition_was_refused(engine: Memory | Ipvs) -> None:
    converge(engine, {vip(1): RR, real(vip(1), 1): NAT})
    operations = [
        Operation(Verb.ADD, real(vip(9), 1), None, NAT),
        Operation(Verb.QUIESCE, real(vip(1), 1), NAT, replace(NAT, weight=0)),
        Operation(Verb.REMOVE, real(vip(1), 1), NAT, None),
    ]
    with pytest.raises(KernelError):
        engine.apply(operations)
    assert held(engine) == {vip(1): RR, real(vip(1), 1): NAT}


@pytest.mark.parametrize(
    "operation",
    [
        Operation(Verb.ADD, vip(1), None, RR),
        Operation(Verb.ADD, real(vip(1), 1), None, NAT),
        Operation(Verb.CHANGE, vip(2), RR, VirtualService(Scheduler.WRR)),
        Operation(Verb.CHANGE, real(vip(1), 2), NAT, replace(NAT, weight=2)),
        Operation(Verb.REMOVE, vip(2), RR, None),
        Operation(Verb.REMOVE, real(vip(1), 2), NAT, None),
    ],
    ids=lambda operation: f"{operation.verb} {type(operation.key).__name__}",
)
def test_what_does_not_fit_is_refused_and_changes_nothing(engine: Memory | Ipvs, operation: Operation) -> None:
    converge(engine, {vip(1): RR, real(vip(1), 1): NAT})
    with pytest.raises(KernelError, match=f"cannot {operation.verb} "):
        engine.apply([operation])
    assert held(engine) == {vip(1): RR, real(vip(1), 1): NAT}


def test_timers_are_set_and_read_back(engine: Memory | Ipvs) -> None:
    desired: dict[Key, Value] = {TimersKey(): Timers(50, 20, 30)}
    engine.apply(diff(desired, engine.read()))
    assert engine.read() == desired


def test_sync_daemons_of_both_roles_run_together_and_change(engine: Memory | Ipvs) -> None:
    master, backup = SyncKey(SyncRole.MASTER), SyncKey(SyncRole.BACKUP)
    desired: dict[Key, Value] = {
        master: SyncDaemon("lo", 3, IPv4Address("224.0.0.82"), 8849, 4, 1400),
        backup: SyncDaemon("lo", 7),
    }
    converge(engine, desired)
    assert held(engine) == desired
    desired[master] = SyncDaemon("lo", 200)
    converge(engine, desired)
    assert held(engine) == desired
    del desired[backup]
    converge(engine, desired)
    assert held(engine) == desired


def test_every_service_and_server_is_counted(engine: Memory | Ipvs) -> None:
    desired: dict[Key, Value] = {vip(1): RR, real(vip(1), 1): NAT, Fwmark(Family.IPV6, 2): RR}
    converge(engine, desired)
    counters = engine.counters()
    assert set(counters) == set(desired)
    assert all(counted.connections == counted.bytes_in == counted.live == 0 for counted in counters.values())


def test_a_thousand_servers_of_one_service_are_all_there(engine: Memory | Ipvs) -> None:
    """More than the kernel puts into one answer, and more requests than go into one send."""
    desired: dict[Key, Value] = {vip(1): RR}
    desired |= {real(vip(1), number): NAT for number in range(1000)}
    assert converge(engine, desired) == 1001
    assert held(engine) == desired
    assert converge(engine, {}) == 1
    assert held(engine) == {}
