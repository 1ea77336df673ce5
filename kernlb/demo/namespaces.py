"""The demo's little network: namespaces, the wires between them, and processes inside. It takes all of it away again.

client 192.0.2.10 -- 192.0.2.1 director 10.0.0.254 -- 10.0.0.1, .2, .3: one wire to each real server
"""

import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from kernlb.errors import Unsupported
from kernlb.places import NETNS_DIRECTORY, Places, enter

CLIENT = "192.0.2.10"
DIRECTOR_FRONT = "192.0.2.1"
DIRECTOR_BACK = "10.0.0.254"
SERVERS = {"server1": "10.0.0.1", "server2": "10.0.0.2", "server3": "10.0.0.3"}
_PREFIX = "kernlb-demo-"

# Forking costs a fraction of a fresh interpreter, which matters on a slow machine.
_fork = multiprocessing.get_context("fork")


class Lab:
    """Namespaces are called kernlb-demo-PID-PART, so that two demos do not meet and a dead one is recognised."""

    def __init__(self) -> None:
        self._tag = f"{_PREFIX}{os.getpid()}-"
        self._processes: list[BaseProcess] = []

    def namespace(self, part: str) -> str:
        return self._tag + part

    def build(self) -> None:
        parts = ["client", "director", *SERVERS]
        _ip([f"netns add {self.namespace(part)}" for part in parts])
        for part in parts:
            self.ip(part, ["link set lo up"])
        self._wire("client", CLIENT, "front", DIRECTOR_FRONT)
        for name, address in SERVERS.items():
            # Real servers get no route beyond the director: only full NAT lets them answer.
            self._wire(name, address, name, DIRECTOR_BACK)

    def ip(self, part: str, lines: Sequence[str]) -> None:
        _ip(lines, namespace=self.namespace(part))

    def start(self, part: str, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        """Run a function in a process of its own inside a namespace, until it returns or the lab ends."""
        process = _fork.Process(target=_inside, args=(self.namespace(part), target, arguments), daemon=True)
        process.start()
        # Each that is kept costs a descriptor, the ended ones too.
        self._processes = [*(each for each in self._processes if each.is_alive()), process]
        return process

    def ask(self, part: str, target: Callable[..., None], *arguments: Any) -> "Answer":
        """Like `start`, for a function that takes a Connection first and sends its result through it."""
        here, there = _fork.Pipe(duplex=False)
        answer = Answer(here, self.start(part, target, there, *arguments))
        there.close()
        return answer

    def destroy(self) -> None:
        for process in self._processes:
            if process.is_alive():
                process.kill()
            process.join()
        for path in NETNS_DIRECTORY.glob(f"{self._tag}*"):
            _forget(path.name)
        _ip([f"netns del {path.name}" for path in NETNS_DIRECTORY.glob(f"{self._tag}*")])

    def _wire(self, part: str, address: str, director_end: str, director_address: str) -> None:
        far, director = self.namespace(part), self.namespace("director")
        _ip([f"link add eth0 netns {far} type veth peer name {director_end} netns {director}"])
        self.ip(part, [f"addr add {address}/32 dev eth0", "link set eth0 up", f"route add {director_address} dev eth0"])
        self.ip(
            "director",
            [
                f"addr add {director_address}/32 dev {director_end}",
                f"link set {director_end} up",
                f"route add {address} dev {director_end} src {director_address}",
            ],
        )


class Answer:
    """A result that another process will send. `value` waits for it; EOFError where the process died first."""

    def __init__(self, connection: Connection, process: BaseProcess) -> None:
        self._connection = connection
        self._process = process
        self.pid = process.pid or 0

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def value(self, *, timeout: float) -> Any:
        if not self._connection.poll(timeout):
            raise TimeoutError(f"no answer within {timeout:g} s")
        try:
            return self._connection.recv()
        finally:
            self._connection.close()
            self._process.join()


@contextmanager
def lab() -> Iterator[Lab]:
    """A built Lab; destroyed at the end, whatever happens. What dead demos left behind goes first."""
    _sweep()
    built = Lab()
    try:
        built.build()
        yield built
    finally:
        built.destroy()


def _inside(namespace: str, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    enter(namespace)
    try:
        target(*arguments)
    except KeyboardInterrupt:
        os._exit(130)


def _sweep() -> None:
    dead = []
    for path in NETNS_DIRECTORY.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            _forget(path.name)
            dead.append(f"netns del {path.name}")
    _ip(dead)


def _forget(namespace: str) -> None:
    """What is pinned in the BPF file system outlives its namespace."""
    shutil.rmtree(Places(namespace=namespace).pins, ignore_errors=True)


def _ip(lines: Sequence[str], *, namespace: str | None = None) -> None:
    if not lines:
        return
    command = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
    try:
        done = subprocess.run(command, input="\n".join(lines) + "\n", text=True, capture_output=True, timeout=60)
    except FileNotFoundError as error:
        raise Unsupported("the demo needs the ip command", hint="apt install iproute2") from error
    if done.returncode:
        raise Unsupported(f"cannot build the demo's network: {done.stderr.strip()}", hint="run as root")
