"""No flow that is in use moves, whatever happens to the table; where slots are settled no state is kept."""

import random
import struct

import numpy as np
import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from kernlb.engines import abi
from kernlb.engines.dataplane import XDP
from kernlb.hashing import assign, flow_hash, slot_of
from kernlb.transition import NEVER, Transition
from tests.bpf.conftest import HOOKS, LOADERS
from tests.bpf.world import CLIENT4, HOP, IDLE, SLOTS, SOURCE4, World, frame, ip_address, tcp, udp
from tests.bpf.world import IPIP as METHOD

pytestmark = [pytest.mark.bpf, LOADERS]
NAMES = [f"10.9.0.{n}" for n in range(1, 13)]


@pytest.fixture
def world(world: World) -> World:
    for number, name in enumerate(NAMES):
        put(world, number)
        assert str(ip_address(name))
    return world


def put(world: World, number: int, flags: abi.ServerFlag = abi.NO_SERVER_FLAG) -> None:
    server = abi.Server(
        address=ip_address(NAMES[number]), source=SOURCE4, forward=abi.Forward.IPIP, hop=HOP, flags=flags
    )
    world.plane.set_server(1 + number, server)


def slots(weights: dict[str, int]) -> np.ndarray:
    table = assign(weights, slots=SLOTS)
    return np.array([1 + NAMES.index(name) for name in table.names], dtype=np.uint16)[table.owner]


def write(world: World, transition: Transition) -> None:
    world.plane.table(world.service(METHOD, 4), SLOTS).write(*transition.words())


def server_of(world: World, flags: str, sport: int, hook: str = XDP) -> str:
    return Ether(world.send(frame(METHOD, 4, tcp(flags, sport=sport)), hook).packet)[IP].dst


def memories(world: World) -> int:
    known = world.plane.maps["memories"]
    return sum(
        word != 0 for number in range(known.max_entries) for word in struct.unpack("=8Q", known[abi.index(number)])
    )


@HOOKS
def test_ten_changes_within_one_transition_break_no_connection(world: World, hook: str) -> None:
    """The law of the engine: 1,000 silent connections, and servers added, removed, drained and reweighted."""
    dice = random.Random(4)
    weights = dict.fromkeys(NAMES[:6], 2)
    transition = Transition.settled(slots(weights))
    write(world, transition)
    flows = {sport: server_of(world, "S", sport, hook) for sport in range(10000, 10500)}
    for change in range(10):
        name = dice.choice(NAMES)
        weights[name] = dice.choice([0, 1, 2, 5]) if any(w for n, w in weights.items() if n != name) else 3
        transition = transition.toward(slots(weights), now=float(change))
        write(world, transition)
        begun = {sport: server_of(world, "S", sport, hook) for sport in range(20000 + change * 50, 20050 + change * 50)}
        assert all(weights[server] for server in begun.values()), "a new connection went to a server that takes none"
        for sport in begun:
            server_of(world, "A", sport, hook)
        flows |= begun
    assert len(flows) == 1000
    assert {sport: server_of(world, "A", sport, hook) for sport in flows} == flows


@HOOKS
def test_a_settled_table_keeps_no_state(world: World, hook: str) -> None:
    write(world, Transition.settled(slots(dict.fromkeys(NAMES[:6], 1))))
    for sport in range(2000):
        world.send(frame(METHOD, 4, tcp("S", sport=sport)), hook)
    assert memories(world) == 0


def test_a_flood_of_syns_forgets_no_established_connection(world: World) -> None:
    transition = Transition.settled(slots(dict.fromkeys(NAMES[:3], 1))).toward(
        slots(dict.fromkeys(NAMES[:9], 1)), now=0
    )
    write(world, transition)
    flows = {sport: server_of(world, "S", sport) for sport in range(10000, 10500)}
    assert {sport: server_of(world, "A", sport) for sport in flows} == flows
    packet = bytearray(bytes(frame(METHOD, 4, tcp("S"))))
    program = world.plane.program(XDP)
    for number in range(20000):
        packet[26:30] = struct.pack("!I", 0x0B000000 + number)
        program.run(bytes(packet))
    assert {sport: server_of(world, "A", sport) for sport in flows} == flows


def test_flows_of_before_are_known_once_seen_and_outlive_the_transition_s_first_part(world: World) -> None:
    old, new = slots({NAMES[0]: 1}), slots({NAMES[1]: 1})
    transition = Transition.settled(old)
    write(world, transition)
    assert server_of(world, "S", 5000) == NAMES[0]
    transition = transition.toward(new, now=0)
    write(world, transition)
    assert server_of(world, "A", 5000) == NAMES[0]
    assert world.plane.table(world.service(METHOD, 4), SLOTS).used().any()
    transition = transition.settle(now=IDLE, idle=IDLE, used=np.full(SLOTS, float(IDLE)))
    write(world, transition)
    assert server_of(world, "A", 5000) == NAMES[0]
    assert server_of(world, "A", 5001) == NAMES[1]
    write(world, transition.settle(now=2 * IDLE, idle=IDLE, used=np.full(SLOTS, NEVER)))
    assert server_of(world, "A", 5002) == NAMES[1]


def test_flows_of_a_dead_server_go_elsewhere(world: World) -> None:
    transition = Transition.settled(slots({NAMES[0]: 1}))
    transition = transition.toward(slots({NAMES[1]: 1}), now=0)
    write(world, transition)
    assert server_of(world, "S", 5000) == NAMES[1]
    put(world, 1, abi.ServerFlag.DEAD)
    write(world, transition.toward(slots({NAMES[2]: 1}), now=1, dead={2}))
    assert server_of(world, "S", 5000) == NAMES[2]


def test_a_connection_that_closed_is_balanced_anew(world: World) -> None:
    transition = Transition.settled(slots({NAMES[0]: 1})).toward(slots({NAMES[1]: 1}), now=0)
    write(world, transition)
    assert server_of(world, "A", 5000) == NAMES[0]
    assert server_of(world, "FA", 5000) == NAMES[0]
    assert server_of(world, "A", 5000) == NAMES[0]
    assert server_of(world, "S", 5000) == NAMES[1]


def test_the_program_and_python_hash_alike(world: World) -> None:
    for sport in range(1, 200):
        for packet, protocol, port in (
            (frame(METHOD, 4, tcp("S", sport=sport)), 6, 80),
            (frame(METHOD, 4, udp(sport=sport)), 17, 53),
        ):
            told = world.plane.explain(bytes(packet))
            client, vip = ip_address(CLIENT4).packed, ip_address(METHOD.vip4).packed
            expected = flow_hash(client, vip, sport, port, protocol)
            assert (told.hash, told.slot) == (expected >> 32, slot_of(expected, SLOTS))
    for sport in range(1, 50):
        told = world.plane.explain(bytes(frame(METHOD, 6, tcp("S", sport=sport))))
        expected = flow_hash(ip_address("2001:db8:1::7").packed, ip_address(METHOD.vip6).packed, sport, 80, 6)
        assert (told.hash, told.slot) == (expected >> 32, slot_of(expected, SLOTS))
