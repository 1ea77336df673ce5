"""A director among routers: two ways to the client, a real server that is its neighbour and one behind a router.

client 10.8.0.2 --+-- r1 10.8.1.2 -- 10.8.1.1 --+           +-- 10.8.3.1 -- 10.8.3.2 near
                  |                             | director  |
                  +-- r2 10.8.2.2 -- 10.8.2.1 --+           +-- 10.8.4.1 -- 10.8.4.2 router 10.8.5.1 -- 10.8.5.2 far

IPv6 has fd08:N:: where IPv4 has 10.8.N. The client sends through r1.
"""

import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from kernlb.engines.carried import Wish
from kernlb.engines.xdp import Xdp
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
from kernlb.plan import diff
from tests.system.engine import SMALL
from tests.system.network import PATIENCE, inside, ip, namespaces, run

VIP = {4: "198.51.100.80", 6: "2001:db8::80"}
PORT = 7004
REAL = {"near": {4: "10.8.3.2", 6: "fd08:3::2"}, "far": {4: "10.8.5.2", 6: "fd08:5::2"}}
CLIENT = {4: "10.8.0.2", 6: "fd08::2"}
FIRST = {4: "10.8.1.2", 6: "fd08:1::2"}
ROUTERS = ("r1", "r2", "router")
FULL = 1460
"""What both ends say to take, however small their own link is (the IPv6 header is 20 bytes longer)."""
_CHUNK = bytes(1 << 14)


@dataclass(frozen=True, slots=True)
class Routed:
    parts: Mapping[str, str]
    engine: Xdp

    def ip(self, part: str, *lines: str) -> None:
        ip(self.parts[part], "".join(f"{line}\n" for line in lines))

    def squeeze(self, wire: Sequence[tuple[str, str]], mtu: int) -> None:
        """Every interface of a wire: (part, interface)."""
        for part, interface in wire:
            self.ip(part, f"link set {interface} mtu {mtu}")

    def hold(self, server: str, forwarding: Forwarding) -> None:
        """One server serves both families; the engine's tables follow the network."""
        held: dict[Key, Value] = {}
        for family, vip in VIP.items():
            service = Endpoint(EngineName.XDP, Protocol.TCP, ip_address(vip), PORT)
            held[service] = VirtualService(Scheduler.MAGLEV)
            held[ServerKey(service, ip_address(REAL[server][family]), PORT)] = RealServer(forwarding, 1)
        self.engine.apply(diff(held, self.engine.read()))

    def move(self, family: int) -> None:
        """The route to the client leads through r2 from now on, and r1 drops what it gets for it."""
        client, first = CLIENT[family], FIRST[family]
        self.ip("r1", f"route del {client}", f"route add blackhole {client}")
        self.ip("director", f"route del {client} via {first}")

    def forget(self) -> None:
        """Nothing is carried, and nobody knows how much fits anywhere."""
        self.engine.apply(diff({}, self.engine.read()))
        for namespace in self.parts.values():
            for family in CLIENT:
                run("ip", "-n", namespace, f"-{family}", "route", "flush", "cache")

    def causes(self) -> dict[str, int]:
        return {cause.name: number for cause, number in self.engine.causes().items() if number}

    def connect(self, family: int) -> socket.socket:
        with inside(self.parts["client"]):
            connection = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
        connection.settimeout(PATIENCE)
        connection.connect((VIP[family], PORT))
        return connection


def upload(connection: socket.socket, length: int) -> int:
    """How many of so many bytes the server says that it got."""
    connection.sendall(b"u")
    send(connection, length)
    return sent(connection)


