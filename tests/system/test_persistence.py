"""A drain of a real server whose clients are persistent: they go elsewhere with what they begin next."""

import socket
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kernlb.demo.director import Daemon
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS, Answer
from tests.system.director import Director, director, until

pytestmark = [pytest.mark.ipvs, pytest.mark.root, pytest.mark.timeout(400)]
NAMES = ("server1", "server2")
PORTS = {"tcp": 80, "udp": 53}
DEADLINE = 20.0
"""Seconds: long enough for a slow guest to see what holds until then."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Director]:
    with director(tmp_path_factory.mktemp("persistence")) as found:
        for name in NAMES:
            found.lab.start(name, echo, name)
        yield found


@pytest.fixture
def gateway(network: Director) -> Iterator[Director]:
    yield network
    network.call("clear")


def echo(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((SERVERS[name], PORTS["udp"]))
        while True:
            _, peer = server.recvfrom(512)
            server.sendto(name.encode(), peer)


def configuration(protocol: str) -> str:
    port = PORTS[protocol]
    servers = "".join(f'{name} = "{SERVERS[name]}:{port}"\n' for name in NAMES)
    return (
        f'[service.web]\nengine = "ipvs"\nbind = "{DIRECTOR_FRONT}:{port}"\nprotocol = "{protocol}"\n'
        f'forwarding = "fullnat"\nscheduler = "rr"\npersistence = "10m"\n[service.web.servers]\n{servers}'
    )


class Talk:
    """A client's connection, or the datagrams from one port of his: who answers, each time that it is asked."""

    def __init__(self, gateway: Director, protocol: str) -> None:
        self._orders, there = Pipe()
        self._answer: Answer = gateway.lab.ask("client", converse, there, protocol)

    def ask(self) -> str:
        self._orders.send("ask")
        assert self._orders.poll(60)
        answer: str = self._orders.recv()
        return answer

    def end(self) -> None:
        self._orders.send("end")
        self._answer.value(timeout=60)


def converse(result: Connection, orders: Connection, protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(5)
        sock.connect((DIRECTOR_FRONT, PORTS[protocol]))
        while orders.recv() == "ask":
            try:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                answer = sock.recv(512).rpartition(b"\n")[2].decode()
                orders.send(answer.split()[0] if answer else "closed")
            except OSError as error:
                orders.send(f"failed: {error.strerror or error}")
    result.send(None)


def who(gateway: Director, protocol: str) -> str:
    """Who answers what the client begins now."""
    talk = Talk(gateway, protocol)
    name = talk.ask()
    talk.end()
    return name


def drained(gateway: Director, daemon: Daemon, name: str) -> Answer:
    """The answer of an order to drain it, once it is in force."""
    order = gateway.begin("drain", "web", name, "--deadline", f"{DEADLINE:g}s", "--json")
    until(lambda: daemon.statuses()[name] == "draining")
    return order


@pytest.mark.parametrize("protocol", PORTS)
def test_a_persistent_client_leaves_a_drained_server_with_what_it_begins_next(gateway: Director, protocol: str) -> None:
    file = Path(gateway.file(configuration(protocol)))
    with gateway.daemon(file) as daemon:
        until(lambda: who(gateway, protocol) in NAMES)
        held = Talk(gateway, protocol)
        home = held.ask()
        (other,) = {*NAMES} - {home}
        assert {who(gateway, protocol) for _ in range(4)} == {home}, "round robin would go elsewhere"
        began = time.monotonic()
        order = drained(gateway, daemon, home)
        assert {who(gateway, protocol) for _ in range(4)} == {other}
        # What was under way stays, and holds the server up to the deadline.
        assert held.ask() == home
        assert time.monotonic() - began < DEADLINE, "too slow to tell"
        assert order.value(timeout=60).document["drained"]
        assert time.monotonic() - began >= DEADLINE - 1
        assert SERVERS[home] not in gateway.call("show").out
        if protocol == "udp":
            # A port that goes on sending goes to the other.
            until(lambda: held.ask() == other)
        else:
            assert held.ask() not in NAMES
        held.end()
        gateway.call("resume", "web", home)
        until(lambda: daemon.statuses()[home] != "disabled")
        assert {who(gateway, protocol) for _ in range(4)} == {other}, "who is persistent stays"
