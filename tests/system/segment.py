"""A client, gateways and real servers on one segment, where answers go straight back.

client 10.9.1.2 -- 10.9.1.1 router 10.9.2.254 --+-- 10.9.2.1, .2 gateways
                                                +-- 10.9.2.11 … real servers, the VIP 198.51.100.80 on their lo
client fd09:1::2 - fd09:1::1 router fd09:2::254 +-- fd09:2::1, ::2; fd09:2::11 …, the VIP 2001:db8::80
"""

import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from tests.system.network import PATIENCE, inside, ip, namespaces, run
from tests.system.tunnels import tunnels

VIP, VIP6 = "198.51.100.80", "2001:db8::80"
CLIENT, CLIENT6 = "10.9.1.2", "fd09:1::2"
PORTS = PORT, OTHER_PORT = 7000, 7001
SERVERS = {f"s{number}": f"10.9.2.{10 + number}" for number in range(1, 7)}
_GATEWAYS = {"gw1": "10.9.2.1", "gw2": "10.9.2.2"}
_PATTERN = bytes(range(251))
_CHUNK = 251 * 64


@dataclass(frozen=True, slots=True)
class Segment:
    client: str
    router: str
    gateways: Mapping[str, str]
    servers: Mapping[str, str]

    def lead(self, *gateways: str) -> None:
        """The router's way to the VIP: over one gateway, or over several by a hash of its own."""
        addresses = [_GATEWAYS[name] for name in gateways]
        for vip, hops in ((VIP, addresses), (VIP6, [sixth(address) for address in addresses])):
            ip(self.router, f"route replace {vip} {' '.join(f'nexthop via {hop}' for hop in hops)}\n")

    def kernlb(self, gateway: str, directory: Path, *words: str) -> list[str]:
        state = ["--state-dir", str(directory), "--run-dir", str(directory)]
        return [sys.executable, "-m", "kernlb", "--netns", self.gateways[gateway], *state, *words]

    def call(self, gateway: str, directory: Path, *words: str) -> str:
        command = self.kernlb(gateway, directory, *words)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def connect(self, port: int = PORT) -> socket.socket:
        with inside(self.client):
            sock = socket.socket()
        sock.settimeout(PATIENCE)
        sock.connect((VIP, port))
        return sock


def who(connection: socket.socket) -> str:
    """The server at the other end; what went wrong where there is none any more."""
    try:
        connection.sendall(b"who\n")
        return connection.recv(100).decode().strip() or "closed"
    except OSError as error:
        return f"failed: {error}"


class Download:
    """A connection that a server fills with a pattern, as slowly as it is read, until `end`."""

    def __init__(self, segment: Segment, port: int = PORT) -> None:
        self.connection = segment.connect(port)
        self.length = 0
        self.wrong: str | None = None
        self.connection.sendall(b"fill\n")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while data := self.connection.recv(_CHUNK):
                at = self.length % len(_PATTERN)
                if data != bytes(islice(cycle(_PATTERN), at, at + len(data))):
                    self.wrong = f"other bytes after {self.length}"
                self.length += len(data)
                time.sleep(0.01)
        except OSError as error:
            self.wrong = f"{error} after {self.length}"

    def end(self) -> None:
        self.connection.shutdown(socket.SHUT_WR)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.connection.close()


