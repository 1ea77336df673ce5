"""Twelve real servers on three machines, a daemon over them, and faults at random that follow from a seed."""

import asyncio
import gc
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path

from bench.soak.real_servers import TRANSPORT, Fault, serve
from kernlb.cli import load
from kernlb.control_client import ControlClient
from kernlb.demo.director import Director, await_that
from kernlb.demo.http import Tally, fetch
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS, Lab, lab
from kernlb.errors import KernlbError

INTERVAL, TIMEOUT, RISE, FALL = 0.2, 0.3, 2, 3
PATIENCE = 20.0
CAUSE = FALL * (INTERVAL + TIMEOUT) + 1.0
"""Seconds before a verdict within which its cause has to lie."""
ACTION = (0.02, 0.4)  # seconds between two faults
_PORTS = {"web": (8001, 8002), "raw": (8003, 8004)}
_VIP = {"web": 80, "raw": 81}
_CHECKS = {"web": 'type = "http", path = "/"', "raw": 'type = "tcp"'}
_SERVER = re.compile(r"^(\S+) level=\w+ event=server service=(\w+) server=([\w-]+) was=(\w+) now=(\w+)", re.MULTILINE)

Name = tuple[str, str]
"""A service, and a server of it."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of the daemon: open descriptors, threads, tasks of its loop, objects, and resident memory in MiB."""

    descriptors: int
    threads: int
    tasks: int
    objects: int
    memory: float


class Scene:
    def __init__(self, built: Lab, director: Director, control: ControlClient, daemon: int, *, seed: int) -> None:
        self._lab = built
        self._director = director
        self._control = control
        self._daemon = daemon
        self._chance = random.Random(seed)
        self._machines = {name: self._machine(name) for name in SERVERS}
        self.faults: dict[Name, Fault] = {}
        self._history: dict[Name, list[tuple[float, bool]]] = {}
        for name in servers():
            self._history[name] = [(0.0, False)]
            self._put(name, Fault.NONE)

    def _machine(self, name: str) -> Connection:
        here, there = multiprocessing.Pipe()
        self._lab.start(name, serve, there, name, SERVERS[name])
        there.close()
        return here

    def flap(self, seconds: float) -> int:
        """One server after the other gets another fault, or none. How many did."""
        until, count = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            name = self._chance.choice(servers())
            self._put(name, self._chance.choice(TRANSPORT if name[0] == "raw" else tuple(Fault)))
            time.sleep(self._chance.uniform(*ACTION))
            count += 1
        return count

    def _put(self, name: Name, fault: Fault) -> None:
        machine, _, port = name[1].rpartition("-")
        orders = self._machines[machine]
        # Either may be what a probe meets meanwhile.
        self._history[name].append((time.time(), fault is Fault.NONE))
        orders.send((int(port), str(fault)))
        if not orders.poll(PATIENCE):
            raise KernlbError(f"{machine} of the soak does not answer")
        orders.recv()
        self.faults[name] = fault
        self._history[name].append((time.time(), fault is Fault.NONE))

    @property
    def model(self) -> dict[Name, str]:
        return {name: "up" if fault is Fault.NONE else "down" for name, fault in self.faults.items()}

    def statuses(self) -> dict[Name, str]:
        found = self._control.status()["services"]
        return {(service["name"], row["name"]): row["status"] for service in found for row in service["servers"]}

    def in_kernel(self) -> set[Name]:
        """The servers that take new connections."""
        found = self._director.ask("show")["services"]
        names = {(SERVERS[m], int(p)): (s, f"{m}-{p}") for s, n in servers() for m, _, p in [n.rpartition("-")]}
        return {names[row["address"], row["port"]] for each in found for row in each["servers"] if row["weight"]}

    def settled(self) -> bool:
        """Whether the daemon's states and the kernel's servers become what the model says, in time."""
        try:
            await_that(lambda: self.statuses() == self.model, "not as the model says", seconds=PATIENCE)
            living = {name for name, status in self.model.items() if status == "up"}
            await_that(lambda: self.in_kernel() == living, "not in the kernel", seconds=PATIENCE)
        except KernlbError as error:
            print(f"soak: {error}: model {self.model}, status {self.statuses()}", file=sys.stderr)
            return False
        return True

    def failed_requests(self, count: int) -> int:
        """Of so many to each service that has a living server."""
        failed = 0
        for service in {name[0] for name, status in self.model.items() if status == "up"}:
            asked = self._lab.ask("client", fetch, DIRECTOR_FRONT, _VIP[service], count, 4)
            tally: Tally = asked.value(timeout=60)
            if tally.failed:
                print(f"soak: {service}: failed {dict(tally.failed)}, answered {tally.split}", file=sys.stderr)
            failed += tally.failed.total()
        return failed

    def reload(self) -> None:
        self._control.ask("POST", "/reload")

    def transitions(self) -> list[tuple[float, Name, str]]:
        """Of servers up and down, as the daemon told them: when, who, and what it is now."""
        log = (self._director.directory / f"err.{self._daemon}").read_text()
        return [
            (datetime.fromisoformat(at).timestamp(), (service, server), now)
            for at, service, server, _, now in _SERVER.findall(log)
        ]

    def without_cause(self) -> list[tuple[float, Name, str]]:
        """Transitions before which the server was not, at any time, what it was then said to be."""
        return [each for each in self.transitions() if not self._caused(*each)]

    def _caused(self, at: float, name: Name, now: str) -> bool:
        history = self._history[name]
        before = [well for when, well in history if when < at - CAUSE][-1:]
        return (now == "up") in [*before, *(well for when, well in history if at - CAUSE <= when <= at)]

    def size(self) -> Size:
        """The least of some looks: sockets of probes come and go."""
        looks = []
        for _ in range(10):
            time.sleep(0.05)
            looks.append(len(list(Path(f"/proc/{self._daemon}/fd").iterdir())))
        told = self._director.directory / f"size.{self._daemon}"
        told.unlink(missing_ok=True)
        os.kill(self._daemon, signal.SIGUSR1)
        await_that(told.exists, "the daemon does not tell its size", seconds=PATIENCE)
        tasks, objects = map(int, told.read_text().split())
        status = Path(f"/proc/{self._daemon}/status").read_text()
        memory = int(status.partition("VmRSS:")[2].split()[0]) / 1024
        return Size(min(looks), len(list(Path(f"/proc/{self._daemon}/task").iterdir())), tasks, objects, memory)


