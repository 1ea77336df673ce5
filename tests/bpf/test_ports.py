"""Ports of full NAT: kept for their client through the server's TIME_WAIT, and what the next client has to bring."""

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kernlb.engines import abi
from kernlb.engines.dataplane import XDP, Dataplane, Sizes
from tests.bpf.conftest import BUCKETS, FAMILIES, HOOKS
from tests.bpf.world import (
    CLIENT4,
    CLIENT_MAC,
    DROPPED,
    FULLNAT,
    GATEWAY_MAC,
    SENT,
    SERVER_MAC,
    SLOTS,
    SOURCE4,
    SOURCE6,
    World,
    checksums_hold,
    frame,
    grow_old,
    icmp_error,
    ip_of,
    passes,
    tcp,
    udp,
)

pytestmark = pytest.mark.bpf
A_MINUTE, AN_HOUR = 64, 3600
RESTED = 4
RATE, TIME_WAIT = 5000, 66
"""New connections a second that the table of the size that is shipped has room for, and seconds that they are in it."""


def few_ports(plane: Dataplane, ports: int) -> World:
    """One server, and hardly any ports to reach it from."""
    world = World(plane, ports=ports)
    for family in (4, 6):
        world.set_table(FULLNAT, family, [world.number(FULLNAT, 0, family)] * SLOTS)
    return world


@pytest.fixture
def world(plane: Dataplane) -> World:
    return few_ports(plane, 1)


def stamped(flags: str, sport: int, value: int, *, echo: int = 0, odd: bool = False) -> Packet:
    options = [("NOP", None), ("NOP", None), ("Timestamp", (value, echo))]
    return TCP(sport=sport, dport=80, flags=flags, seq=1, options=options[odd:]) / Raw(b"abc")


def ask(world: World, hook: str, family: int, transport: Packet) -> Packet | None:
    """What the server gets."""
    run = world.send(frame(FULLNAT, family, transport), hook)
    return Ether(run.packet) if run.verdict == SENT[hook] else None


def answer(world: World, hook: str, asked: Packet, transport: Packet) -> Packet:
    """What the client gets of what the server says to a packet."""
    told = Ether(src=SERVER_MAC, dst=GATEWAY_MAC) / ip_of(asked).__class__(src=ip_of(asked).dst, dst=ip_of(asked).src)
    transport.sport, transport.dport = asked[TCP].dport, asked[TCP].sport
    run = world.send(told / transport, hook)
    assert run.verdict == SENT[hook]
    return Ether(run.packet)


def close(world: World, hook: str, family: int, sport: int, *, value: int | None, server_first: bool) -> None:
    opened = ask(world, hook, family, stamped("S", sport, value) if value else tcp("S", sport=sport))
    assert opened is not None
    if server_first:
        answer(world, hook, opened, tcp("FA"))
    ask(world, hook, family, stamped("FA", sport, value + 50, echo=9) if value else tcp("FA", sport=sport))
    if not server_first:
        answer(world, hook, opened, tcp("FA"))


def time_of(packet: Packet | None) -> tuple[int, int]:
    assert packet is not None
    value: tuple[int, int] = dict(packet[TCP].options)["Timestamp"]
    return value


@HOOKS
@FAMILIES
@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
def test_the_next_client_of_a_port_goes_on_with_its_clock(world: World, hook: str, family: int, odd: bool) -> None:
    """What a server in TIME_WAIT asks of a SYN: a younger timestamp than the last (RFC 6191)."""
    close(world, hook, family, 40000, value=5_000_000, server_first=True)
    assert ask(world, hook, family, stamped("S", 41000, 77, odd=odd)) is None
    grow_old(world, RESTED)
    syn = ask(world, hook, family, stamped("S", 41000, 77, odd=odd))
    began, _ = time_of(syn)
    assert began > 5_000_050
    assert checksums_hold(syn)
    later = ask(world, hook, family, stamped("A", 41000, 99, echo=1234, odd=odd))
    assert time_of(later) == (began + 22, 1234)
    assert checksums_hold(later)
    back = answer(world, hook, syn, stamped("SA", 0, 1234, echo=began, odd=odd))
    assert time_of(back) == (1234, 77)
    assert back.dst == CLIENT_MAC
    assert checksums_hold(back)


