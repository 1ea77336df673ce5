"""Large packets through tunnels: what a client's TSO and UDP GSO make enters whole, and is cut behind the gateway."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kernlb.engines.abi import Cause
from kernlb.engines.dataplane import Dataplane
from kernlb.places import Places
from tests.system.network import PATIENCE, inside, run
from tests.system.segment import SERVERS, VIP, Segment, segment
from tests.system.tunnels import GUE_PORT, SO_RCVBUFFORCE, WAITING

pytestmark = [pytest.mark.bpf, pytest.mark.netns]
PORT = 7002
UPLOAD = 2_000_000
OPENING = 16
"""Packets that a client has on their way before it learns that they are too big."""
FULL = 1500


class Gateway:
    """gw1 of a segment with the one server s1, reached through a tunnel."""

    def __init__(self, network: Segment, server: str, directory: Path, protocol: str, tunnel: str) -> None:
        self.network = network
        self.server = server
        self._directory = directory
        file = directory / "kernlb.toml"
        file.write_text(
            f'[service.web]\nengine = "xdp"\nprotocol = "{protocol}"\nbind = ["{VIP}:{PORT}"]\nscheduler = "maglev"\n'
            f'forwarding = "tunnel"\ntunnel = "{tunnel}"\n[service.web.servers]\ns1 = "{SERVERS["s1"]}:{PORT}"\n'
        )
        network.call("gw1", directory, "apply", str(file))

    def carried(self) -> tuple[int, int]:
        """Packets, as large as they came, and bytes."""
        (service,) = json.loads(self.network.call("gw1", self._directory, "show", "--json"))["services"]
        (server,) = service["servers"]
        return server["packets_in"], server["bytes_in"]

    def causes(self) -> dict[Cause, int]:
        with Dataplane.pinned(Places(namespace=self.network.gateways["gw1"]).pins) as plane:
            return {cause: number for cause, number in plane.causes().items() if number}

    def clear(self) -> None:
        self.network.call("gw1", self._directory, "clear")


@pytest.fixture
def network(balancer: Path) -> Iterator[Segment]:
    with segment(servers={"s1": SERVERS["s1"]}) as built:
        yield built


@contextmanager
def gateway(network: Segment, directory: Path, protocol: str = "tcp", tunnel: str = "ipip") -> Iterator[Gateway]:
    made = Gateway(network, network.servers["s1"], directory, protocol, tunnel)
    try:
        yield made
    finally:
        made.clear()


@contextmanager
def outers(server: str, protocol: int) -> Iterator[Callable[[], Counter[int]]]:
    """How often which length of what a server gets of tunnels."""
    with inside(server):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)

    def read() -> Counter[int]:
        found: Counter[int] = Counter()
        with suppress(BlockingIOError):
            while True:
                found[len(raw.recv(1 << 16, socket.MSG_DONTWAIT))] += 1
        return found

    with raw:
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, WAITING)
        yield read


@contextmanager
def sink(server: str) -> Iterator[None]:
    """Reads each connection to its end, then says how many bytes there were."""
    with inside(server):
        listener = socket.create_server((VIP, PORT))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    length = 0
                    while data := connection.recv(1 << 16):
                        length += len(data)
                    connection.sendall(f"{length}".encode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
        listener.close()


def upload(client: str, size: int) -> int:
    """How many of the bytes the server says that it got."""
    with inside(client):
        connection = socket.socket()
    with connection:
        connection.settimeout(3 * PATIENCE)
        connection.connect((VIP, PORT))
        connection.sendall(bytes(size))
        connection.shutdown(socket.SHUT_WR)
        return int(connection.recv(100))


TUNNELS = {"ipip": socket.IPPROTO_IPIP, f"gue:{GUE_PORT}": socket.IPPROTO_UDP}


@pytest.mark.parametrize("tunnel", TUNNELS)
@pytest.mark.parametrize("timestamps", [0, 1], ids=["without timestamps", "with timestamps"])
def test_an_upload_enters_a_tunnel_in_large_packets(
    network: Segment, tmp_path: Path, timestamps: int, tunnel: str
) -> None:
    # A gateway whose NIC makes no checksums: its answers to what came without one leave with it.
    run("ip", "netns", "exec", network.gateways["gw1"], "ethtool", "-K", "eth0", "tx", "off")
    with (
        gateway(network, tmp_path, tunnel=tunnel) as way,
        sink(way.server),
        outers(way.server, TUNNELS[tunnel]) as seen,
    ):
        run("ip", "netns", "exec", network.client, "sysctl", "-qw", f"net.ipv4.tcp_timestamps={timestamps}")
        assert upload(network.client, UPLOAD) == UPLOAD
        causes = way.causes()
        assert causes.pop(Cause.TOO_BIG) <= OPENING
        assert not causes
        # Cut as the client wanted them.
        assert seen().most_common(1)[0][0] == FULL
        packets, carried = way.carried()
        assert carried > UPLOAD
        assert packets * 2 * FULL < carried


UDP_SEGMENT = 103  # linux/udp.h


@contextmanager
def datagrams(server: str, client: str, segment: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket at each end; what the client sends is cut into datagrams of this size."""
    with inside(server):
        there = socket.socket(type=socket.SOCK_DGRAM)
    with inside(client):
        here = socket.socket(type=socket.SOCK_DGRAM)
    with there, here:
        there.bind((VIP, PORT))
        here.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        here.connect((VIP, PORT))
        for each in (here, there):
            each.settimeout(PATIENCE)
        yield here, there


@pytest.mark.parametrize("tunnel", TUNNELS)
def test_datagrams_that_come_together_enter_a_tunnel_together(network: Segment, tmp_path: Path, tunnel: str) -> None:
    said = bytes(range(200)) * 50
    with gateway(network, tmp_path, "udp", tunnel) as way, datagrams(way.server, network.client, 1000) as (here, there):
        here.send(said)
        assert b"".join(there.recv(FULL) for _ in range(10)) == said
        assert not way.causes()
        assert way.carried()[0] == 1


@pytest.mark.parametrize("tunnel", TUNNELS)
def test_datagrams_together_of_which_each_is_too_big_are_answered(
    network: Segment, tmp_path: Path, tunnel: str
) -> None:
    with gateway(network, tmp_path, "udp", tunnel) as way, datagrams(way.server, network.client, 1470) as (here, _):
        here.send(bytes(2 * 1470))
        with pytest.raises(OSError, match="too long"):
            here.recv(FULL)
        assert way.causes() == {Cause.TOO_BIG: 1}
