"""Real traffic through the eBPF engine: every forwarding, both families, TCP and UDP, changes under load, path MTU.

client 192.0.2.10, fd01::10 -- director -- server1 10.0.0.1, fd00::1; server2 10.0.0.2, fd00::2
"""

import multiprocessing
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, PadN
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from kernlb.config.values import Loader
from kernlb.demo.namespaces import SERVERS, Lab, lab
from kernlb.engines.carried import Wish
from kernlb.engines.libbpf import Program
from kernlb.model import (
    Endpoint,
    EngineName,
    Forwarding,
    Key,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    Tunnel,
    Value,
    VirtualService,
)
from tests.features import Feature, need
from tests.system.engine import Director, director, inside
from tests.system.tunnels import open_tunnels

__all__ = ["director"]
pytestmark = [pytest.mark.bpf, pytest.mark.netns]
VIP = {4: "198.51.100.80", 6: "2001:db8::80"}
REAL = {4: SERVERS, 6: {name: f"fd00::{number}" for number, name in enumerate(SERVERS, 1)}}
PORT = 7000
PATIENCE = 20.0
SOL_PACKET, PACKET_VNET_HDR = 263, 15  # linux/socket.h, linux/if_packet.h
PAGE = 4096
"""What a raw socket sends of less than this is linear."""
FORWARDINGS = [Forwarding.FULLNAT, Forwarding.DIRECT, Forwarding.TUNNEL]


@pytest.fixture(scope="module")
def network(balancer: Path) -> Iterator[Lab]:
    with lab() as built:
        built.ip("client", ["addr add fd01::10/64 dev eth0 nodad"])
        built.ip("director", ["addr add fd01::1/64 dev front nodad"])
        for family, front in ((4, "192.0.2.1"), (6, "fd01::1")):
            built.ip("client", [f"route add {VIP[family]} via {front} dev eth0"])
        # Tunnels are opened outside of the servers' kernel: what comes through has to have its checksums.
        inside(built, "client", "ethtool", "-K", "eth0", "tx", "off")
        for number, name in enumerate(SERVERS, 1):
            built.ip(name, [f"addr add fd00::{number}/128 dev eth0 nodad", "route add fd00::ff dev eth0"])
            built.ip(name, [f"addr add {vip} dev lo{' nodad' if ':' in vip else ''}" for vip in VIP.values()])
            built.ip(name, ["route add 192.0.2.10 via 10.0.0.254 dev eth0", "route add fd01::10 via fd00::ff dev eth0"])
            built.ip("director", [f"addr add fd00::ff/128 dev {name} nodad", f"route add fd00::{number} dev {name}"])
            for target in (serve_tcp, serve_udp):
                built.start(name, target, name)
            built.start(name, open_tunnels)
        settings = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        inside(built, "director", "sysctl", "-qw", *settings)
        yield built


def table(
    family: int, forwarding: Forwarding, weights: dict[str, int], *, protocol: Protocol = Protocol.TCP
) -> dict[Key, Value]:
    service = Endpoint(EngineName.XDP, protocol, ip_address(VIP[family]), PORT)
    held: dict[Key, Value] = {service: VirtualService(Scheduler.MAGLEV)}
    tunnel = Tunnel() if forwarding is Forwarding.TUNNEL else None
    for name, weight in weights.items():
        server = RealServer(forwarding, weight, tunnel=tunnel)
        held[ServerKey(service, ip_address(REAL[family][name]), PORT)] = server
    return held


# --- what runs in the namespaces