@HOOKS
def test_clocks_go_on_from_client_to_client(world: World, hook: str) -> None:
    last = 0
    for turn, value in enumerate((4_000_000_000, 5, 3_000_000_000, 4_294_967_290, 1)):
        syn = ask(world, hook, 4, stamped("S", 40000 + turn, value))
        assert not turn or 0 < (time_of(syn)[0] - last) % (1 << 32) < 1 << 31
        answer(world, hook, syn, tcp("FA"))
        last = time_of(ask(world, hook, 4, stamped("FA", 40000 + turn, (value + 10) % (1 << 32))))[0]
        grow_old(world, RESTED)


@HOOKS
@FAMILIES
def test_a_client_without_timestamps_gets_no_port_in_time_wait(world: World, hook: str, family: int) -> None:
    close(world, hook, family, 40000, value=5_000_000, server_first=True)
    grow_old(world, RESTED)
    assert ask(world, hook, family, tcp("S", sport=41000)) is None
    assert world.plane.causes()[abi.Cause.NO_PORT] == 1
    grow_old(world, A_MINUTE)
    assert ask(world, hook, family, tcp("S", sport=41000)) is not None


@HOOKS
@FAMILIES
def test_a_server_that_did_not_close_first_has_no_time_wait(world: World, hook: str, family: int) -> None:
    close(world, hook, family, 40000, value=None, server_first=False)
    assert ask(world, hook, family, tcp("S", sport=41000)) is None
    grow_old(world, RESTED)
    assert ask(world, hook, family, tcp("S", sport=41000)) is not None


@HOOKS
@FAMILIES
@pytest.mark.parametrize(
    ("said", "remembers"),
    [
        pytest.param("server FA", True, id="FIN-WAIT"),
        pytest.param("server FA, client RA", False, id="the client resets FIN-WAIT"),
        pytest.param("server FA, client R", False, id="the client resets FIN-WAIT without ACK"),
        pytest.param("server FA, client A, server R", False, id="the server resets what comes after it"),
        pytest.param("server FA, client RA, server FA", True, id="the reset was lost"),
        pytest.param("server FA, client RA, server FA, client R", False, id="the reset came at last"),
        pytest.param("server FA, client FA, client RA", True, id="the client resets TIME-WAIT"),
        pytest.param("server FA, client FA, server R", False, id="the server has no TIME-WAIT"),
        pytest.param("client FA, server FA, client R", False, id="TIME-WAIT is the client's"),
    ],
)
def test_a_server_remembers_what_it_has_closed_first_until_a_reset_ends_it(
    world: World, hook: str, family: int, said: str, remembers: bool
) -> None:
    """Of a client without timestamps, whose port goes to the next only when the server has forgotten it."""
    opened = ask(world, hook, family, tcp("S"))
    assert opened is not None
    ask(world, hook, family, tcp("A"))
    for word in said.split(", "):
        who, flags = word.split()
        if who == "client":
            assert ask(world, hook, family, tcp(flags)) is not None
        else:
            answer(world, hook, opened, tcp(flags))
    grow_old(world, RESTED)
    assert (ask(world, hook, family, tcp("S", sport=41000)) is None) is remembers
    assert world.plane.causes()[abi.Cause.NO_PORT] == remembers


@HOOKS
def test_whose_port_was_given_away_begins_on_another(plane: Dataplane, hook: str) -> None:
    world = few_ports(plane, 1)
    close(world, hook, 4, 40000, value=1000, server_first=True)
    grow_old(world, RESTED)
    taken = ask(world, hook, 4, stamped("S", 41000, 5))
    assert taken is not None
    assert ask(world, hook, 4, stamped("S", 40000, 2000)) is None
    source = abi.Source(address=SOURCE4, first_port=2000, port_count=1)
    world.plane.set_source(0, source)
    again = ask(world, hook, 4, stamped("S", 40000, 2000))
    assert again is not None
    assert again[TCP].sport == 2000
    # And the new owner's connection goes on.
    on = ask(world, hook, 4, stamped("A", 41000, 6))
    assert on is not None
    assert on[TCP].sport == taken[TCP].sport
    assert answer(world, hook, taken, stamped("A", 0, 1, echo=time_of(on)[0]))[TCP].dport == 41000


