"""Real servers, commands, agents and clients that mean harm, all at once: how late the checks of all others start.

The whole daemon with 1,000 targets every 2 s, alone and then among headers without end, bodies of 1 GB, garbage for
TLS, answers in endless pieces, an expression that explodes, commands that fork and ignore SIGTERM, agents that send
without end, and clients of the control socket: some never finish a request, one asks for all there is once a second.
Lateness is read off the wire.
"""

import json
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from bench.checks.peers import Farm, daemon
from bench.checks.wire import Lateness, percentile
from bench.harness import Comparison, Count, Report, Series, machine
from kernlb.places import Places
from tests.checks.hostile import KINDS, STUBBORN, hostile
from tests.system.network import inside, namespaces

TARGETS = 1_000
OF_EACH = 4
HALF_ASKED = 16  # clients of the control socket that never finish
WARM_UP = 6.0
MEASURED = 20.0
MOST = 100.0  # milliseconds that any check may start late
ALONE, AMONG = "alone", "among hostile inputs"
METRICS = {"median": 0.5, "99th percentile": 0.99, "worst": 1.0}

Progress = Callable[[str], None]
CHECKS = {
    "headers": 'type = "http", path = "/"',
    "interim": 'type = "http", path = "/"',
    "body": 'type = "http", path = "/", match = "needle"',
    "expression": 'type = "http", path = "/", match = { pattern = "^(a|a)*b$" }',
    "chunks": 'type = "http", path = "/", match = "needle"',
    "tls": 'type = "tls", tls = { verify = false }',
    "grpc": 'type = "grpc"',
    "agent": 'type = "agent"',
    "command": f'type = "command", argv = {json.dumps([sys.executable, "-S", "-c", STUBBORN])}',
}


def run(rounds: int, progress: Progress) -> Report:
    late: dict[str, list[list[float]]] = {ALONE: [], AMONG: []}
    bounded = 0
    for number in range(rounds):
        for name in (ALONE, AMONG) if number % 2 == 0 else (AMONG, ALONE):
            found, unbounded = _measured(name)
            late[name].append(found)
            bounded += unbounded
            shown = ", ".join(f"{title} {percentile(found, share):.1f} ms" for title, share in METRICS.items())
            progress(f"hostile, round {number + 1} of {rounds}: {name}: {shown}")
    comparisons = tuple(
        Comparison(
            f"lateness of starts, {title}",
            "ms",
            tuple(Series(name, tuple(percentile(each, share) for each in found)) for name, found in late.items()),
            baseline=ALONE,
        )
        for title, share in METRICS.items()
    )
    beyond = sum(each > MOST for found in late[AMONG] for each in found)
    counts = (
        Count(f"starts more than {MOST:g} ms late {AMONG}", beyond, 0),
        Count("hostile servers that are not down, or left processes behind", bounded, 0),
    )
    return Report("hostile", comparisons, counts, machine())


def _measured(name: str) -> tuple[list[float], int]:
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (namespace,) = stack.enter_context(namespaces("hostile"))
        stack.callback(shutil.rmtree, Places(namespace=namespace).pins, ignore_errors=True)
        stack.enter_context(inside(namespace))
        farm = stack.enter_context(Farm(TARGETS))
        ports = stack.enter_context(hostile() if name == AMONG else nullcontext({}))
        peer = daemon(scratch, more=attack(ports))
        watcher = stack.enter_context(peer.running(farm.targets))
        watcher.sleep(WARM_UP)
        if ports:
            control = scratch / "run" / namespace / "control.sock"
            stack.enter_context(half_asked(control))
            stack.enter_context(asking(control))
        with Lateness(farm.sample) as lateness:
            watcher.sleep(MEASURED)
        down = {each for each in watcher.down if not each.startswith("target")}
        wanted = {f"{kind}{n}" for kind in CHECKS if kind != "agent" for n in range(OF_EACH)} if ports else set()
        # Of each command at most the one under way and its fork.
        left = sum(STUBBORN.encode() in line for line in _commands())
        return lateness.milliseconds(peer.interval), len(wanted - down) + max(0, left - 2 * OF_EACH)


def attack(ports: Mapping[str, int]) -> str:
    """A service of each kind. An agent that talks nonsense says nothing about its server."""
    parts = []
    for number, (kind, check) in enumerate(CHECKS.items() if ports else ()):
        port = ports[kind if kind in KINDS else "body"]
        listed = "".join(f'{kind}{n} = "127.0.{number}.{n + 1}:{port}"\n' for n in range(OF_EACH))
        parts.append(
            f'[service.{kind}]\nbind = ["192.0.2.2:{8000 + number}"]\nforwarding = "fullnat"\n'
            f'check = {{ {check}, interval = "500ms", timeout = "500ms" }}\n[service.{kind}.servers]\n{listed}'
        )
    return "".join(parts)


@contextmanager
def half_asked(path: Path) -> Iterator[None]:
    """Clients of the control socket that say a part of a request, and no more."""
    with ExitStack() as stack:
        for number in range(HALF_ASKED):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
            client.send(b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{"[: 12 + 4 * number])
        yield


@contextmanager
def asking(path: Path) -> Iterator[None]:
    """A client that asks for the status and for the metrics once a second."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(1.0):
            for what in ("status", "metrics"):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                    client.sendall(f"GET /{what} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    while client.recv(1 << 20):
                        pass

    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask)
        try:
            yield
        finally:
            over.set()
            asked.result()


def _commands() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue
