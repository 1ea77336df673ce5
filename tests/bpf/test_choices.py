"""Least connections, by two choices: a connection of full NAT goes where there are fewer for the weight, and stays."""

from collections import Counter
from ipaddress import ip_address

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from kernlb.engines import abi
from tests.bpf.conftest import FAMILIES, HOOKS, LOADERS
from tests.bpf.world import FULLNAT, IDLE, SENT, SLOTS, World, frame, grow_old, ip_of, tcp, udp, vip_of

pytestmark = pytest.mark.bpf

MANY = range(5000, 5240)
TRANSPORTS = pytest.mark.parametrize("transport", [tcp, udp])


def choosing(world: World, family: int, weights: tuple[int, int] = (1, 1)) -> None:
    """Has the full NAT service look for who has fewer connections; slots go by weight."""
    number = world.service(FULLNAT, family)
    limits = world.plane.maps["limits"]
    for which, weight in enumerate(weights):
        weigh(world, family, which, weight)
        limits[abi.index(abi.LimitKind.SERVER | world.number(FULLNAT, which, family))] = bytes(limits.value_size)
    share(world, family, weights)
    for protocol, port in ((6, 80), (17, 53)):
        key = abi.ServiceKey(address=ip_address(vip_of(FULLNAT, family)), port=port, protocol=protocol)
        flags = abi.ServiceFlag.TWO_CHOICES
        world.plane.set_service(key, abi.Service(id=number, slots=SLOTS, idle=IDLE, limit=number, flags=flags))


def weigh(world: World, family: int, which: int, weight: int, flags: abi.ServerFlag = abi.NO_SERVER_FLAG) -> None:
    world.set_server(FULLNAT, which, family, flags=abi.ServerFlag.COUNTED | flags, weight=weight)


def share(world: World, family: int, weights: tuple[int, int]) -> None:
    numbers = [world.number(FULLNAT, which, family) for which in (0, 1)]
    world.set_table(FULLNAT, family, [numbers[slot % sum(weights) >= weights[0]] for slot in range(SLOTS)])


def server_of(world: World, hook: str, packet: Packet) -> int:
    """Which of the two gets it."""
    run = world.send(packet, hook)
    assert run.verdict == SENT[hook]
    to = ip_of(Ether(run.packet)).dst
    return [str(FULLNAT.server(which, 6 if ":" in to else 4)) for which in (0, 1)].index(to)


def opened(world: World, hook: str, family: int, ports: range, transport=tcp) -> Counter[int]:
    return Counter(server_of(world, hook, frame(FULLNAT, family, transport(sport=port))) for port in ports)


@HOOKS
@FAMILIES
@TRANSPORTS
def test_two_servers_have_as_many_as_each_other(world: World, hook: str, family: int, transport) -> None:
    choosing(world, family)
    chosen = opened(world, hook, family, MANY, transport)
    # One flow in 2^8 draws its own server eight times.
    assert abs(chosen[0] - chosen[1]) <= 4
    # And who is known stays where it is.
    again = opened(world, hook, family, MANY, transport)
    assert again == chosen


@pytest.mark.usefixtures("loaded")
@LOADERS
@HOOKS
def test_weights_share_the_connections(world: World, hook: str) -> None:
    choosing(world, 4, (3, 1))
    shared = opened(world, hook, 4, MANY)
    assert shared[0] == pytest.approx(len(MANY) * 3 / 4, abs=8)


@HOOKS
@FAMILIES
def test_who_has_many_gets_no_more_until_the_other_has_as_many(world: World, hook: str, family: int) -> None:
    choosing(world, family)
    share(world, family, (1, 0))
    assert opened(world, hook, family, range(5000, 5100)) == {0: 100}
    share(world, family, (1, 1))
    assert opened(world, hook, family, range(6000, 6080))[1] >= 78
    # What ends makes room.
    for port in range(5000, 5100):
        server_of(world, hook, frame(FULLNAT, family, tcp("R", sport=port)))
    assert opened(world, hook, family, range(7000, 7080))[0] >= 78


@HOOKS
def test_what_idles_out_counts_no_more(world: World, hook: str) -> None:
    choosing(world, 4)
    share(world, 4, (1, 0))
    opened(world, hook, 4, range(5000, 5100))
    share(world, 4, (1, 1))
    grow_old(world, 1 << 12)
    both = opened(world, hook, 4, range(6000, 6100))
    assert abs(both[0] - both[1]) <= 4


@HOOKS
@pytest.mark.parametrize("state", [abi.ServerFlag.DEAD, abi.ServerFlag.QUIESCED])
def test_no_connection_begins_at_a_server_that_takes_none(world: World, hook: str, state: abi.ServerFlag) -> None:
    """Its slots are another's a moment later, and until then nobody is sent there for having few."""
    choosing(world, 4)
    weigh(world, 4, 1, 1, state)
    mine = [
        port
        for port in MANY
        if world.plane.explain(bytes(frame(FULLNAT, 4, tcp(sport=port)))).current == world.number(FULLNAT, 0, 4)
    ]
    assert len(mine) > 80
    assert {server_of(world, hook, frame(FULLNAT, 4, tcp(sport=port))) for port in mine} == {0}


@HOOKS
def test_explain_says_where_it_would_go_and_why(world: World, hook: str) -> None:
    choosing(world, 4)
    share(world, 4, (1, 0))
    opened(world, hook, 4, range(5000, 5050))
    share(world, 4, (1, 1))
    reasons = set()
    for port in range(6000, 6040):
        packet = frame(FULLNAT, 4, tcp(sport=port))
        told = world.plane.explain(bytes(packet))
        assert told == world.plane.explain(bytes(packet))
        assert told.server == world.number(FULLNAT, server_of(world, hook, packet), 4)
        reasons.add(told.reason)
        assert told.reason is (abi.Reason.STEADY if told.server == told.current else abi.Reason.FEWER)
    assert reasons == {abi.Reason.STEADY, abi.Reason.FEWER}


@HOOKS
def test_limits_hold_beside_it(world: World, hook: str) -> None:
    choosing(world, 4)
    world.set_server(FULLNAT, 0, 4, flags=abi.ServerFlag.COUNTED, weight=1, connections=10, resume=8)
    assert opened(world, hook, 4, range(5000, 5060)) == {0: 10, 1: 50}
    answer = Ether(world.send(frame(FULLNAT, 4, tcp("A", sport=5000)), hook).packet)
    assert "R" not in answer[TCP].flags