@HOOKS
@FAMILIES
@pytest.mark.parametrize("over", ["idle", "closed"])
def test_whose_port_was_given_away_reaches_the_new_owners_connection_with_nothing(
    world: World, hook: str, family: int, over: str
) -> None:
    if over == "idle":
        ask(world, hook, family, stamped("S", 40000, 1000))
        ask(world, hook, family, stamped("A", 40000, 1001))
        grow_old(world, AN_HOUR)
    else:
        close(world, hook, family, 40000, value=1000, server_first=True)
        grow_old(world, RESTED)
    taken = ask(world, hook, family, stamped("S", 41000, 5))
    assert taken is not None
    late = frame(FULLNAT, family, stamped("A", 40000, 2000))
    if family == 4:
        quoted = IP(src=FULLNAT.vip4, dst=CLIENT4) / TCP(sport=80, dport=40000)
        assert passes(world, icmp_error(FULLNAT, quoted=quoted, destination=FULLNAT.vip4), hook, abi.Cause.NO_FLOW)
    for _ in range(2):
        assert passes(world, late, hook, abi.Cause.NO_FLOW)
    assert passes(world, frame(FULLNAT, family, stamped("RA", 40000, 2001)), hook, abi.Cause.NO_FLOW)
    on = ask(world, hook, family, stamped("A", 41000, 6))
    assert on is not None
    assert on[TCP].sport == taken[TCP].sport
    assert answer(world, hook, taken, stamped("A", 0, 1, echo=time_of(on)[0]))[TCP].dport == 41000


@HOOKS
def test_a_closed_connection_keeps_its_port_for_the_same_client(plane: Dataplane, hook: str) -> None:
    """Another client's SYN would meet the server's TIME_WAIT, which may refuse it."""
    world = few_ports(plane, 31744)
    port = Ether(world.send(frame(FULLNAT, 4, tcp("S")), hook).packet)[TCP].sport
    world.send(frame(FULLNAT, 4, tcp("FA")), hook)
    world.send(frame(FULLNAT, 4, tcp("RA")), hook)
    others = {
        Ether(world.send(frame(FULLNAT, 4, tcp("S", sport=sport)), hook).packet)[TCP].sport
        for sport in range(41000, 41500)
    }
    assert len(others) == 500
    assert port not in others
    assert Ether(world.send(frame(FULLNAT, 4, tcp("S")), hook).packet)[TCP].sport == port


@HOOKS
@FAMILIES
@pytest.mark.parametrize("tracked", [0, abi.SLOT_TRACKED], ids=["settled", "in transition"])
def test_a_client_that_comes_back_goes_where_its_slot_leads_today(
    plane: Dataplane, hook: str, family: int, tracked: int
) -> None:
    """Other weights and new servers count for whoever comes round on the same ports, and for no connection in use."""
    world = few_ports(plane, 31744)
    server = [str(FULLNAT.server(which, family)) for which in (0, 1)]

    def lead(which: int) -> None:
        current, before = (world.number(FULLNAT, each, family) for each in (which, 1 - which))
        world.set_table(FULLNAT, family, [current] * SLOTS, [before | tracked if tracked else current] * SLOTS)

    def went(packet: Packet | None) -> str:
        assert packet is not None
        return str(ip_of(packet).dst)

    lead(0)
    first = ask(world, hook, family, tcp("S"))
    assert went(first) == server[0]
    lead(1)
    for flags in ("S", "A", "FA"):
        assert went(ask(world, hook, family, tcp(flags))) == server[0]
    answer(world, hook, first, tcp("FA"))
    assert world.plane.explain(bytes(frame(FULLNAT, family, tcp("S")))).server == world.number(FULLNAT, 1, family)
    assert went(ask(world, hook, family, tcp("S"))) == server[1]
    assert went(ask(world, hook, family, tcp("A"))) == server[1]
    # What the old server says again still finds its way.
    assert answer(world, hook, first, tcp("FA")).dst == CLIENT_MAC
    lead(0)
    assert went(ask(world, hook, family, tcp("A"))) == server[1]


@HOOKS
@FAMILIES
def test_ports_are_those_of_the_range_and_who_comes_back_after_it_has_changed_gets_another(
    plane: Dataplane, hook: str, family: int
) -> None:
    world = few_ports(plane, 31744)

    def share(first: int) -> range:
        for number, address in enumerate((SOURCE4, SOURCE6)):
            plane.set_source(number, abi.Source(address=address, first_port=first, port_count=64))
        return range(first, first + 64)

    before = share(20000)
    used, over, idle = (ask(world, hook, family, tcp("S", sport=sport)) for sport in (40000, 40001, 40002))
    drawn = [ask(world, hook, family, tcp("S", sport=sport)) for sport in range(50000, 50020)]
    assert all(packet is not None and packet[TCP].sport in before for packet in (used, over, idle, *drawn))
    ask(world, hook, family, tcp("FA", sport=40001))
    answer(world, hook, over, tcp("FA"))
    after = share(30000)
    for flags in ("A", "FA"):
        on = ask(world, hook, family, tcp(flags, sport=40000))
        assert on is not None
        assert on[TCP].sport == used[TCP].sport
        assert answer(world, hook, used, tcp("A"))[TCP].dport == 40000
    again = ask(world, hook, family, tcp("S", sport=40002))
    assert again is not None
    assert again[TCP].sport == idle[TCP].sport, "a SYN that is sent again is no new connection"
    back = ask(world, hook, family, tcp("S", sport=40001))
    assert back is not None
    assert back[TCP].sport in after
    assert answer(world, hook, over, tcp("FA"))[TCP].dport == 40001, "what the server says again finds its way"


