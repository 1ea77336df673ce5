"""The director of the demo: kernlb itself, called as its user calls it, inside the director's namespace.

Each call is a process of its own, forked rather than started anew: it has loaded already what a fresh interpreter
would load for each call, which takes seconds on an emulated machine.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kernlb.control_client import ControlClient
from kernlb.demo.namespaces import Answer, Lab
from kernlb.errors import KernlbError

_PATIENCE = 200.0
_PAUSE = 0.05
_CRASHED = 70  # EX_SOFTWARE of sysexits.h


@dataclass(frozen=True, slots=True)
class Said:
    """What one call of kernlb answered."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running `kernlb run`, asked through its control socket."""

    client: ControlClient
    answer: Answer

    @property
    def serves(self) -> bool:
        return self.client.serves()

    def servers(self) -> dict[str, dict[str, Any]]:
        """What `kernlb status` says of each server of the only service."""
        (service,) = self.client.status()["services"]
        return {row["name"]: row for row in service["servers"]}

    def statuses(self) -> dict[str, str]:
        return {name: row["status"] for name, row in self.servers().items()}


def await_that(true: Callable[[], bool], otherwise: str, *, seconds: float = 60.0) -> float:
    """Ask again until it is so; how many seconds that took. Raises KernlbError when the time is up."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            raise KernlbError(f"{otherwise} within {seconds:g} s")
        time.sleep(_PAUSE)
    return time.monotonic() - began


class Director:
    """Runs `kernlb VERB` in the director's namespace, with lock and state in a directory of its own.

    `program` is the console script; it ends by SystemExit.
    """

    def __init__(self, lab: Lab, directory: Path, program: Callable[[], None]) -> None:
        self.lab = lab
        self.directory = directory
        self._program = program
        for module in ("kernlb.formats.haproxy", "kernlb.config.border"):
            import_module(module)

    def begin(self, *arguments: str) -> Answer:
        """Start kernlb; the answer is what it Said."""
        places = ["--run-dir", str(self.directory / "run"), "--state-dir", str(self.directory / "state")]
        return self.lab.ask("director", _kernlb, self._program, self.directory, [*places, *arguments])

    @contextmanager
    def daemon(self, file: Path) -> Iterator[Daemon]:
        """`kernlb run FILE`, until the end of the block; what it wrote stays in the kernel."""
        answer = self.begin("run", str(file))
        place = self.directory / "run" / self.lab.namespace("director") / "control.sock"
        daemon = Daemon(ControlClient(place, timeout=30.0), answer)
        try:
            await_that(lambda: daemon.serves or not answer.alive, "the daemon did not start", seconds=_PATIENCE)
            if answer.alive:
                yield daemon
        finally:
            if answer.alive:
                os.kill(answer.pid, signal.SIGTERM)
        ended: Said = answer.value(timeout=_PATIENCE)
        if ended.code:
            raise _unexpected(("run", str(file)), ended)

    def call(self, *arguments: str, allowed: tuple[int, ...] = (0,)) -> Said:
        """Raises KernlbError on any exit code that is not allowed."""
        said: Said = self.begin(*arguments).value(timeout=_PATIENCE)
        if said.code not in allowed:
            raise _unexpected(arguments, said)
        return said

    def ask(self, *arguments: str) -> Any:
        """The JSON that a verb prints."""
        return self.call(*arguments, "--json").document


def _unexpected(arguments: Sequence[str], said: Said) -> KernlbError:
    return KernlbError(
        f"kernlb {' '.join(arguments)} exited {said.code}: {(said.err or said.out).strip()}",
        hint="this should not happen; please report it with the text above",
    )


def _kernlb(result: Connection, program: Callable[[], None], directory: Path, arguments: list[str]) -> None:
    """The program, its streams in files."""
    files = [directory / f"{stream}.{os.getpid()}" for stream in ("out", "err")]
    for number, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["kernlb", *arguments]
    code: object = 0
    try:
        program()
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        traceback.print_exc()
        code = _CRASHED
    sys.stdout.flush()
    sys.stderr.flush()
    result.send(Said(code if isinstance(code, int) else 0, *(path.read_text() for path in files)))
