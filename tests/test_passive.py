"""Signs of dead servers in real packets, between namespaces of this machine."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from kernlb.checks.base import LINGER_RESET
from kernlb.errors import KernelError
from kernlb.model import Endpoint, EngineName, Protocol, ServerKey
from kernlb.passive import Passive, packets
from kernlb.passive.half_open import STALE, HalfOpen, half_open
from kernlb.passive.packets import Kind, Sighting
from kernlb.passive.suspicion import ANSWERED, PAUSE, REMEMBERED, TOO_LONG, WEAK_PAUSE, Suspicion
from tests.system.network import inside, ip, namespaces, run

SERVICE = Endpoint(EngineName.IPVS, Protocol.TCP, ip_address("192.0.2.1"), 80)
ONE = ("web", "one")
CLIENT, SERVER = (ip_address("192.0.2.10"), 40000), (ip_address("10.0.0.1"), 80)


def key(address: str, port: int = 80) -> ServerKey:
    return ServerKey(SERVICE, ip_address(address), port)


def aimed(*keys: ServerKey) -> Suspicion:
    suspicion = Suspicion()
    suspicion.aim({ONE: keys})
    return suspicion


def refused(source=SERVER, target=CLIENT) -> Sighting:
    return Sighting(Kind.REFUSAL, source, target, 0)


def reset() -> Sighting:
    return Sighting(Kind.RESET, SERVER, CLIENT, 99)


def syn(sequence: int = 7, port: int = 40000) -> Sighting:
    return Sighting(Kind.SYN, (CLIENT[0], port), SERVER, sequence)


def answer(port: int = 40000) -> Sighting:
    return Sighting(Kind.ANSWER, SERVER, (CLIENT[0], port), 1)


def test_a_refused_connection_makes_its_server_suspect_and_no_other() -> None:
    suspicion = aimed(key("10.0.0.1"))
    assert suspicion.see(refused(), 0.0) == [ONE]
    assert suspicion.see(refused((SERVER[0], 81)), 5.0) == []
    assert suspicion.see(refused(CLIENT), 5.0) == []


def test_a_server_of_any_port_is_suspect_by_its_address() -> None:
    assert aimed(key("10.0.0.1", 0)).see(refused((SERVER[0], 81)), 0.0) == [ONE]


def test_the_same_syn_again_is_a_sign_and_another_is_none() -> None:
    suspicion = aimed(key("10.0.0.1"))
    assert suspicion.see(syn(), 0.0) == []
    assert suspicion.see(syn(8), 0.5) == []
    assert suspicion.see(syn(7, 40001), 0.5) == []
    assert suspicion.see(syn(8), 1.5) == [ONE]


def test_a_syn_that_is_not_answered_in_time_is_a_sign_once() -> None:
    suspicion = aimed(key("10.0.0.1"))
    suspicion.see(syn(), 0.0)
    assert suspicion.next == ANSWERED
    assert suspicion.overdue(ANSWERED - 0.01) == []
    assert suspicion.overdue(ANSWERED) == [ONE]
    assert suspicion.overdue(60.0) == []
    assert suspicion.next is None


def test_a_syn_that_is_answered_in_time_is_no_sign() -> None:
    suspicion = aimed(key("10.0.0.1"))
    suspicion.see(syn(), 0.0)
    suspicion.see(answer(), 0.2)
    assert suspicion.overdue(60.0) == []


def test_attempts_of_both_families_at_one_moment_wait_side_by_side() -> None:
    suspicion = aimed(key("10.0.0.1"), key("fd00::1"))
    server, client = (ip_address("fd00::1"), 80), (ip_address("fd00::10"), 40000)
    for number in range(3):
        suspicion.see(syn(port=number), 0.0)
        suspicion.see(Sighting(Kind.SYN, (client[0], number), server, 7), 0.0)
    assert suspicion.overdue(ANSWERED) == [ONE]


def test_ports_used_again_begin_a_new_wait() -> None:
    suspicion = aimed(key("10.0.0.1"))
    suspicion.see(syn(7), 0.0)
    suspicion.see(syn(8), 0.2)
    assert suspicion.overdue(ANSWERED + 0.1) == []
    assert suspicion.overdue(ANSWERED + 0.2) == [ONE]


def test_a_server_that_always_takes_its_time_is_given_more() -> None:
    suspicion = aimed(key("10.0.0.1"))
    usual = 2 * ANSWERED
    for number in range(20):
        suspicion.see(syn(number, 40000 + number), float(number))
        suspicion.see(answer(40000 + number), number + usual)
    suspicion.overdue(99.0)
    suspicion.see(syn(7), 100.0)
    assert suspicion.overdue(100 + TOO_LONG * usual - 0.01) == []
    assert suspicion.overdue(100 + TOO_LONG * usual + 0.01) == [ONE]


def test_resets_of_established_connections_are_a_weak_sign() -> None:
    suspicion = aimed(key("10.0.0.1"))
    assert [suspicion.see(reset(), t / 10) for t in range(50)].count([ONE]) == 1 + int(4.9 / WEAK_PAUSE)
    assert suspicion.see(refused(), 5.0) == [ONE]


def test_a_server_is_suspected_once_in_a_while_at_most() -> None:
    suspicion = aimed(key("10.0.0.1"))
    told = [suspicion.see(refused(), t * PAUSE / 10) for t in range(21)].count([ONE])
    assert told == 3


def test_memory_of_syns_is_bounded() -> None:
    suspicion = aimed(key("10.0.0.1"))
    for number in range(5 * REMEMBERED):
        suspicion.see(syn(number, number), 0.0)
    assert len(suspicion._open) == REMEMBERED
    assert len(suspicion._due) <= 2 * REMEMBERED


def test_a_server_of_every_port_is_one_to_remember() -> None:
    suspicion = aimed(key("10.0.0.1", 0))
    for port in range(1, 1000):
        suspicion.see(Sighting(Kind.SYN, CLIENT, (SERVER[0], port), 7), 0.0)
        suspicion.see(Sighting(Kind.ANSWER, (SERVER[0], port), CLIENT, 1), 0.1)
    assert len(suspicion._usual) == 1
    suspicion.aim({ONE: [key("10.0.0.1", 0)]})
    assert len(suspicion._usual) == 1
    suspicion.aim({})
    assert not suspicion._usual


TABLE = b"""\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C000020A 9C40 C0000201 0050 0A000001 0050 SYN_RECV         59
TCP C000020A 9C41 C0000201 0050 0A000002 0050 ESTABLISHED     899
UDP C000020A 9C41 C0000201 0035 0A000002 0035 UDP             299
TCP [fd00:0001:0000:0000:0000:0000:0000:0010] 9C42 [fd00:0001:0000:0000:0000:0000:0000:0001] 0050 \
[fd00:0002:0000:0000:0000:0000:0000:0001] 0050 SYN_RECV         59
"""


def test_the_half_open_connections_of_ipvs_are_those_in_syn_recv() -> None:
    found = [(client.split()[1], server, port) for client, server, port in half_open(TABLE.replace(b"\\\n", b""))]
    assert found == [
        (b"9C40", b"0A000001", b"0050"),
        (b"9C42", b"[fd00:0002:0000:0000:0000:0000:0000:0001]", b"0050"),
    ]


def test_what_stays_half_open_accuses_its_server_for_a_while() -> None:
    table = HalfOpen()
    text = TABLE.replace(b"\\\n", b"")
    accused = {(ip_address("10.0.0.1"), 80), (ip_address("fd00:2::1"), 80)}
    assert [table.compare(text) for _ in range(STALE + 3)] == [set(), *[accused] * STALE, set(), set()]
    assert table.compare(b"") == set()
    assert [table.compare(text), table.compare(text)] == [set(), accused]


@pytest.fixture
def wire() -> Iterator[tuple[str, str]]:
    """director 10.77.0.254, fd77::254 -- 10.77.0.1, fd77::1 server: refuses on 81, drops 82, listens on 80"""
    with namespaces("director", "server") as (director, server):
        ip(director, f"link add back type veth peer name eth0 netns {server}\n")
        ip(director, "addr add 10.77.0.254/24 dev back\naddr add fd77::254/64 dev back nodad\nlink set back up\n")
        ip(server, "addr add 10.77.0.1/24 dev eth0\naddr add fd77::1/64 dev eth0 nodad\nlink set eth0 up\n")
        with inside(server):
            rules = "table inet t { chain c { type filter hook input priority 0; tcp dport 82 drop; }; }"
            run("nft", "-f", "-", text=rules)
        yield director, server


async def suspects(director: str, act: Callable[[], None], keys: dict, *, seconds: float) -> tuple[list, Passive]:
    found: list = []
    with inside(director):
        watching = Passive(found.append)
    assert watching.off is None
    watching.aim(keys)
    try:
        await asyncio.to_thread(act)
        deadline = time.monotonic() + seconds
        while not found and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
    finally:
        watching.close()
    return found, watching


def attempt(director: str, address: str, port: int, source: int = 0) -> Callable[[], None]:
    def act() -> None:
        with inside(director):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        with sock:
            sock.settimeout(3)
            if source:
                sock.bind(("", source))
            try:
                sock.connect((address, port))
            except OSError:
                return

    return act


@pytest.mark.netns
@pytest.mark.nftables
@pytest.mark.parametrize("address", ["10.77.0.1", "fd77::1"])
@pytest.mark.parametrize(("port", "seconds"), [(81, 1.0), (82, 0.9)])
def test_refused_and_dropped_connections_are_seen_on_the_wire(wire, address: str, port: int, seconds: float) -> None:
    director, _ = wire
    keys = {ONE: [key(address, port)]}
    found, _ = asyncio.run(suspects(director, attempt(director, address, port), keys, seconds=seconds))
    assert set(found) == {ONE}


@pytest.mark.netns
def test_a_reset_of_an_established_connection_is_seen_on_the_wire(wire) -> None:
    director, server = wire

    def act() -> None:
        with inside(server):
            listening = socket.create_server(("10.77.0.1", 80))
        with listening, inside(director), socket.create_connection(("10.77.0.1", 80)):
            accepted, _ = listening.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            accepted.close()

    found, _ = asyncio.run(suspects(director, act, {ONE: [key("10.77.0.1")]}, seconds=1.0))
    assert set(found) == {ONE}


@pytest.mark.netns
def test_a_share_of_the_client_ports_can_be_looked_at_alone(wire) -> None:
    director, _ = wire
    with inside(director):
        watching = packets.opened()
    with watching:
        packets.attach(watching, packets.program(3))
        for port in range(20000, 20032):
            attempt(director, "10.77.0.1", 81, port)()
        seen = [packets.sighting(watching.recv(packets.SNAP)) for _ in range(8)]
        with pytest.raises(BlockingIOError):
            watching.recv(packets.SNAP)
    shared = [20000, 20008, 20016, 20024]
    assert [each.source[1] for each in seen if each.kind is Kind.SYN] == shared
    assert [each.target[1] for each in seen if each.kind is Kind.REFUSAL] == shared


@pytest.mark.netns
def test_ordinary_traffic_is_no_sign(wire) -> None:
    director, server = wire

    def act() -> None:
        with inside(server):
            listening = socket.create_server(("10.77.0.1", 80))
        with listening:
            for _ in range(20):
                attempt(director, "10.77.0.1", 80)()
                listening.accept()[0].close()

    found, watching = asyncio.run(suspects(director, act, {ONE: [key("10.77.0.1")]}, seconds=0.3))
    assert found == []
    assert watching._count <= 2 * 20 + 1


def test_those_whom_the_engines_name_are_suspected_though_an_engine_may_fail_once() -> None:
    answers = iter([KernelError("not now", errno=16), [], [key("10.0.0.1"), key("10.0.0.9")]])

    async def silent() -> list[ServerKey]:
        answer = next(answers, [])
        if isinstance(answer, KernelError):
            raise answer
        return answer

    async def scene() -> list:
        found: list = []
        watching = Passive(found.append, silent=silent)
        watching.aim({ONE: [key("10.0.0.1")]})
        try:
            deadline = time.monotonic() + 10
            while not found and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
        finally:
            watching.close()
        return found

    assert asyncio.run(scene()) == [ONE]


def test_where_packet_sockets_are_forbidden_it_says_so_and_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(packets, "attach", forbidden)

    async def scene() -> Passive:
        return Passive(lambda name: None)

    assert "not permitted" in str(asyncio.run(scene()).off)
