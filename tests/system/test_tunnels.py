"""Real HTTP and datagrams through every tunnel of the eBPF engine, at native XDP and at tc."""

import http.client
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from socketserver import ThreadingTCPServer

import pytest

from kernlb.config import load
from kernlb.engines.abi import Cause
from kernlb.engines.attach import Hook
from kernlb.engines.carried import Wish
from kernlb.engines.dataplane import Dataplane
from kernlb.engines.libbpf import check, library
from kernlb.engines.xdp import Xdp
from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Forwarding,
    Key,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    Tunnel,
    TunnelKind,
    Value,
    VirtualService,
)
from kernlb.plan import diff
from kernlb.render import Options, Template, render
from tests.engines.test_loaders import loaded
from tests.system.engine import SMALL
from tests.system.network import PATIENCE, Client, inside, run, server
from tests.system.segment import CLIENT, CLIENT6, SERVERS, VIP, VIP6, Segment, segment, sixth
from tests.system.tunnels import GUE_PORT

pytestmark = [pytest.mark.bpf, pytest.mark.netns]
V4, V6 = Family.IPV4, Family.IPV6
WEB, ECHO = 80, 53
NAMES = ("s1", "s2")
LARGE = 100_000
"""Bytes of a request: its full segments are more than fits into a tunnel."""
XDP_PROGRAM, DRIVER_MODE = 6, 1 << 2


@dataclass(frozen=True, slots=True)
class Way:
    """A tunnel, by the families of what is outside and inside."""

    tunnel: Tunnel
    outer: Family
    inner: Family

    @property
    def vip(self) -> str:
        return VIP if self.inner is V4 else VIP6

    @property
    def client(self) -> str:
        return CLIENT if self.inner is V4 else CLIENT6

    def address(self, name: str) -> str:
        return SERVERS[name] if self.outer is V4 else sixth(SERVERS[name])


IPIP, GUE = Tunnel(), Tunnel(TunnelKind.GUE, GUE_PORT)
WAYS = [Way(tunnel, outer, inner) for tunnel in (IPIP, GUE) for outer, inner in ((V4, V4), (V6, V6), (V6, V4))]
by_way = pytest.mark.parametrize(
    "way", WAYS, ids=[f"{each.tunnel.kind}: {each.inner} in {each.outer}" for each in WAYS]
)


def table(way: Way) -> dict[Key, Value]:
    held: dict[Key, Value] = {}
    for protocol, port in ((Protocol.TCP, WEB), (Protocol.UDP, ECHO)):
        service = Endpoint(EngineName.XDP, protocol, ip_address(way.vip), port)
        held[service] = VirtualService(Scheduler.MAGLEV)
        for name in NAMES:
            real = RealServer(Forwarding.TUNNEL, 1, tunnel=way.tunnel)
            held[ServerKey(service, ip_address(way.address(name)), port)] = real
    return held


@contextmanager
def network(hook: Hook, *, unpacking: bool = True) -> Iterator[Segment]:
    """Servers answer on the VIPs: HTTP with their name and how much they were told, datagrams with whom they see."""
    with segment(servers={name: SERVERS[name] for name in NAMES}, unpacking=unpacking) as built, ExitStack() as undo:
        if hook is Hook.XDP:
            # A frame of XDP has no note that its checksum is still to be made.
            run("ip", "netns", "exec", built.client, "ethtool", "-K", "eth0", "tx", "off")
            # A veth takes what comes by XDP_TX from its other end only where it has a program itself (veth_xdp_flush).
            with inside(built.router), loaded(XDP_PROGRAM) as passing:
                check(library().bpf_xdp_attach(socket.if_nametoindex("gw1"), passing, DRIVER_MODE, None), "attach")
        for name, namespace in built.servers.items():
            for vip in (VIP, VIP6):
                undo.enter_context(web(namespace, vip, name))
                undo.enter_context(server(namespace, vip, ECHO, kind=socket.SOCK_DGRAM))
        yield built


