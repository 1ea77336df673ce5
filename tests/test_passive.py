"""Signs of dead servers in real packets, between namespaces of this machine."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from kernlb import passive
from kernlb.model import Endpoint, EngineName, Protocol, ServerKey
from kernlb.passive import Passive, Sighting, Suspicion
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


def refused(source=SERVER) -> Sighting:
    return Sighting(True, source, CLIENT, 0)


def syn(sequence: int = 7, port: int = 40000) -> Sighting:
    return Sighting(False, (CLIENT[0], port), SERVER, sequence)


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
    assert suspicion.see(syn(), 1.0) == [ONE]


def test_a_server_is_suspected_once_a_second_at_most() -> None:
    suspicion = aimed(key("10.0.0.1"))
    assert [suspicion.see(refused(), t / 10) for t in range(21)].count([ONE]) == 3


def test_memory_of_syns_is_bounded() -> None:
    suspicion = aimed(key("10.0.0.1"))
    for number in range(3 * passive.REMEMBERED):
        suspicion.see(syn(number), 0.0)
    assert len(suspicion._seen) == passive.REMEMBERED


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


def attempt(director: str, address: str, port: int) -> Callable[[], None]:
    def act() -> None:
        with inside(director):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        with sock:
            sock.settimeout(3)
            try:
                sock.connect((address, port))
            except OSError:
                return

    return act


@pytest.mark.netns
@pytest.mark.nftables
@pytest.mark.parametrize("address", ["10.77.0.1", "fd77::1"])
@pytest.mark.parametrize(("port", "seconds"), [(81, 1.0), (82, 5.0)])
def test_refused_and_dropped_connections_are_seen_on_the_wire(wire, address: str, port: int, seconds: float) -> None:
    director, _ = wire
    keys = {ONE: [key(address, port)]}
    found, _ = asyncio.run(suspects(director, attempt(director, address, port), keys, seconds=seconds))
    assert set(found) == {ONE}


@pytest.mark.netns
def test_ordinary_traffic_is_no_sign(wire) -> None:
    director, server = wire

    def act() -> None:
        with inside(server):
            listening = socket.create_server(("10.77.0.1", 80))
        with listening:
            for _ in range(20):
                attempt(director, "10.77.0.1", 80)()

    found, watching = asyncio.run(suspects(director, act, {ONE: [key("10.77.0.1")]}, seconds=0.3))
    assert found == []
    assert watching._count <= 21


def test_where_packet_sockets_are_forbidden_it_says_so_and_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(passive, "_attach", forbidden)

    async def scene() -> Passive:
        return Passive(lambda name: None)

    assert "not permitted" in str(asyncio.run(scene()).off)
