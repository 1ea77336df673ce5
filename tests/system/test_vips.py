"""VIPs on interfaces of namespaces, and what the neighbours hear of them."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP, Ether

from kernlb.engines.announce import frames
from kernlb.engines.vips import Vips
from kernlb.errors import KernelError, Unsupported
from kernlb.model import Key, Table, Value, Vip, VipKey
from kernlb.plan import Operation, Verb, diff
from tests.system.network import PATIENCE, inside, ip, namespaces, run, until

pytestmark = [pytest.mark.root, pytest.mark.netns]

V4, V6 = ip_address("203.0.113.10"), ip_address("2001:db8::10")
ETH_P_ALL = 3


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    """A host with eth0, and its neighbour at the other end."""
    with namespaces("host", "neighbour") as (host, neighbour):
        ip(host, f"link add eth0 type veth peer name eth0 netns {neighbour}\nlink set eth0 up\n")
        ip(neighbour, "link set eth0 up\n")
        yield host, neighbour


def bring(namespace: str, wanted: dict[Key, Value]) -> None:
    """`wanted` beside whatever else the interfaces have."""
    with inside(namespace):
        engine = Vips(("lo", "eth0"))
        had = engine.read()
        others = {key: value for key, value in had.items() if isinstance(key, VipKey) and key.address not in (V4, V6)}
        desired = {**others, **wanted}
        engine.apply(diff(desired, had))
        assert {key: value for key, value in engine.read().items() if key in desired} == desired
        assert not [o for o in diff(desired, engine.read()) if isinstance(o.key, VipKey) and o.key.address in (V4, V6)]


def addresses(namespace: str) -> str:
    return run("ip", "-n", namespace, "-o", "addr")


def test_addresses_come_change_their_prefix_and_go(pair: tuple[str, str]) -> None:
    host, _ = pair
    wanted: dict[Key, Value] = {
        VipKey(interface, address): Vip(address.max_prefixlen) for interface in ("lo", "eth0") for address in (V4, V6)
    }
    bring(host, wanted)
    assert addresses(host).count(f" {V4}/32 ") == 2
    assert addresses(host).count(f" {V6}/128 ") == 2
    changed: dict[Key, Value] = {VipKey("eth0", V4): Vip(24), VipKey("eth0", V6): Vip(64)}
    bring(host, {**wanted, **changed})
    assert addresses(host).count(f" {V4}/24 ") == addresses(host).count(f" {V6}/64 ") == 1
    bring(host, {})
    assert str(V4) not in addresses(host)
    assert str(V6) not in addresses(host)


def test_an_address_of_ipv6_serves_at_once(pair: tuple[str, str]) -> None:
    host, _ = pair
    bring(host, {VipKey("eth0", V6): Vip(128)})
    assert "tentative" not in next(line for line in addresses(host).splitlines() if str(V6) in line)
    with inside(host), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as server:
        server.bind((str(V6), 80))


def test_everybodys_addresses_are_read_and_only_of_the_interfaces_of_interest(pair: tuple[str, str]) -> None:
    host, _ = pair
    ip(host, "addr add 192.0.2.1/24 dev eth0\n")
    with inside(host):
        assert Vips(("lo",)).read()[VipKey("lo", ip_address("127.0.0.1"))] == Vip(8)
        assert Vips(("eth0",)).read()[VipKey("eth0", ip_address("192.0.2.1"))] == Vip(24)
        assert not [key for key in Vips(("eth0",)).read() if isinstance(key, VipKey) and key.interface == "lo"]
        assert Vips(()).read() == Vips(("none",)).read() == {}


@contextmanager
def listening(namespace: str) -> Iterator[socket.socket]:
    with inside(namespace):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with ear:
        ear.bind(("eth0", ETH_P_ALL))
        ear.settimeout(PATIENCE)
        yield ear


def test_the_neighbours_are_told_of_an_address_of_ipv4_both_ways(pair: tuple[str, str]) -> None:
    host, neighbour = pair
    with listening(neighbour) as ear:
        bring(host, {VipKey("eth0", V4): Vip(32)})
        heard = set()
        while heard != {1, 2}:
            frame = Ether(ear.recv(2000))
            if ARP in frame and frame[ARP].psrc == str(V4):
                assert frame[ARP].pdst == str(V4)
                assert frame[ARP].hwsrc == frame.src
                heard.add(frame[ARP].op)


def test_the_neighbours_are_told_of_an_address_of_ipv6(pair: tuple[str, str]) -> None:
    host, neighbour = pair
    with listening(neighbour) as ear:
        bring(host, {VipKey("eth0", V6): Vip(128)})
        while True:
            frame = Ether(ear.recv(2000))
            if ICMPv6ND_NA in frame and frame[ICMPv6ND_NA].tgt == str(V6):
                break
        assert frame[ICMPv6ND_NA].O == 1
        assert frame[ICMPv6ND_NA].S == 0
        assert frame[IPv6].hlim == 255


def test_a_neighbour_that_knew_another_owner_learns_the_new_one(pair: tuple[str, str]) -> None:
    host, neighbour = pair
    ip(
        neighbour,
        "addr add 203.0.113.1/24 dev eth0\naddr add 2001:db8::1/64 dev eth0 nodad\n"
        f"neigh add {V4} lladdr 02:00:00:00:00:99 dev eth0 nud stale\n"
        f"neigh add {V6} lladdr 02:00:00:00:00:99 dev eth0 nud stale\n",
    )
    bring(host, {VipKey("eth0", V4): Vip(32), VipKey("eth0", V6): Vip(128)})
    mac = run("ip", "netns", "exec", host, "cat", "/sys/class/net/eth0/address").strip()
    for address in (V4, V6):
        assert until(lambda address=address: f"{address} dev eth0 lladdr {mac}" in run("ip", "-n", neighbour, "neigh"))


def test_the_checksum_of_an_advertisement_is_right() -> None:
    (frame,) = frames(bytes.fromhex("020000000001"), V6)
    checksum = Ether(frame)[ICMPv6ND_NA].cksum
    packet = Ether(frame)
    del packet[ICMPv6ND_NA].cksum
    assert Ether(bytes(packet))[ICMPv6ND_NA].cksum == checksum


def test_refusals_name_the_address_and_the_interface(pair: tuple[str, str]) -> None:
    host, _ = pair
    with inside(host):
        engine = Vips(("eth0",))
        add = Operation(Verb.ADD, VipKey("eth0", V4), None, Vip(32))
        engine.apply([add])
        with pytest.raises(KernelError, match=r"203\.0\.113\.10 on eth0: the interface has it already"):
            engine.apply([add])
        with pytest.raises(KernelError, match="does not have it"):
            engine.apply([Operation(Verb.REMOVE, VipKey("eth0", V6), Vip(128), None)])
        with pytest.raises(Unsupported, match="no interface eth7"):
            engine.apply([Operation(Verb.ADD, VipKey("eth7", V4), None, Vip(32))])


def test_it_works_beside_and_inside_an_event_loop(pair: tuple[str, str]) -> None:
    host, _ = pair

    def read() -> Table:
        with inside(host):
            return Vips(("lo",)).read()

    async def both() -> tuple[Table, Table]:
        return read(), await asyncio.to_thread(read)

    assert asyncio.run(both()) == (read(), read())
    assert read()
