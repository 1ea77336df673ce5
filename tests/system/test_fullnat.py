"""Full NAT of the eBPF engine under real traffic: limits on connections, ports that come round, echo.

client 192.0.2.10 and all of 10.64.0.0/16 -- director -- server1 10.0.0.1, server2 10.0.0.2
"""

import json
import multiprocessing
import socket
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kernlb.demo.namespaces import SERVERS, Lab, lab
from kernlb.engines.carried import Wish
from kernlb.model import (
    Bounds,
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
from tests.system.network import until

__all__ = ["director"]
pytestmark = [pytest.mark.bpf, pytest.mark.netns]
VIP, TCP_PORT = "198.51.100.80", 7000
MANY, CLIENTS = "10.64.0.0/16", 500
SERVERS_USED = ("server1", "server2")
PORTS = 100
LOAD = Path(__file__).parents[2] / "bench" / "gateway" / "clients.py"
RECKLESS = Wish(tcp=700.0)
"""Another program has to be loaded for it."""


@pytest.fixture(scope="module")
def network(balancer: Path) -> Iterator[Lab]:
    with lab() as built:
        built.ip("client", [f"route add {VIP} via 192.0.2.1 dev eth0 onlink", f"route add local {MANY} dev lo"])
        built.ip("director", [f"addr add {VIP}/32 dev lo", f"route add {MANY} via 192.0.2.10 dev front onlink"])
        inside(built, "director", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for name in SERVERS_USED:
            built.start(name, serve)
        yield built


def table(*, bounds: Bounds | None = None, thresholds: dict[str, int] | None = None) -> dict[Key, Value]:
    service = Endpoint(EngineName.XDP, Protocol.TCP, ip_address(VIP), TCP_PORT)
    held: dict[Key, Value] = {service: VirtualService(Scheduler.MAGLEV, bounds=bounds)}
    for name in SERVERS_USED:
        upper = (thresholds or {}).get(name, 0)
        server = RealServer(Forwarding.FULLNAT, 1, upper_threshold=upper, lower_threshold=upper * 3 // 4)
        held[ServerKey(service, ip_address(SERVERS[name]), TCP_PORT)] = server
    return held


# --- what runs in the namespaces


def serve() -> None:
    """Answers whatever is asked with the address it was asked at, and hangs up; what asks nothing it keeps."""

    def session(connection: socket.socket) -> None:
        with connection:
            if connection.recv(100):
                connection.sendall(connection.getsockname()[0].encode())

    listener = socket.create_server(("", TCP_PORT), backlog=1024)
    while True:
        threading.Thread(target=session, args=(listener.accept()[0],), daemon=True).start()


class Holding:
    """Connections that say nothing, in a process in the client's namespace."""

    def __init__(self, network: Lab) -> None:
        self._here, there = multiprocessing.Pipe()
        network.start("client", keep, there)

    def ask(self, *order: object) -> list[str]:
        self._here.send(order)
        assert self._here.poll(30)
        told: list[str] = self._here.recv()
        return told


def keep(orders: Connection) -> None:
    """("open", n): n more connections, and how each went; ("close", n): n of them; ("use",): what the servers say."""
    held: list[socket.socket] = []
    while True:
        match orders.recv():
            case "open", int(count):
                told = []
                for _ in range(count):
                    try:
                        held.append(socket.create_connection((VIP, TCP_PORT), 3))
                        told.append("open")
                    except OSError as error:
                        told.append(type(error).__name__)
                orders.send(told)
            case "close", int(count):
                for _ in range(count):
                    held.pop().close()
                orders.send([])
            case _:
                for connection in held:
                    connection.sendall(b"?")
                orders.send([connection.recv(100).decode() for connection in held])
                held.clear()


# --- laws


def test_past_its_limit_a_service_refuses_at_once_and_a_reload_forgets_nobody(network: Lab, director: Director) -> None:
    limited = table(bounds=Bounds(7, 5))
    director.hold(limited)
    holding = Holding(network)
    begun = time.monotonic()
    assert holding.ask("open", 7) == ["open"] * 5 + ["ConnectionRefusedError"] * 2
    assert time.monotonic() - begun < 1, "a refusal is an answer, not a silence"
    assert director.causes()["LIMIT"] == 2
    director.hold(limited, RECKLESS)
    assert holding.ask("open", 1) == ["ConnectionRefusedError"]
    holding.ask("close", 2)
    for _ in range(2):
        assert until(lambda: holding.ask("open", 1) == ["open"])
    assert holding.ask("open", 1) == ["ConnectionRefusedError"]
    director.hold(table(bounds=Bounds(7, 6)), RECKLESS)
    assert holding.ask("open", 2) == ["open", "ConnectionRefusedError"]
    assert len(holding.ask("use")) == 6
    assert until(lambda: holding.ask("open", 1) == ["open"])


def test_a_server_at_its_limit_is_passed_over(network: Lab, director: Director) -> None:
    director.hold(table(thresholds={"server1": 3}))
    holding = Holding(network)
    assert holding.ask("open", 30) == ["open"] * 30
    told = holding.ask("use")
    assert (told.count(SERVERS["server1"]), told.count(SERVERS["server2"])) == (3, 27)


def test_ports_come_round_while_servers_still_have_them_in_time_wait(network: Lab, director: Director) -> None:
    """Twice as many connections as there are ports, from hundreds of clients, within a TIME_WAIT: none has to wait."""
    inside(network, "director", "sysctl", "-qw", f"net.ipv4.ip_local_port_range={1024 + PORTS} 65535")
    director.hold(table())
    load = (sys.executable, str(LOAD), VIP, str(TCP_PORT), MANY, str(CLIENTS), "40", "10")
    told = json.loads(inside(network, "client", *load))
    inside(network, "director", "sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999")
    assert told["asked"] == told.get("answered") == 2 * PORTS * len(SERVERS_USED), told
    assert "NO_PORT" not in director.causes()


def test_a_ping_of_a_vip_is_answered_by_the_director(network: Lab, director: Director) -> None:
    director.hold(table())
    assert "3 received" in inside(network, "client", "ping", "-c3", "-i0.2", "-W2", VIP)