def serve_tcp(name: str) -> None:
    """Answers each line `N` and N bytes after it with its name."""

    def session(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while line := stream.readline():
                stream.read(int(line))
                stream.write(f"{name} {connection.getpeername()[0]}\n".encode())
                stream.flush()

    listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    while True:
        threading.Thread(target=session, args=(listener.accept()[0],), daemon=True).start()


def serve_udp(name: str) -> None:
    """From the address that was asked, as it has several: one socket for each."""
    places = [*VIP.values(), *(addresses[name] for addresses in REAL.values())]
    sockets = {}
    ready = select.epoll()
    for place in places:
        sock = socket.socket(socket.AF_INET6 if ":" in place else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((place, PORT))
        sockets[sock.fileno()] = sock
        ready.register(sock, select.EPOLLIN)
    while True:
        for number, _ in ready.poll():
            _, peer = sockets[number].recvfrom(2048)
            sockets[number].sendto(f"{name} {peer[0]}".encode(), peer)


def ask_tcp(result: Connection, family: int, count: int, size: int) -> None:
    """By server and address it saw; by error what failed."""
    seen: Counter[str] = Counter()
    for _ in range(count):
        try:
            with socket.create_connection((VIP[family], PORT), 5) as connection:
                seen[exchange(connection, size)] += 1
        except OSError as error:
            seen[f"failed: {error}"] += 1
    result.send(seen)


def exchange(connection: socket.socket, size: int) -> str:
    connection.sendall(f"{size}\n".encode() + bytes(size))
    answer = connection.recv(100)
    if not answer:
        raise ConnectionError("closed")
    return answer.decode().strip()


def ask_udp(result: Connection, family: int, count: int) -> None:
    seen: Counter[str] = Counter()
    for _ in range(count):
        with closing(socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
            sock.settimeout(5)
            try:
                sock.sendto(b"who", (VIP[family], PORT))
                seen[sock.recv(100).decode()] += 1
            except OSError as error:
                seen[f"failed: {error}"] += 1
    result.send(seen)


def ask_in_parts(result: Connection, gateway: str, options: int, family: int) -> None:
    """Sends a datagram of which only the first 54 bytes lie in the linear part of its buffer; what the server says."""
    with (
        closing(socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)) as sock,
        closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw,
    ):
        sock.settimeout(5)
        sock.connect((VIP[family], PORT))
        source, port = sock.getsockname()[:2]
        head: Packet = (
            IPv6(src=source, dst=VIP[6]) if family == 6 else IP(src=source, dst=VIP[4], options=b"\x01" * options)
        )
        if family == 6 and options:
            head /= IPv6ExtHdrDestOpt(options=PadN(optdata=bytes(options)))
        datagram = Ether(dst=gateway) / head / UDP(sport=port, dport=PORT) / bytes(2 * PAGE)
        raw.bind(("eth0", 0))
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.send(struct.pack("=BBHHHH", 0, 0, 54, 0, 0, 0) + bytes(datagram))
        result.send(sock.recv(100).decode())


def hold_connections(result: Connection, orders: Connection, family: int, count: int) -> None:
    """Opens connections, and asks each again whenever it is told to; who answered, connection by connection."""
    connections = [socket.create_connection((VIP[family], PORT), 5) for _ in range(count)]
    rounds = [[exchange(connection, 0) for connection in connections]]
    orders.send("open")
    while orders.recv() == "again":
        answers = []
        for connection in connections:
            try:
                answers.append(exchange(connection, 0))
            except OSError as error:
                answers.append(f"failed: {error}")
        rounds.append(answers)
        orders.send("asked")
    result.send(rounds)


# --- laws


def both(seen: Counter[str], count: int) -> None:
    assert seen.total() == count
    assert {text.split()[0] for text in seen} == {"server1", "server2"}, seen


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("forwarding", FORWARDINGS)
def test_tcp_reaches_both_servers_and_answers_come_back(
    network: Lab, director: Director, forwarding: Forwarding, family: int
) -> None:
    director.hold(table(family, forwarding, {"server1": 1, "server2": 1}))
    seen = network.ask("client", ask_tcp, family, 40, 10).value(timeout=60)
    both(seen, 40)
    peer = {4: "10.0.0.254", 6: "fd00::ff"} if forwarding is Forwarding.FULLNAT else {4: "192.0.2.10", 6: "fd01::10"}
    assert {text.split()[1].removeprefix("::ffff:") for text in seen} == {peer[family]}


@pytest.mark.parametrize(
    ("forwarding", "family"), [(Forwarding.FULLNAT, 6), (Forwarding.DIRECT, 4), (Forwarding.TUNNEL, 6)]
)
def test_what_bcc_compiles_carries_the_same_traffic(
    network: Lab, director: Director, forwarding: Forwarding, family: int
) -> None:
    need(Feature.BCC)
    director.hold(table(family, forwarding, {"server1": 1, "server2": 1}), loader=Loader.BCC)
    both(network.ask("client", ask_tcp, family, 40, 3000).value(timeout=60), 40)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("forwarding", FORWARDINGS)
def test_udp_reaches_both_servers_and_answers_come_back(
    network: Lab, director: Director, forwarding: Forwarding, family: int
) -> None:
    director.hold(table(family, forwarding, {"server1": 1, "server2": 1}, protocol=Protocol.UDP))
    both(network.ask("client", ask_udp, family, 40).value(timeout=60), 40)


@pytest.mark.parametrize(("family", "options"), [(4, 0), (4, 40), (6, 0), (6, 4)])
@pytest.mark.parametrize("forwarding", [Forwarding.FULLNAT, Forwarding.DIRECT])
def test_headers_may_lie_outside_the_linear_part_of_a_buffer(
    network: Lab, director: Director, forwarding: Forwarding, family: int, options: int
) -> None:
    gateway = inside(network, "director", "cat", "/sys/class/net/front/address").strip()
    wires = (("client", "eth0"), ("director", "front"), ("director", "server1"), ("server1", "eth0"))
    try:
        for part, name in wires:
            network.ip(part, [f"link set {name} mtu {4 * PAGE}"])
        director.hold(table(family, forwarding, {"server1": 1}, protocol=Protocol.UDP))
        answer = network.ask("client", ask_in_parts, gateway, options, family)
        assert answer.value(timeout=10).startswith("server1")
    finally:
        for part, name in wires:
            network.ip(part, [f"link set {name} mtu 1500"])


@pytest.mark.parametrize("family", [4, 6])
def test_a_client_learns_how_much_fits_into_a_tunnel(network: Lab, director: Director, family: int) -> None:
    """Full segments and an outer header are more than the link takes: the program answers packet too big."""
    director.hold(table(family, Forwarding.TUNNEL, {"server1": 1, "server2": 1}))
    both(network.ask("client", ask_tcp, family, 40, 30_000).value(timeout=90), 40)


@pytest.mark.parametrize("forwarding", FORWARDINGS)
def test_changes_under_load_break_no_connection(network: Lab, director: Director, forwarding: Forwarding) -> None:
    """Weights change, a server comes, one is quiesced: every connection stays on its server."""
    director.hold(table(4, forwarding, {"server1": 1, "server2": 1}))
    here, there = multiprocessing.Pipe()
    answer = network.ask("client", hold_connections, there, 4, 60)
    assert here.poll(PATIENCE)
    assert here.recv() == "open"
    for weights in (
        {"server1": 3, "server2": 1},
        {"server1": 1, "server2": 1, "server3": 2},
        {"server1": 0, "server2": 1, "server3": 1},
        {"server1": 0, "server2": 5, "server3": 1},
        {"server1": 1, "server2": 0, "server3": 0},
    ):
        director.hold(table(4, forwarding, weights))
        here.send("again")
        assert here.poll(PATIENCE)
        assert here.recv() == "asked"
        fresh = network.ask("client", ask_tcp, 4, 10, 0).value(timeout=60)
        allowed = {name for name, weight in weights.items() if weight}
        assert {text.split()[0] for text in fresh} <= allowed, (weights, fresh)
    here.send("end")
    first, *later = answer.value(timeout=30)
    assert len(set(first)) == 2
    assert all(answers == first for answers in later)


@pytest.mark.parametrize("loader", [Loader.OBJECT, Loader.BCC])
def test_another_program_takes_the_flows_over(network: Lab, director: Director, loader: Loader) -> None:
    """Other constants and another loader make another program: connections of full NAT go on through it."""
    if loader is Loader.BCC:
        need(Feature.BCC)
    held = table(4, Forwarding.FULLNAT, {"server1": 1, "server2": 1})
    director.hold(held)
    here, there = multiprocessing.Pipe()
    answer = network.ask("client", hold_connections, there, 4, 30)
    assert here.poll(PATIENCE)
    assert here.recv() == "open"
    pinned = director.pins / "balancer_tc"
    before = Program.pinned("balancer_tc", pinned).id
    director.hold(held, Wish(tcp=700.0), loader)
    assert Program.pinned("balancer_tc", pinned).id != before
    here.send("again")
    assert here.poll(PATIENCE)
    assert here.recv() == "asked"
    here.send("end")
    first, then = answer.value(timeout=30)
    assert then == first
