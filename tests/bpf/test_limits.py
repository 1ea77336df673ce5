"""Connections of full NAT past a limit: refused by service, passed over by server, and counted right when they end."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, TCP
from scapy.layers.inet6 import ICMPv6PacketTooBig
from scapy.layers.l2 import Ether

from kernlb.engines import abi
from kernlb.engines.dataplane import Dataplane
from kernlb.engines.limits import live
from tests.bpf.conftest import FAMILIES, HOOKS
from tests.bpf.world import (
    CLIENT_MAC,
    DROPPED,
    FULLNAT,
    GATEWAY_MAC,
    HOP,
    IDLE,
    SENT,
    SLOTS,
    World,
    checksums_hold,
    frame,
    grow_old,
    ip_of,
    tcp,
    udp,
    vip_of,
)

pytestmark = pytest.mark.bpf


def limit(world: World, family: int, *, connections: int = 0, together: int = 0) -> None:
    """Of the full NAT service, TCP and UDP alike."""
    number = world.service(FULLNAT, family)
    for kind in (abi.LimitKind.TOGETHER, abi.LimitKind.SERVICE | number):
        world.plane.maps["limits"][abi.index(kind)] = bytes(world.plane.maps["limits"].value_size)
    for protocol, port in ((6, 80), (17, 53)):
        key = abi.ServiceKey(address=ip_address(vip_of(FULLNAT, family)), port=port, protocol=protocol)
        service = abi.Service(
            id=number, slots=SLOTS, idle=IDLE, connections=connections, together=together, limit=number
        )
        world.plane.set_service(key, service)


def limit_server(world: World, which: int, family: int, connections: int, resume: int, *, hop: abi.Hop = HOP) -> None:
    number = world.number(FULLNAT, which, family)
    key = abi.index(abi.LimitKind.SERVER | number)
    world.plane.maps["limits"][key] = bytes(world.plane.maps["limits"].value_size)
    world.set_server(FULLNAT, which, family, hop=hop, connections=connections, resume=resume)


def connect(world: World, hook: str, family: int, ports: range) -> list[int]:
    """The ports from which a connection was let in."""
    sent = SENT[hook]
    return [
        port
        for port in ports
        if (run := world.send(frame(FULLNAT, family, tcp("S", sport=port)), hook)).verdict == sent
        and TCP in Ether(run.packet)
        and "R" not in Ether(run.packet)[TCP].flags
    ]


def close(world: World, hook: str, family: int, port: int) -> None:
    assert world.send(frame(FULLNAT, family, tcp("RA", sport=port)), hook).verdict == SENT[hook]


@HOOKS
@FAMILIES
@pytest.mark.parametrize("bound", ["connections", "together"])
def test_past_its_limit_a_service_lets_in_whom_it_lets_go(world: World, hook: str, family: int, bound: str) -> None:
    limit(world, family, **{bound: 3})
    assert connect(world, hook, family, range(5000, 5006)) == [5000, 5001, 5002]
    close(world, hook, family, 5001)
    close(world, hook, family, 5001)
    assert connect(world, hook, family, range(6000, 6003)) == [6000]
    assert world.plane.causes()[abi.Cause.LIMIT] == 3 + 2
    # Known connections go on, and one that was closed has to ask again.
    assert world.send(frame(FULLNAT, family, tcp("A", sport=5000)), hook).verdict == SENT[hook]
    assert connect(world, hook, family, range(5001, 5002)) == []


@HOOKS
@FAMILIES
def test_who_is_refused_gets_a_reset_that_answers_the_syn(world: World, hook: str, family: int) -> None:
    limit(world, family, connections=1)
    connect(world, hook, family, range(5000, 5001))
    syn = Ether(bytes(frame(FULLNAT, family, TCP(sport=5001, dport=80, flags="S", seq=7, options=[("MSS", 1460)]))))
    run = world.send(syn, hook)
    answer = Ether(run.packet)
    assert run.verdict == SENT[hook]
    assert (answer.dst, answer.src) == (CLIENT_MAC, GATEWAY_MAC)
    assert (ip_of(answer).src, ip_of(answer).dst) == (ip_of(syn).dst, ip_of(syn).src)
    assert (answer[TCP].sport, answer[TCP].dport) == (80, 5001)
    assert (answer[TCP].flags, answer[TCP].seq, answer[TCP].ack) == ("RA", 0, 8)
    assert checksums_hold(answer)


@HOOKS
@FAMILIES
def test_datagrams_past_a_limit_are_dropped(world: World, hook: str, family: int) -> None:
    limit(world, family, connections=1)
    assert world.send(frame(FULLNAT, family, udp(sport=5000)), hook).verdict == SENT[hook]
    assert world.send(frame(FULLNAT, family, udp(sport=5001)), hook).verdict == DROPPED[hook]
    assert world.send(frame(FULLNAT, family, udp(sport=5000)), hook).verdict == SENT[hook]


@HOOKS
@FAMILIES
def test_a_server_at_its_limit_is_passed_over_until_it_has_room(world: World, hook: str, family: int) -> None:
    limit_server(world, 0, family, connections=4, resume=3)
    full, other = (str(FULLNAT.server(which, family)) for which in (0, 1))

    def servers(ports: range) -> list[str]:
        sent = [world.send(frame(FULLNAT, family, tcp("S", sport=port)), hook) for port in ports]
        assert all(run.verdict == SENT[hook] for run in sent)
        return [ip_of(Ether(run.packet)).dst for run in sent]

    first = servers(range(5000, 5040))
    assert first.count(full) == 4
    assert first.count(other) == 36
    mine = [port for port, server in zip(range(5000, 5040), first, strict=True) if server == full]
    close(world, hook, family, mine[0])
    # As IPVS does: it begins again below the lower number.
    assert full not in servers(range(6000, 6020))
    close(world, hook, family, mine[1])
    assert servers(range(7000, 7040)).count(full) == 2


@HOOKS
@FAMILIES
@pytest.mark.parametrize(("chosen", "given"), [(1500, 1300), (1300, 1500)], ids=["other is smaller", "other is larger"])
def test_a_datagram_has_to_fit_the_way_to_the_server_that_it_is_given(
    world: World, hook: str, family: int, chosen: int, given: int
) -> None:
    """And not to the one that it would have had, which is full. What does not fit takes no place."""
    limit(world, family, connections=4)
    for which, mtu in enumerate((chosen, given)):
        limit_server(world, which, family, connections=2, resume=2, hop=replace(HOP, mtu=mtu))
    world.set_table(FULLNAT, family, [world.number(FULLNAT, 0, family)] * SLOTS)
    for sport in (5000, 5001):
        assert world.send(frame(FULLNAT, family, udp(sport=sport)), hook).verdict == SENT[hook]
    full, other = (world.number(FULLNAT, which, family) for which in (0, 1))
    world.set_table(FULLNAT, family, [full if slot % 4 else other for slot in range(SLOTS)])
    numbers = range(6000, 6100)
    large = {sport: frame(FULLNAT, family, udp(sport=sport, payload=bytes(1350))) for sport in numbers}
    sport = next(sport for sport in numbers if world.plane.explain(bytes(large[sport])).server == full)
    run = world.send(large[sport], hook)
    fits = given > 1400
    assert world.plane.causes()[abi.Cause.TOO_BIG] == (not fits)
    if fits:
        assert ip_of(Ether(run.packet)).dst == str(FULLNAT.server(1, family))
    else:
        told = Ether(run.packet)
        assert (told[ICMP].nexthopmtu if family == 4 else told[ICMPv6PacketTooBig].mtu) == given
    counted = live(world.plane.maps["limits"])
    assert counted[abi.LimitKind.SERVICE | world.service(FULLNAT, family)] == 2 + fits
    assert counted[abi.LimitKind.SERVER | other] == fits


@HOOKS
def test_where_every_server_is_full_the_connection_is_refused(world: World, hook: str) -> None:
    for which in (0, 1):
        limit_server(world, which, 4, connections=2, resume=2)
    limit(world, 4, connections=100)
    assert len(connect(world, hook, 4, range(5000, 5020))) == 4
    assert live(world.plane.maps["limits"])[abi.LimitKind.SERVICE | world.service(FULLNAT, 4)] == 4


@HOOKS
def test_what_idles_out_counts_no_more(world: World, hook: str) -> None:
    """Nobody closes them, nobody sweeps: the program lets go of them by itself when their time is over."""
    limit(world, 4, connections=5)
    assert len(connect(world, hook, 4, range(5000, 5010))) == 5
    grow_old(world, abi.Settings(secret=0).timeouts[abi.FlowState.OPENING] // 4 * 4 + 8)
    assert len(connect(world, hook, 4, range(6000, 6010))) == 5


@HOOKS
def test_what_is_heard_of_is_counted_on(world: World, hook: str) -> None:
    limit(world, 4, connections=2)
    connect(world, hook, 4, range(5000, 5002))
    for age in (20, 20, 20, 400, 400):
        grow_old(world, age)
        assert world.send(frame(FULLNAT, 4, tcp("A", sport=5000)), hook).verdict == SENT[hook]
    # The other was never established.
    assert connect(world, hook, 4, range(6000, 6010)) == [6000]


@HOOKS
def test_connections_from_before_the_limit_count_once_they_are_heard_of(world: World, hook: str) -> None:
    assert len(connect(world, hook, 4, range(5000, 5004))) == 4
    limit(world, 4, connections=4)
    grow_old(world, 8)
    for port in range(5000, 5003):
        world.send(frame(FULLNAT, 4, tcp("A", sport=port)), hook)
    assert connect(world, hook, 4, range(6000, 6010)) == [6000]


@HOOKS
def test_a_flow_without_a_port_takes_no_place(plane: Dataplane, hook: str) -> None:
    world = World(plane, ports=4)
    world.set_table(FULLNAT, 4, [world.number(FULLNAT, 0, 4)] * SLOTS)
    limit(world, 4, connections=20)
    assert len(connect(world, hook, 4, range(5000, 5010))) == 4
    assert live(world.plane.maps["limits"])[abi.LimitKind.SERVICE | world.service(FULLNAT, 4)] == 4
