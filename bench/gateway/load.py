"""The load of the bench: wrk for requests, one stream for bulk, many clients in open loop."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.gateway.network import BARE, BULK, CLIENTS, HTTP, VIP, Network

_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_FAILED = re.compile(r"Socket errors: (.*)|Non-2xx or 3xx responses: (.*)")
_RECEIVER = """
import socket, time
buffer = bytearray(1 << 20)
connection = socket.create_connection(({address!r}, {port}), 5)
connection.recv_into(buffer)
began, total = time.monotonic(), 0
while time.monotonic() - began < {seconds}:
    total += connection.recv_into(buffer)
print(total / (time.monotonic() - began))
"""


def requests(network: Network, *, seconds: int, keep_alive: bool) -> float:
    """Microseconds a request, all connections together."""
    close = () if keep_alive else ("-H", "Connection: close")
    network.await_answer(VIP, HTTP, at="client")
    command = ("wrk", "-t2", "-c64", f"-d{seconds}s", *close, f"http://{VIP}:{HTTP}/")
    said = network.run("client", *command, timeout=seconds + 30)
    rate = _RATE.search(said)
    if rate is None or _FAILED.search(said):
        raise SystemExit(f"bench: wrk said {said}")
    return 1e6 / float(rate[1])


def bulk(network: Network, *, seconds: int) -> float:
    """Nanoseconds a kilobyte."""
    network.await_answer(VIP, BULK, at="client")
    program = _RECEIVER.format(address=VIP, port=BULK, seconds=seconds)
    return 1e12 / float(network.run("client", "python3", "-c", program, timeout=seconds + 30))


def many_clients(network: Network, *, clients: int, rate: float, seconds: float) -> Mapping[str, float]:
    """What became of so many connections a second from so many addresses; see clients.py."""
    network.await_answer(VIP, HTTP, at="client")
    program = str(Path(__file__).with_name("clients.py"))
    arguments = (VIP, str(HTTP), CLIENTS, str(clients), str(rate), str(seconds))
    told: Mapping[str, float] = json.loads(
        network.run("client", "python3", program, *arguments, timeout=3 * seconds + 60)
    )
    return told


@dataclass(frozen=True, slots=True)
class Opened:
    """New connections of one window. `failed` counts what became of those that were not connected at once; `behind` is
    by how many seconds the clients were late at most."""

    asked: int
    connected: int
    rate: float
    behind: float
    failed: Mapping[str, int]


def connections(network: Network, *, clients: int, rate: float, seconds: float) -> Opened:
    """By one program for each processor; see connector.py."""
    network.await_answer(VIP, BARE, at="client")
    programs = os.cpu_count() or 1
    count = clients // programs
    program = str(Path(__file__).with_name("connector.py"))
    commands = (
        (
            "python3",
            program,
            VIP,
            str(BARE),
            CLIENTS,
            f"{1 + number * count}",
            f"{count}",
            f"{rate / programs}",
            f"{seconds}",
        )
        for number in range(programs)
    )
    said = [json.loads(each) for each in network.run_together("client", *commands, timeout=3 * seconds + 60)]
    took, behind = (max(each.pop(name) for each in said) for name in ("took", "behind"))
    total: Counter[str] = Counter()
    for each in said:
        total.update(each)
    asked, connected = total.pop("asked"), total.pop("connected", 0)
    return Opened(asked, connected, connected / took, behind, +total)
