"""What the acts of the demo play on: the network, the director, its real servers, and clients that ask."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar

from kernlb.demo.director import Director, await_that
from kernlb.demo.http import Delay, Tally, fetch, keep_busy, serve
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS, Answer, Lab
from kernlb.demo.steady import Sample, ask_steadily

Found = TypeVar("Found")

PORT = 80
LONG = 120.0
_READY = 20.0
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`held` says whether the claim held; `figures` what was measured."""

    claim: str
    figures: str
    held: bool


class Load(Generic[Found]):
    """Requests under way in another process."""

    def __init__(self, answer: Answer, stop: Connection) -> None:
        self._answer = answer
        self._stop = stop

    def stop(self) -> Found:
        """What came of them."""
        self._stop.send(None)
        found: Found = self._answer.value(timeout=LONG)
        return found


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the acts play. `say` tells what is being done now."""

    lab: Lab
    director: Director
    directory: Path
    say: Callable[[str], None]
    processes: dict[str, BaseProcess] = field(default_factory=dict)
    delays: dict[str, Delay] = field(default_factory=dict)

    @property
    def original(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def changed(self) -> Path:
        return self.directory / "haproxy-changed.cfg"

    @property
    def watched(self) -> Path:
        return self.directory / "kernlb.toml"

    def start_servers(self, *names: str) -> None:
        """Returns once they answer the director."""
        for name in names:
            delay = self.delays.setdefault(name, multiprocessing.Value("d", 0.0))
            self.processes[name] = self.lab.start(name, serve, name, SERVERS[name], PORT, delay)
        for name in names:
            await_that(partial(self._answers, name), f"{name} of the demo did not start", seconds=_READY)

    def _answers(self, name: str) -> bool:
        return not self.requests(1, address=SERVERS[name], at="director").failed

    def kill_server(self, name: str) -> None:
        """Its machine stays, and answers connections by reset."""
        process = self.processes.pop(name)
        process.kill()
        process.join()

    def requests(self, count: int, *, address: str = DIRECTOR_FRONT, at: str = "client") -> Tally:
        """Each on a connection of its own."""
        tally: Tally = self.lab.ask(at, fetch, address, PORT, count, 4).value(timeout=LONG)
        return tally

    @contextmanager
    def load(self, *, parallel: int, lifetime: float) -> Iterator["Load[Tally]"]:
        """Keep-alive connections, each for `lifetime` seconds."""
        with self._loading(keep_busy, "client", DIRECTOR_FRONT, parallel, lifetime) as (answer, stop):
            yield Load(answer, stop)

    @contextmanager
    def steady_load(
        self, *, rate: float, patience: float = _PATIENCE, address: str = DIRECTOR_FRONT, at: str = "client"
    ) -> Iterator["Load[list[Sample]]"]:
        """New connections at a constant rate, each given up after `patience` seconds."""
        with self._loading(ask_steadily, at, address, rate, patience) as (answer, stop):
            yield Load(answer, stop)

    @contextmanager
    def _loading(
        self, client: Callable[..., None], at: str, address: str, *how: float
    ) -> Iterator[tuple[Answer, Connection]]:
        here: Connection
        here, there = multiprocessing.Pipe()
        try:
            yield self.lab.ask(at, client, there, address, PORT, *how), here
        finally:
            here.close()