def servers() -> list[Name]:
    return [
        (service, f"{machine}-{port}") for service, ports in _PORTS.items() for machine in SERVERS for port in ports
    ]


def configuration() -> str:
    parts = []
    for service, ports in _PORTS.items():
        listed = "".join(f'{m}-{port} = "{address}:{port}"\n' for m, address in SERVERS.items() for port in ports)
        parts.append(
            f'[service.{service}]\nbind = ["{DIRECTOR_FRONT}:{_VIP[service]}"]\nforwarding = "fullnat"\n'
            f'check = {{ {_CHECKS[service]}, interval = "{INTERVAL:g}s", timeout = "{TIMEOUT:g}s", '
            f"rise = {RISE}, fall = {FALL} }}\n[service.{service}.servers]\n{listed}"
        )
    return "".join(parts)


@contextmanager
def staged(directory: Path, *, seed: int) -> Iterator[Scene]:
    """The network, its servers, and the daemon; nothing of it is left."""
    with lab() as built:
        director = Director(built, directory, _telling(load(), directory))
        file = directory / "kernlb.toml"
        file.write_text(configuration())
        with director.daemon(file) as daemon:
            yield Scene(built, director, daemon.client, daemon.answer.pid, seed=seed)
        director.call("clear")


def _telling(program: Callable[[], None], directory: Path) -> Callable[[], None]:
    """The program, which tells the size of its loop and heap on SIGUSR1."""

    def tell(*_: object) -> None:
        gc.collect()
        told = directory / f"size.{os.getpid()}"
        fresh = told.with_suffix(".fresh")
        fresh.write_text(f"{len(asyncio.all_tasks())} {len(gc.get_objects())}")
        fresh.rename(told)

    def run() -> None:
        signal.signal(signal.SIGUSR1, tell)
        program()

    return run