def send(connection: socket.socket, length: int) -> None:
    for _ in range(length // len(_CHUNK)):
        connection.sendall(_CHUNK)


def sent(connection: socket.socket) -> int:
    """How much the server says that it got."""
    connection.shutdown(socket.SHUT_WR)
    return int(connection.recv(100))


def download(connection: socket.socket, length: int) -> int:
    connection.sendall(b"d")
    return read(connection, length)


def read(connection: socket.socket, length: int) -> int:
    """Until there were so many."""
    got = 0
    while got < length and (data := connection.recv(1 << 16)):
        got += len(data)
    return got


@contextmanager
def routed(*, bridged: bool = False) -> Iterator[Routed]:
    """`bridged`: the director's interfaces are bridges, r1 and r2 on the same one, so that what leaves has to fit: the
    other end of a veth takes whatever a program hands it."""
    names = ("client", "r1", "r2", "director", "router", "near", "far")
    with namespaces(*names) as made, ExitStack() as undo:
        parts = dict(zip(names, made, strict=True))
        _wire(parts, bridged)
        for part in (*ROUTERS, "director"):
            settings = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
            run("ip", "netns", "exec", parts[part], "sysctl", "-qw", *settings)
        for name in REAL:
            undo.enter_context(_serving(parts[name]))
        with inside(parts["director"]):
            engine = Xdp(Path(f"/sys/fs/bpf/kernlb/test-{os.getpid()}"), wish=Wish(), sizes=SMALL, slots=1009)
            try:
                yield Routed(parts, engine)
            finally:
                engine.apply(diff({}, engine.read()))


def _wire(parts: Mapping[str, str], bridged: bool) -> None:
    def wire(one: str, interface: str, other: str, there: str) -> None:
        ip(parts[one], f"link add {interface} type veth peer name {there} netns {parts[other]}\n")

    fronts = {"r1": "front", "r2": "front"} if bridged else {"r1": "front1", "r2": "front2"}
    ends = {**fronts, "near": "near", "router": "router"}
    for part, interface in ends.items():
        there = "eth0" if part == "near" else "director"
        if not bridged:
            wire("director", interface, part, there)
            continue
        if part != "r2":
            ip(parts["director"], f"link add {interface} type bridge\n")
        wire("director", f"to-{part}", part, there)
        ip(parts["director"], f"link set to-{part} up master {interface}\n")
    for router in fronts:
        wire("client", router, router, "client")
    wire("router", "far", "far", "eth0")
    addresses = {
        ("client", "lo"): ("10.8.0.2/32", "fd08::2/128"),
        ("client", "r1"): ("10.8.6.2/24", "fd08:6::2/64"),
        ("client", "r2"): ("10.8.7.2/24", "fd08:7::2/64"),
        ("r1", "client"): ("10.8.6.1/24", "fd08:6::1/64"),
        ("r2", "client"): ("10.8.7.1/24", "fd08:7::1/64"),
        ("r1", "director"): ("10.8.1.2/24", "fd08:1::2/64"),
        ("r2", "director"): ("10.8.1.3/24", "fd08:1::3/64") if bridged else ("10.8.2.2/24", "fd08:2::2/64"),
        ("director", fronts["r1"]): ("10.8.1.1/24", "fd08:1::1/64"),
        ("director", "near"): ("10.8.3.1/24", "fd08:3::1/64"),
        ("near", "eth0"): ("10.8.3.2/24", "fd08:3::2/64"),
        ("near", "lo"): (f"{VIP[4]}/32", f"{VIP[6]}/128"),
        ("director", "router"): ("10.8.4.1/24", "fd08:4::1/64"),
        ("router", "director"): ("10.8.4.2/24", "fd08:4::2/64"),
        ("router", "far"): ("10.8.5.1/24", "fd08:5::1/64"),
        ("far", "eth0"): ("10.8.5.2/24", "fd08:5::2/64"),
    }
    if not bridged:
        addresses["director", "front2"] = ("10.8.2.1/24", "fd08:2::1/64")
    for (part, interface), held in addresses.items():
        for address in held:
            ip(parts[part], f"addr add {address} dev {interface}{' nodad' if ':' in address else ''}\n")
        ip(parts[part], f"link set {interface} up\n")
    second = ("10.8.1.3", "fd08:1::3") if bridged else ("10.8.2.2", "fd08:2::2")
    routes: dict[str, tuple[str, ...]] = {
        "client": (
            f"default via 10.8.6.1 src 10.8.0.2 advmss {FULL}",
            f"default via fd08:6::1 src fd08::2 advmss {FULL}",
        ),
        "r1": ("10.8.0.2 via 10.8.6.2", "fd08::2 via fd08:6::2", "default via 10.8.1.1", "default via fd08:1::1"),
        "r2": ("10.8.0.2 via 10.8.7.2", "fd08::2 via fd08:7::2", "default via 10.8.1.1", "default via fd08:1::1")
        if bridged
        else ("10.8.0.2 via 10.8.7.2", "fd08::2 via fd08:7::2", "default via 10.8.2.1", "default via fd08:2::1"),
        "director": (
            "10.8.0.2 via 10.8.1.2",
            "fd08::2 via fd08:1::2",
            f"10.8.0.2 via {second[0]} metric 2000",
            f"fd08::2 via {second[1]} metric 2000",
            "10.8.5.0/24 via 10.8.4.2",
            "fd08:5::/64 via fd08:4::2",
        ),
        "router": ("default via 10.8.4.1", "default via fd08:4::1"),
        "near": tuple(
            f"{route} advmss {FULL}"
            for route in ("10.8.3.1 dev eth0", "fd08:3::1 dev eth0", "default via 10.8.3.1", "default via fd08:3::1")
        ),
        "far": (f"default via 10.8.5.1 advmss {FULL}", f"default via fd08:5::1 advmss {FULL}"),
    }
    for part, added in routes.items():
        ip(parts[part], "".join(f"route add {route}\n" for route in added))


@contextmanager
def _serving(namespace: str) -> Iterator[None]:
    """A first byte `u`: reads to the end, then says how much there was. `d`: sends without end."""
    with inside(namespace):
        listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    held: list[socket.socket] = []

    def session(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if connection.recv(1) == b"d":
                while True:
                    connection.sendall(_CHUNK)
            length = 0
            while data := connection.recv(1 << 16):
                length += len(data)
            connection.sendall(f"{length}".encode())

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                held.append(connection)
                threading.Thread(target=session, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
        for connection in (listener, *held):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
