"""The laws of an Engine, the same for memory, IPVS and the eBPF program; and of what IPVS alone takes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernlb.engines.carried import Wish
from kernlb.engines.ipvs import Ipvs
from kernlb.engines.memory import Memory
from kernlb.engines.xdp import Xdp
from kernlb.errors import KernelError
from kernlb.model import (
    Endpoint,
    EngineName,
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
from tests.engines.test_xdp import SLOTS, SMALL, place

__all__ = ["place"]
DEFAULT_TIMERS: dict[Key, Value] = {TimersKey(): Timers(900, 120, 300)}
NAT = RealServer(Forwarding.NAT, 1)
RR = VirtualService(Scheduler.RR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """An engine with what it carries. `always`: what it holds whatever is wanted."""

    engine: Memory | Ipvs | Xdp
    name: EngineName
    service: VirtualService
    another: VirtualService
    server: RealServer
    always: Mapping[Key, Value]

    def vip(self, number: int) -> Endpoint:
        return vip(number, engine=self.name)

    def real(self, service: int, number: int) -> ServerKey:
        return real(self.vip(service), number)

    def converge(self, desired: Table) -> int:
        """Make the engine hold `desired` and what it always does; the number of messages that took."""
        before = self.engine.writes
        self.engine.apply(diff({**self.always, **desired}, self.engine.read()))
        return self.engine.writes - before

    def held(self) -> dict[Key, Value]:
        return {key: value for key, value in self.engine.read().items() if key not in self.always}


@pytest.fixture(params=["memory", pytest.param("ipvs", marks=pytest.mark.ipvs)])
def engine(request: pytest.FixtureRequest) -> Iterator[Memory | Ipvs]:
    if request.param == "memory":
        yield Memory(DEFAULT_TIMERS)
        return
    with fresh_network(), Ipvs() as ipvs:
        yield ipvs


@pytest.fixture(
    params=[
        "memory",
        pytest.param("ipvs", marks=pytest.mark.ipvs),
        pytest.param("xdp", marks=[pytest.mark.bpf, pytest.mark.netns]),
    ]
)
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    match request.param:
        case "memory":
            yield _of_ipvs(Memory(DEFAULT_TIMERS))
        case "ipvs":
            with fresh_network(), Ipvs() as ipvs:
                yield _of_ipvs(ipvs)
        case _:
            hashed, fullnat = VirtualService(Scheduler.MAGLEV), RealServer(Forwarding.FULLNAT, 1)
            xdp = Xdp(request.getfixturevalue("place"), wish=Wish(), sizes=SMALL, slots=SLOTS)
            yield Ground(
                engine=xdp,
                name=EngineName.XDP,
                service=hashed,
                another=VirtualService(Scheduler.SH),
                server=fullnat,
                always={},
            )
            xdp.close()


def _of_ipvs(engine: Memory | Ipvs) -> Ground:
    another = VirtualService(Scheduler.WRR)
    return Ground(engine=engine, name=EngineName.IPVS, service=RR, another=another, server=NAT, always=DEFAULT_TIMERS)


def converge(engine: Memory | Ipvs, desired: Table) -> int:
    """Make the engine hold `desired` and the timers; the number of messages that took."""
    return _of_ipvs(engine).converge(desired)


def held(engine: Memory | Ipvs) -> dict[Key, Value]:
    return _of_ipvs(engine).held()


@st.composite
def tables(draw: st.DrawFn, engine: EngineName) -> dict[Key, Value]:
    table: dict[Key, Value] = {}
    ipvs = engine is EngineName.IPVS
    for key, service in draw(st.lists(samples.services() if ipvs else samples.hashed_services, max_size=4)):
        table[key] = service if service.scheduler != Scheduler.TWOS else replace(service, scheduler=Scheduler.WLC)
        servers = samples.real_servers() if ipvs else samples.hashed_servers
        for number, server in draw(st.dictionaries(st.integers(1, 5), servers, max_size=4)).items():
            table[real(key, number)] = server
    return table


# --- laws of every engine


def test_an_empty_engine_holds_what_the_kernel_always_has(ground: Ground) -> None:
    assert ground.engine.read() == ground.always


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_playing_the_difference_makes_what_is_observed_what_is_desired(ground: Ground, data: st.DataObject) -> None:
    """From whatever the example before has left there."""
    # A program that has nothing to carry is unloaded: loading takes seconds.
    kept: Table = {ground.vip(0): ground.service} if ground.name is EngineName.XDP else {}
    desired = {**kept, **data.draw(tables(ground.name))}
    ground.converge(desired)
    assert ground.held() == desired
    assert diff({**ground.always, **desired}, ground.engine.read()) == []
    assert ground.converge(desired) == 0


def test_a_changed_weight_is_one_message_and_no_change_is_none(ground: Ground) -> None:
    desired: dict[Key, Value] = {ground.vip(n): ground.service for n in range(20)}
    desired |= {ground.real(n, m): ground.server for n in range(20) for m in range(5)}
    assert ground.converge(desired) == 120
    assert ground.converge(desired) == 0
    assert ground.converge(desired | {ground.real(7, 3): replace(ground.server, weight=9)}) == 1
    assert ground.engine.read()[ground.real(7, 3)] == replace(ground.server, weight=9)


def test_the_servers_of_a_service_go_with_it_by_one_message(ground: Ground) -> None:
    kept: dict[Key, Value] = {ground.vip(2): ground.service, ground.real(2, 1): ground.server}
    gone: dict[Key, Value] = {ground.vip(1): ground.service, ground.real(1, 1): ground.server}
    ground.converge(kept | gone | {ground.real(1, 2): ground.server})
    assert ground.converge(kept) == 1
    assert ground.held() == kept


def test_a_quiesced_server_stays_with_weight_zero(ground: Ground) -> None:
    limited = replace(ground.server, upper_threshold=9)
    ground.converge({ground.vip(1): ground.service, ground.real(1, 1): limited})
    ground.engine.apply(quiesce([ground.real(1, 1)], ground.engine.read()))
    assert ground.engine.read()[ground.real(1, 1)] == replace(limited, weight=0)


def test_what_the_operations_do_not_name_is_not_touched(ground: Ground) -> None:
    foreign: dict[Key, Value] = {ground.vip(99): ground.another, ground.real(99, 1): replace(ground.server, weight=42)}
    ground.converge(foreign)
    ours: dict[Key, Value] = {ground.vip(1): ground.service, ground.real(1, 1): ground.server}
    ground.engine.apply(diff(ours, {}))
    ground.engine.apply(diff({}, ours))
    assert ground.held() == foreign


def test_a_refused_operation_is_named_and_those_before_it_are_done(ground: Ground) -> None:
    operations = [
        Operation(Verb.ADD, ground.vip(1), None, ground.service),
        Operation(Verb.ADD, ground.real(1, 1), None, ground.server),
        Operation(Verb.ADD, ground.real(9, 1), None, ground.server),
    ]
    with pytest.raises(KernelError, match=r"real server 10\.128\.0\.1:80 of tcp 10\.64\.0\.9:80") as caught:
        ground.engine.apply(operations)
    assert caught.value.errno
    assert ground.held() == {ground.vip(1): ground.service, ground.real(1, 1): ground.server}


def test_nothing_is_removed_once_an_addition_was_refused(ground: Ground) -> None:
    one: dict[Key, Value] = {ground.vip(1): ground.service, ground.real(1, 1): ground.server}
    ground.converge(one)
    quiet = replace(ground.server, weight=0)
    operations = [
        Operation(Verb.ADD, ground.real(9, 1), None, ground.server),
        Operation(Verb.QUIESCE, ground.real(1, 1), ground.server, quiet),
        Operation(Verb.REMOVE, ground.real(1, 1), quiet, None),
    ]
    with pytest.raises(KernelError):
        ground.engine.apply(operations)
    assert ground.held() == one


def test_what_does_not_fit_is_refused_and_changes_nothing(ground: Ground) -> None:
    one: dict[Key, Value] = {ground.vip(1): ground.service, ground.real(1, 1): ground.server}
    ground.converge(one)
    for operation in (
        Operation(Verb.ADD, ground.vip(1), None, ground.service),
        Operation(Verb.ADD, ground.real(1, 1), None, ground.server),
        Operation(Verb.CHANGE, ground.vip(2), ground.service, ground.another),
        Operation(Verb.CHANGE, ground.real(1, 2), ground.server, replace(ground.server, weight=2)),
        Operation(Verb.REMOVE, ground.vip(2), ground.service, None),
        Operation(Verb.REMOVE, ground.real(1, 2), ground.server, None),
    ):
        with pytest.raises(KernelError, match=f"cannot {operation.verb} "):
            ground.engine.apply([operation])
        assert ground.held() == one


def test_every_service_and_server_is_counted(ground: Ground) -> None:
    desired: dict[Key, Value] = {ground.vip(1): ground.service, ground.real(1, 1): ground.server}
    desired[Fwmark(Family.IPV6, 2) if ground.name is EngineName.IPVS else ground.vip(2)] = ground.service
    ground.converge(desired)
    counters = ground.engine.counters()
    assert set(counters) == set(desired)
    assert all(counted.connections == counted.bytes_in == counted.live == 0 for counted in counters.values())


def test_a_thousand_servers_of_one_service_are_all_there(ground: Ground) -> None:
    """More than the kernel puts into one answer, and more requests than go into one send."""
    desired: dict[Key, Value] = {ground.vip(1): ground.service}
    desired |= {ground.real(1, number): ground.server for number in range(1000)}
    assert ground.converge(desired) == 1001
    assert ground.held() == desired
    assert ground.converge({}) == 1
    assert ground.held() == {}


# --- what IPVS takes


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
