"""A real server vanishes under load: whoever keeps sending reaches a live one within 3 s of the verdict, on both
engines, and the traffic itself brings the verdict about."""

import multiprocessing
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest

from kernlb.demo.director import Daemon
from kernlb.demo.http import serve
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS
from tests.system.director import Director, answer_directly, director, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

DATAGRAMS, STREAMS, BYPASS = 5300, 80, 8080
SOON = 3.0
PATIENCE = 60.0
PERIOD = 0.05
SELDOM = 300.0
ENGINES = [
    pytest.param("ipvs", marks=pytest.mark.ipvs),
    pytest.param("xdp", marks=[pytest.mark.bpf, pytest.mark.netns]),
]
Attempt = tuple[float, float | None]
"""When a connection was begun, and when it was there."""
Reply = tuple[float, str]
"""time.monotonic(), which all processes share, and who sent it."""


@pytest.fixture(scope="module", params=ENGINES)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Director]:
    with director(tmp_path_factory.mktemp("failover")) as found:
        for name, address in SERVERS.items():
            found.lab.start(name, echo, name, address)
            found.lab.start(name, serve, name, "0.0.0.0", BYPASS)
            found.lab.ip(name, [f"addr add {DIRECTOR_FRONT} dev lo"])
        answer_directly(found.lab)
        found.file(configuration(request.param))
        yield found


@pytest.fixture(scope="module")
def daemon(gateway: Director) -> Iterator[Daemon]:
    with gateway.daemon(gateway.directory / "kernlb.toml") as running:
        yield running
    gateway.call("clear")


def configuration(engine: str) -> str:
    text = f'[engine]\ndefault = "{engine}"\n'
    for name, forwarding, protocol, port, check in (
        ("datagrams", "fullnat", "udp", DATAGRAMS, '"udp", payload = "?", require_reply = true, interval = "1s"'),
        ("streams", "fullnat", "tcp", STREAMS, '"tcp", interval = "1s"'),
        ("bypass", "direct", "tcp", BYPASS, f'"tcp", interval = "{SELDOM:g}s"'),
    ):
        servers = "".join(f'{server} = "{address}:{port}"\n' for server, address in SERVERS.items())
        text += f'[service.{name}]\nbind = "{DIRECTOR_FRONT}:{port}"\nprotocol = "{protocol}"\n'
        text += f'forwarding = "{forwarding}"\ncheck = {{ type = {check}, timeout = "1s", rise = 1, fall = 2 }}\n'
        text += f"[service.{name}.servers]\n{servers}"
    return text


def echo(name: str, address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, DATAGRAMS))
        while True:
            sock.sendto(name.encode(), sock.recvfrom(100)[1])


def send_steadily(result: Connection, replies: Connection, source_port: int) -> None:
    """A datagram every 50 ms from one port, each Reply told as it comes, until the other end is closed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", source_port))
        sock.settimeout(0.05)
        while not replies.poll():
            began = time.monotonic()
            sock.sendto(b"?", (DIRECTOR_FRONT, DATAGRAMS))
            try:
                replies.send((time.monotonic(), sock.recv(100).decode()))
            except TimeoutError:
                continue
            time.sleep(max(0.0, began + 0.05 - time.monotonic()))
    result.send(None)


def connect_steadily(result: Connection, stop: Connection, port: int) -> None:
    """Sends the Attempts begun every PERIOD until told to stop, once all have ended. The kernel alone sends their SYNs
    again."""
    poll = select.poll()
    waiting: dict[int, tuple[float, socket.socket]] = {}
    found: list[Attempt] = []
    deadline = None
    while waiting or deadline is None:
        now = time.monotonic()
        if deadline is None:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.connect_ex((DIRECTOR_FRONT, port))
            waiting[sock.fileno()] = now, sock
            poll.register(sock, select.POLLOUT)
            deadline = now + PATIENCE if stop.poll() else None
        elif now > deadline:
            break
        for descriptor, _ in poll.poll(PERIOD * 1000):
            poll.unregister(descriptor)
            began, sock = waiting.pop(descriptor)
            with sock:
                fine = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                found.append((began, time.monotonic() if fine else None))
        time.sleep(max(0.0, now + PERIOD - time.monotonic()))
    result.send(sorted([*found, *((began, None) for began, _ in waiting.values())]))


def rows(daemon: Daemon, service: str) -> dict[str, dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.client.status()["services"]
    return {server["name"]: server for each in found if each["name"] == service for server in each["servers"]}


def all_up(daemon: Daemon, *services: str) -> None:
    for service in services:
        until(
            lambda service=service: {row["status"] for row in rows(daemon, service).values()} == {"up"},
            patience=PATIENCE,
        )


def verdict(daemon: Daemon, service: str, server: str) -> float:
    until(lambda: rows(daemon, service)[server]["status"] == "down", patience=PATIENCE)
    return time.monotonic()


@contextmanager
def vanished(gateway: Director, name: str) -> Iterator[None]:
    silence = "add table inet silent; add chain inet silent input { type filter hook input priority 0; policy drop; }"
    inside = ["ip", "netns", "exec", gateway.lab.namespace(name), "nft"]
    subprocess.run([*inside, silence], check=True, timeout=60)
    try:
        yield
    finally:
        subprocess.run([*inside, "delete table inet silent"], check=True, timeout=60)


def waited(gateway: Director, daemon: Daemon, service: str, port: int) -> tuple[float, float, list[float]]:
    """When server2 was about to vanish, when that was known, and when those got through who had waited for 3 s at most
    when the kernel had it out: who has waited longer sends its next SYN only after twice that."""
    stop, there = multiprocessing.Pipe()
    answer = gateway.lab.ask("client", connect_steadily, there, port)
    # Where the processor is scarce, nft may end long after what it did, and after the verdict.
    began = time.monotonic()
    with vanished(gateway, "server2"):
        down = verdict(daemon, service, "server2")
        # The verdict is told before the kernel is.
        until(lambda: not rows(daemon, service)["server2"]["weight"])
        out = time.monotonic()
        stop.send(None)
        attempts: list[Attempt] = answer.value(timeout=2 * PATIENCE)
    assert None not in [done for _, done in attempts]
    late = [done for start, done in attempts if done and max(began, out - 3) < start < down and done > start + 0.9]
    assert late, "none met the dead server"
    return began, down, late


def test_a_udp_client_of_one_source_port_reaches_a_live_server_soon_after_the_verdict(
    gateway: Director, daemon: Daemon
) -> None:
    all_up(daemon, "datagrams")
    replies, there = multiprocessing.Pipe()
    gateway.lab.ask("client", send_steadily, there, 4321)
    _, victim = replies.recv()
    with vanished(gateway, victim), replies:
        down = verdict(daemon, "datagrams", victim)
        server = victim
        while server == victim:
            assert replies.poll(SOON + down - time.monotonic()), "no live server answers"
            at, server = replies.recv()
        assert at < down + SOON
        # And it stays there.
        assert {replies.recv()[1] for _ in range(10)} == {server}
        replies.send(None)


def test_a_retransmitted_syn_reaches_a_live_server_soon_after_the_verdict(gateway: Director, daemon: Daemon) -> None:
    all_up(daemon, "streams")
    _, down, through = waited(gateway, daemon, "streams", STREAMS)
    assert max(through) < down + SOON


def test_clients_that_wait_for_a_direct_server_bring_its_verdict_about(gateway: Director, daemon: Daemon) -> None:
    all_up(daemon, "bypass")
    began, down, through = waited(gateway, daemon, "bypass", BYPASS)
    assert down - began < SELDOM / 5, "the check was not due before"
    assert max(through) < down + SOON
