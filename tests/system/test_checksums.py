"""Full NAT of packets whose checksum the kernel has only begun, over interfaces that complete it when they send.

client -- bridge, director, bridge -- server1. A veth whose other end is in another namespace completes nothing, and its
receiver verifies nothing: a wrong sum would never be seen. The wires behind these bridges leave sums to the stack.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kernlb.demo.namespaces import CLIENT, DIRECTOR_BACK, DIRECTOR_FRONT, SERVERS, Lab, lab
from kernlb.model import (
    Endpoint,
    EngineName,
    Forwarding,
    Key,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    Value,
    VirtualService,
)
from tests.system.engine import Director, director, inside

__all__ = ["director"]
pytestmark = [pytest.mark.bpf, pytest.mark.netns]
VIP, PORT, SERVER = "198.51.100.80", 7000, "server1"
LENGTH = 300_000
PATIENCE = 10.0


@pytest.fixture(scope="module")
def network(balancer: Path) -> Iterator[Lab]:
    with lab() as built:
        built.ip("client", [f"route add {VIP} via {DIRECTOR_FRONT} dev eth0"])
        for wire, address, far in (("front", DIRECTOR_FRONT, CLIENT), (SERVER, DIRECTOR_BACK, SERVERS[SERVER])):
            bridge = f"br-{wire}"
            built.ip(
                "director",
                [
                    f"link add {bridge} type bridge",
                    f"addr del {address}/32 dev {wire}",
                    f"link set {wire} master {bridge}",
                    f"addr add {address}/32 dev {bridge}",
                    f"link set {bridge} up",
                    f"route replace {far} dev {bridge} src {address}",
                ],
            )
            inside(built, "director", "ethtool", "-K", wire, "tx", "off")
        inside(built, "director", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for target in (echo_stream, echo_datagrams):
            built.start(SERVER, target)
        yield built


def table(protocol: Protocol) -> dict[Key, Value]:
    service = Endpoint(EngineName.XDP, protocol, ip_address(VIP), PORT)
    server = ServerKey(service, ip_address(SERVERS[SERVER]), PORT)
    return {service: VirtualService(Scheduler.MAGLEV), server: RealServer(Forwarding.FULLNAT, 1)}


# --- what runs in the namespaces


def echo_stream() -> None:
    def session(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    listener = socket.create_server(("", PORT))
    while True:
        threading.Thread(target=session, args=(listener.accept()[0],), daemon=True).start()


def echo_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", PORT))
        while True:
            sock.sendto(*sock.recvfrom(1 << 16))


def ask_stream(result: Connection) -> None:
    """How much comes back as it was sent: in segments that are cut late."""
    with closing(socket.create_connection((VIP, PORT), PATIENCE)) as connection:
        threading.Thread(target=connection.sendall, args=(b"x" * LENGTH,), daemon=True).start()
        length = 0
        while length < LENGTH:
            length += len(connection.recv(1 << 16))
        result.send(length)


def ask_datagram(result: Connection) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((VIP, PORT))
        sock.send(b"y" * 1000)
        result.send(len(sock.recv(2000)))


def wrong_sums(network: Lab) -> int:
    """At both ends."""
    total = 0
    for part in ("client", SERVER):
        rows = [line.split() for line in inside(network, part, "cat", "/proc/net/snmp").splitlines()]
        for names, values in zip(rows[::2], rows[1::2], strict=True):
            total += int(values[names.index("InCsumErrors")]) if "InCsumErrors" in names else 0
    return total


# --- laws


@pytest.mark.parametrize(
    ("protocol", "ask", "expected"), [(Protocol.TCP, ask_stream, LENGTH), (Protocol.UDP, ask_datagram, 1000)]
)
def test_a_sum_that_was_only_begun_is_right_when_somebody_completes_it(
    network: Lab, director: Director, protocol: Protocol, ask: object, expected: int
) -> None:
    director.hold(table(protocol))
    assert callable(ask)
    assert network.ask("client", ask).value(timeout=3 * PATIENCE) == expected
    assert wrong_sums(network) == 0
