"""A real server vanishes under load, through a kernel with IPVS: whoever keeps sending reaches a live one soon."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from kernlb.demo.director import Daemon
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS
from kernlb.demo.steady import ask_steadily
from tests.system.director import Director, director, until

pytestmark = [pytest.mark.ipvs, pytest.mark.root, pytest.mark.timeout(400)]

PORT = 5300
SOON = 3.0
PATIENCE = 60.0
Reply = tuple[float, str]  # time.monotonic(), and who sent it


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Director]:
    with director(tmp_path_factory.mktemp("failover")) as found:
        for name, address in SERVERS.items():
            found.lab.start(name, echo, name, address)
        yield found


def echo(name: str, address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        while True:
            sock.sendto(name.encode(), sock.recvfrom(100)[1])


def send_steadily(result: Connection, stop: Connection, source_port: int) -> None:
    """A datagram every 50 ms from one port; sends the Replies once `stop` is readable."""
    found: list[Reply] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", source_port))
        sock.settimeout(0.05)
        while not stop.poll():
            began = time.monotonic()
            sock.sendto(b"?", (DIRECTOR_FRONT, PORT))
            try:
                found.append((time.monotonic(), sock.recv(100).decode()))
            except TimeoutError:
                continue
            time.sleep(max(0.0, began + 0.05 - time.monotonic()))
    result.send(found)


def configuration() -> str:
    timing = 'interval = "1s", timeout = "1s", rise = 1, fall = 2'
    text = '[defaults]\nforwarding = "fullnat"\nscheduler = "rr"\n'
    for name, protocol, port, check in (
        ("datagrams", "udp", PORT, '"udp", payload = "?", require_reply = true'),
        ("streams", "tcp", 80, '"tcp"'),
    ):
        servers = "".join(f'{server} = "{address}:{port}"\n' for server, address in SERVERS.items())
        text += f'[service.{name}]\nbind = "{DIRECTOR_FRONT}:{port}"\nprotocol = "{protocol}"\n'
        text += f"check = {{ type = {check}, {timing} }}\n[service.{name}.servers]\n{servers}"
    return text


def statuses(daemon: Daemon, service: str) -> dict[str, str]:
    found = next(each for each in daemon.client.status()["services"] if each["name"] == service)
    return {server["name"]: server["status"] for server in found["servers"]}


@pytest.fixture(scope="module")
def daemon(gateway: Director) -> Iterator[Daemon]:
    gateway.file(configuration())
    with gateway.daemon(gateway.directory / "kernlb.toml") as running:
        yield running
    gateway.call("clear")


@contextmanager
def vanished(gateway: Director, name: str) -> Iterator[None]:
    silence = "add table inet silent; add chain inet silent input { type filter hook input priority 0; policy drop; }"
    inside = ["ip", "netns", "exec", gateway.lab.namespace(name), "nft"]
    subprocess.run([*inside, silence], check=True, timeout=60)
    try:
        yield
    finally:
        subprocess.run([*inside, "delete table inet silent"], check=True, timeout=60)


def all_up(daemon: Daemon) -> None:
    for service in ("datagrams", "streams"):
        until(lambda service=service: set(statuses(daemon, service).values()) == {"up"}, patience=PATIENCE)


def verdict(daemon: Daemon, service: str, server: str) -> float:
    until(lambda: statuses(daemon, service)[server] == "down", patience=PATIENCE)
    return time.monotonic()


def test_a_udp_client_of_one_source_port_reaches_a_live_server_soon_after_the_verdict(
    gateway: Director, daemon: Daemon
) -> None:
    all_up(daemon)

    def pinned() -> list[Reply]:
        here, there = Pipe()
        answer = gateway.lab.ask("client", send_steadily, there, 4321)
        time.sleep(2)
        here.send(None)
        found: list[Reply] = answer.value(timeout=60)
        return found

    (victim,) = {name for _, name in pinned()}
    here, there = Pipe()
    answer = gateway.lab.ask("client", send_steadily, there, 4321)
    time.sleep(1)
    with vanished(gateway, victim):
        down = verdict(daemon, "datagrams", victim)
        time.sleep(SOON + 1)
        here.send(None)
        replies: list[Reply] = answer.value(timeout=60)
    others = [at for at, name in replies if name != victim]
    assert others
    print(f"a live server answered {others[0] - down:.2f} s after the verdict")
    assert others[0] - down < SOON


def test_a_retransmitted_syn_reaches_a_live_server_soon_after_the_verdict(gateway: Director, daemon: Daemon) -> None:
    all_up(daemon)
    here, there = Pipe()
    answer = gateway.lab.ask("client", ask_steadily, there, DIRECTOR_FRONT, 80, 5.0, 30.0)
    time.sleep(1)
    with vanished(gateway, "server2"):
        down = verdict(daemon, "streams", "server2")
        time.sleep(SOON + 1)
        here.send(None)
        samples = answer.value(timeout=60)
    assert not [sample for sample in samples if sample.failure]
    # Those whose first SYN met the dead server: answered only after the verdict, though asked well before.
    late = [s for s in samples if s.started < down - 0.5 and s.started + s.seconds > down - 0.5 and s.seconds > 0.9]
    assert late
    soonest = min(sample.started + sample.seconds for sample in late) - down
    print(f"{len(late)} connections waited; the first was answered {max(soonest, 0.0):.2f} s after the verdict")
    assert soonest < SOON