def test_nearly_every_port_of_the_range_can_be_had(plane: Dataplane) -> None:
    world = few_ports(plane, 1000)
    runs = [world.send(frame(FULLNAT, 4, tcp("S", sport=sport))) for sport in range(20000, 21000)]
    sent = [Ether(run.packet)[TCP].sport for run in runs if run.verdict == SENT[XDP]]
    assert len(set(sent)) == len(sent) >= 900
    causes = world.plane.causes()
    assert causes[abi.Cause.NO_PORT] + causes[abi.Cause.NO_ROOM] == 1000 - len(sent)


@HOOKS
@FAMILIES
def test_a_connection_without_room_waits_for_it(plane: Dataplane, hook: str, family: int) -> None:
    """Its SYN is lost, so that it is sent again; a datagram is the stack's."""
    world = few_ports(plane, 31744)
    for sport in range(1024, 20000):
        if world.send(frame(FULLNAT, family, tcp("S", sport=sport)), hook).verdict != SENT[hook]:
            break
    assert world.send(syn := frame(FULLNAT, family, tcp("S", sport=sport)), hook).verdict == DROPPED[hook]
    assert world.plane.causes()[abi.Cause.NO_ROOM] == 2
    while world.send(late := frame(FULLNAT, family, udp(sport=sport)), hook).verdict == SENT[hook]:
        sport += 1
    assert passes(world, late, hook, abi.Cause.NO_ROOM)
    grow_old(world, A_MINUTE)
    assert world.send(syn, hook).verdict == SENT[hook]


def test_connections_that_are_over_leave_room_for_others(plane: Dataplane) -> None:
    """A table full of what has closed is not full: more connections than it has entries, one after the other."""
    world = few_ports(plane, 31744)
    entries = plane.maps["flows"].max_entries * abi.FLOWS_PER_BUCKET
    let_in = 0
    for number in range(entries):
        sport = 1024 + number
        let_in += ask(world, XDP, 4, tcp("S", sport=sport)) is not None
        ask(world, XDP, 4, tcp("RA", sport=sport))
        if number % 256 == 0:
            grow_old(world, RESTED)
    assert let_in > entries * 0.99


def test_thousands_of_connections_a_second_that_their_servers_close_first_have_room(plane: Dataplane) -> None:
    """In a table that is as much smaller than the shipped one as the rate. Without timestamps none gives its port away
    before the server's TIME_WAIT is over."""
    world = few_ports(plane, 31744)
    lasts = abi.Settings(secret=0).timeouts[abi.FlowState.CLOSED]
    at_a_time = RATE * TIME_WAIT * BUCKETS // Sizes().flow_buckets // (lasts // RESTED + 1)
    heads = {flags: bytes(frame(FULLNAT, 4, tcp(flags))) for flags in ("S", "A", "FA")}
    closing = bytes(
        Ether(src=SERVER_MAC, dst=GATEWAY_MAC) / IP(src="10.0.0.1", dst="10.0.0.1") / TCP(sport=8080, flags="FA")
    )
    used: dict[bytes, int] = {}
    program, number = plane.program(XDP), 0
    for step in range(3 * lasts // RESTED):
        for _ in range(at_a_time):
            client = (0x0A400000 + number % 4000).to_bytes(4, "big"), (1024 + number % 60000).to_bytes(2, "big")
            said = {each: b[:26] + client[0] + b[30:34] + client[1] + b[36:] for each, b in heads.items()}
            number += 1
            run = program.run(said["S"])
            assert run.verdict == SENT[XDP], world.plane.causes()
            source, server, port = run.packet[26:30], run.packet[30:34], run.packet[34:36]
            assert step - used.get(port, -AN_HOUR) >= lasts // RESTED
            used[port] = step
            program.run(said["A"])
            program.run(closing[:26] + server + source + closing[34:36] + port + closing[38:])
            program.run(said["FA"])
        grow_old(world, RESTED)