@contextmanager
def segment(
    *, gateways: Sequence[str] = ("gw1",), servers: Mapping[str, str] = SERVERS, unpacking: bool = True
) -> Iterator[Segment]:
    """`unpacking`: servers have the ends of tunnels without their kernel."""
    with namespaces("client", "router", *gateways, *servers) as (client, router, *others), ExitStack() as undo:
        hosts = dict(zip([*gateways, *servers], others, strict=True))
        for namespace in (client, router, *others):
            with inside(namespace):
                # Nobody asks for a neighbour from a link-local address that is still tentative.
                for interfaces in ("all", "default"):
                    Path(f"/proc/sys/net/ipv6/conf/{interfaces}/accept_dad").write_text("0")
        ip(router, f"link add br0 type bridge\nlink add near type veth peer name eth0 netns {client}\n")
        ip(router, "addr add 10.9.1.1/24 dev near\naddr add fd09:1::1/64 dev near nodad\nlink set near up\n")
        ip(router, "addr add 10.9.2.254/24 dev br0\naddr add fd09:2::254/64 dev br0 nodad\nlink set br0 up\n")
        ip(client, f"addr add {CLIENT}/24 dev eth0\naddr add {CLIENT6}/64 dev eth0 nodad\nlink set eth0 up\n")
        ip(client, "route add default via 10.9.1.1\nroute add default via fd09:1::1\n")
        for name, namespace in hosts.items():
            ip(router, f"link add {name} type veth peer name eth0 netns {namespace}\nlink set {name} up master br0\n")
            address = {**_GATEWAYS, **servers}[name]
            ip(namespace, f"addr add {address}/24 dev eth0\naddr add {sixth(address)}/64 dev eth0 nodad\n")
            ip(namespace, "link set eth0 up\nroute add default via 10.9.2.254\nroute add default via fd09:2::254\n")
        for name in servers:
            ip(hosts[name], f"addr add {VIP}/32 dev lo\naddr add {VIP6}/128 dev lo nodad\n")
        settings = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.fib_multipath_hash_policy=1"]
        run("ip", "netns", "exec", router, "sysctl", "-qw", *settings)
        named = ({name: hosts[name] for name in names} for names in (gateways, servers))
        found = Segment(client, router, *named)
        if unpacking:
            # What is unpacked outside of the kernel has to have its checksums: the last wire makes them.
            for name in servers:
                run("ip", "netns", "exec", router, "ethtool", "-K", name, "tx", "off")
            undo.enter_context(tunnels(*found.servers.values()))
        undo.enter_context(_serving(found.servers))
        found.lead(gateways[0])
        yield found


def sixth(address: str) -> str:
    """The IPv6 address of a host on the segment."""
    return address.replace("10.9.2.", "fd09:2::")


@contextmanager
def _serving(hosts: Mapping[str, str]) -> Iterator[None]:
    """Every server: `who` is answered with its name, `fill` with bytes without end."""
    waiting = selectors.DefaultSelector()
    sockets: list[socket.socket] = []
    for name, namespace in hosts.items():
        with inside(namespace):
            listeners = [socket.create_server((VIP, port), backlog=1024) for port in PORTS]
        for listener in listeners:
            waiting.register(listener, selectors.EVENT_READ, _accepting(waiting, sockets, listener, name))
        sockets += listeners
    ending = threading.Event()

    def serve() -> None:
        while not ending.is_set():
            for ready, _ in waiting.select(0.1):
                with suppress(OSError):
                    ready.data()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(PATIENCE)
        waiting.close()
        for each in sockets:
            each.close()


def _accepting(
    waiting: selectors.BaseSelector, sockets: list[socket.socket], listener: socket.socket, name: str
) -> Callable[[], None]:
    def accept() -> None:
        connection, _ = listener.accept()
        connection.setblocking(False)
        sockets.append(connection)
        waiting.register(connection, selectors.EVENT_READ, _answering(waiting, connection, name))

    return accept


def _answering(waiting: selectors.BaseSelector, connection: socket.socket, name: str) -> Callable[[], None]:
    sent = 0
    filling = False

    def answer() -> None:
        nonlocal sent, filling
        try:
            said = connection.recv(100)
        except BlockingIOError:
            said = None
        except OSError:
            said = b""
        if said == b"":
            waiting.unregister(connection)
            connection.close()
            return
        if said and said.startswith(b"who"):
            connection.sendall(f"{name}\n".encode())
        elif said:
            filling = True
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHUNK)
            waiting.modify(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, answer)
        if filling:
            at = sent % len(_PATTERN)
            with suppress(BlockingIOError):
                sent += connection.send((_PATTERN * 65)[at : at + _CHUNK])

    return answer