def setups(name: str) -> str:
    """What kernlb tells a real server to do for all of these tunnels."""
    services = (
        f'[service.web{port}]\nbind = ["{bracketed(way.vip)}:{port}"]\nforwarding = "tunnel"\nengine = "xdp"\n'
        f'scheduler = "maglev"\ntunnel = "{"gue:6080" if way.tunnel == GUE else "ipip"}"\n'
        f'[service.web{port}.servers]\n{name} = "{bracketed(way.address(name))}:{port}"\n'
        for port, way in enumerate(WAYS, 8000)
    )
    return render(Template.REAL_SERVER, load("".join(services), "kernlb.toml"), Options())


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@contextmanager
def web(namespace: str, address: str, name: str) -> Iterator[None]:
    class Site(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = f"{name} {self.client_address[0]} {len(body)}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    class Listener(ThreadingTCPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        allow_reuse_address = daemon_threads = True

    with inside(namespace):
        listener = Listener((address, WEB), Site)
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown()
        thread.join(PATIENCE)
        listener.server_close()


def post(client: str, vip: str, size: int) -> tuple[str, ...]:
    """Who answers, whom it sees, and how much it got."""
    connection = http.client.HTTPConnection(vip, WEB, timeout=PATIENCE)
    with inside(client):
        connection.connect()
    try:
        connection.request("POST", "/", bytes(size))
        return tuple(connection.getresponse().read().decode().split())
    finally:
        connection.close()


def traffic_flows(built: Segment, hook: Hook, way: Way) -> None:
    pins = Path(f"/sys/fs/bpf/kernlb/test-{os.getpid()}")
    with inside(built.gateways["gw1"]):
        xdp = Xdp(pins, wish=Wish(interfaces=("eth0",)), sizes=SMALL, slots=1009, virtual=hook is Hook.XDP)
        try:
            xdp.apply(diff(table(way), xdp.read()))
            for family in ("-4", "-6"):
                run("ip", family, "-n", built.client, "route", "flush", "cache")  # what it has learned of path MTUs
            assert all((found is Hook.XDP) == (hook is Hook.XDP) for found in xdp.hooks().values())
            sizes = [*([1] * 20), LARGE, LARGE]
            answers = [post(built.client, way.vip, size) for size in sizes]
            assert [answer[1:] for answer in answers] == [(way.client, str(size)) for size in sizes]
            assert {answer[0] for answer in answers} == set(NAMES)
            for _ in range(20):
                echo = Client(built.client, way.vip, ECHO, kind=socket.SOCK_DGRAM)
                echo.close()
                assert echo.seen == way.client
            sent: Counter[Protocol] = Counter()
            for key, counted in xdp.counters().items():
                if isinstance(key, ServerKey):
                    assert counted.packets_in, key
                    sent[key.service.protocol] += counted.packets_in
            assert sent[Protocol.UDP] == 20
            with Dataplane.pinned(pins) as plane:
                causes = {cause for cause, number in plane.causes().items() if number}
            assert causes == {Cause.TOO_BIG}
        finally:
            xdp.apply(diff({}, xdp.read()))
            xdp.close()


@pytest.fixture(scope="module", params=[Hook.XDP, Hook.TCX], ids=["xdp", "tc"])
def unpacked(request: pytest.FixtureRequest, balancer: Path) -> Iterator[tuple[Hook, Segment]]:
    with network(request.param) as built:
        yield request.param, built


@by_way
def test_http_and_datagrams_go_through_a_tunnel_whole(unpacked: tuple[Hook, Segment], way: Way) -> None:
    hook, built = unpacked
    traffic_flows(built, hook, way)


@pytest.fixture(scope="module", params=[Hook.XDP, Hook.CLSACT], ids=["xdp", "tc"])
def unpacked_by_kernels(
    request: pytest.FixtureRequest, balancer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Hook, Segment]]:
    directory = tmp_path_factory.mktemp("servers")
    with network(request.param, unpacking=False) as built:
        for name, namespace in built.servers.items():
            script = directory / f"{name}.sh"
            script.write_text(setups(name))
            log = directory / name
            command = ("ip", "netns", "exec", namespace, "env", f"KERNLB_REALSERVER_LOG={log}", "sh", str(script))
            run(*command)
            done = log.read_text()
            run(*command)
            assert log.read_text() == done, "what is there is not done again"
        yield request.param, built


@pytest.mark.ipip
@by_way
def test_kernels_unpack_what_the_program_packs(unpacked_by_kernels: tuple[Hook, Segment], way: Way) -> None:
    """With the set-up of a real server that kernlb renders."""
    hook, built = unpacked_by_kernels
    traffic_flows(built, hook, way)
