"""An order for another weight, from the moment it is sent to the moment the eBPF program's slots say so.

The daemon runs as a user's would, in a namespace with a hundred real servers a service on the other end of a wire. The
slots are watched through memory from another process: what counts is when they change, not when somebody says so.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from itertools import cycle
from pathlib import Path

from bench.harness import Comparison, Report, Series, machine
from kernlb.control_client import ControlClient
from kernlb.engines.dataplane import Dataplane
from kernlb.errors import KernlbError
from kernlb.hashing import SLOTS
from kernlb.places import Places
from tests.system.network import ip, namespaces

SERVERS = 100
SERVICES = (1, 10, 100)
ORDERS = 20
BUDGET = 20.0
"""Milliseconds."""
PATIENCE = 60.0
_PAUSE = 0.0001
_SETTLED = 0.15

Progress = Callable[[str], None]


def run(rounds: int, progress: Progress) -> Report:
    comparisons = []
    for services in SERVICES:
        effect, answer = [], []
        with _daemon(services) as (client, places):
            for number, (seen, answered) in enumerate(_orders(client, places, rounds * ORDERS)):
                effect.append(seen * 1000)
                answer.append(answered * 1000)
                if not number % ORDERS:
                    progress(f"{services} x {SERVERS}: {seen * 1000:.1f} ms")
        series = (Series("the budget", (BUDGET,)), _series("in effect", effect), _series("answered", answer))
        comparisons.append(
            Comparison(f"another weight, {services} x {SERVERS}", "ms", series, "the budget", 1.0, ("in effect",))
        )
    return Report("weight", tuple(comparisons), machine=machine())


def _series(name: str, values: list[float]) -> Series:
    return Series(name, tuple(values))


def _orders(client: ControlClient, places: Places, count: int) -> Iterator[tuple[float, float]]:
    """Seconds until the slots change, and until the daemon says that they have."""
    with Dataplane.pinned(places.pins) as plane:
        table = plane.table(0, SLOTS)
        for number, weight in zip(range(count), cycle((3, 1)), strict=False):
            before = table.read()[0]
            answered: list[float] = []
            begun = time.perf_counter()
            thread = threading.Thread(target=_order, args=(client, f"r{number // 2 % SERVERS}", weight, answered))
            thread.start()
            while (table.read()[0] == before).all():
                if time.perf_counter() - begun > PATIENCE:
                    raise SystemExit("no slot has changed")
                time.sleep(_PAUSE)
            seen = time.perf_counter()
            thread.join()
            yield seen - begun, answered[0] - begun
            time.sleep(_SETTLED)


def _order(client: ControlClient, server: str, weight: int, answered: list[float]) -> None:
    client.ask("POST", "/weight", service="s0", server=server, weight=weight)
    answered.append(time.perf_counter())


@contextmanager
def _daemon(services: int) -> Iterator[tuple[ControlClient, Places]]:
    with namespaces("gateway", "farm") as (gateway, farm), tempfile.TemporaryDirectory() as scratch:
        ip(gateway, f"link add back type veth peer name eth0 netns {farm}\n")
        ip(gateway, "addr add 10.9.255.254/16 dev back\nlink set back up\n")
        addresses = "".join(f"addr add {IPv4Address('10.9.0.0') + n}/16 dev eth0\n" for n in range(1, SERVERS + 1))
        ip(farm, f"{addresses}link set eth0 up\n")
        file = Path(scratch, "kernlb.toml")
        file.write_text(_configuration(services))
        state = ["--state-dir", scratch, "--run-dir", scratch]
        kernlb = [sys.executable, "-m", "kernlb", "--netns", gateway, *state]
        places = Places(namespace=gateway, run=Path(scratch), state=Path(scratch))
        with Path(scratch, "log").open("w") as log:
            daemon = subprocess.Popen([*kernlb, "run", str(file)], stderr=log)
        try:
            client = ControlClient(places.control)
            _until_it_serves(client)
            yield client, places
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE)
            subprocess.run([*kernlb, "clear"], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)


def _until_it_serves(client: ControlClient) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if client.status()["daemon"]["reconciled"]:
                return
        except KernlbError:
            pass
        time.sleep(0.1)
    raise SystemExit("the daemon does not serve")


def _configuration(services: int) -> str:
    lines = ["[engine]", 'default = "xdp"', "[defaults]", 'scheduler = "maglev"', 'forwarding = "fullnat"']
    for service in range(services):
        lines += [f"[service.s{service}]", f'bind = ["203.0.113.{service + 1}:80"]', f"[service.s{service}.servers]"]
        lines += [f'r{n} = "{IPv4Address("10.9.0.1") + n}:80"' for n in range(SERVERS)]
    return "\n".join([*lines, ""])
