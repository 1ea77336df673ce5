"""Programs that are killed with everything they started, even what left their process group and session.

Each program leads a session and carries a token in its environment. This process adopts orphans (PR_SET_CHILD_SUBREAPER,
prctl(2)), so what a program leaves behind becomes our child and is found. Nothing else here may start sessions.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
ROUNDS = 8  # a killed program may have forked meanwhile


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    session: int
    ended: bool


class Household:
    """The programs of one process."""

    variable = "KERNLB_CHECK"

    def __init__(self) -> None:
        self._tokens: dict[int, str] = {}  # of the programs that run, by pid
        self._adopting = False

    def start(
        self, argv: Sequence[str], *, environment: Mapping[str, str], user: int | None, group: int | None
    ) -> "subprocess.Popen[bytes]":
        """Output and errors come through one pipe. Raises OSError."""
        if not self._adopting:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            self._adopting = True
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            start_new_session=True,
            bufsize=0,
        )
        self._tokens[process.pid] = environment.get(self.variable, "")
        return process

    def clear_out(self, process: "subprocess.Popen[bytes]", token: str) -> None:
        """Kills the program and all that it started, and reaps them."""
        for _ in range(ROUNDS):
            victims = self._family(process, token)
            if not victims:
                break
            for victim in victims:
                _kill(victim.pid)
            for victim in victims:
                if victim.pid != process.pid:
                    _reap(victim.pid)
        # SIGKILL spares nobody, but the end of a process in uninterruptible sleep is not waited for.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
        self._tokens.pop(process.pid, None)

    def _family(self, process: "subprocess.Popen[bytes]", token: str) -> list[_Process]:
        """What still lives of a program, and the orphans that no other running program owns."""
        found = (
            []
            if process.poll() is not None
            else [*_descendants(process.pid), _Process(process.pid, process.pid, False)]
        )
        others = {pid for pid in self._tokens if pid != process.pid}
        other_tokens = {self._tokens[pid] for pid in others}
        ours = os.getsid(0)
        for child in _children(os.getpid()):
            foreign = child.session == ours or child.pid in self._tokens or child.session in others
            if not foreign and _token(child.pid, self.variable) not in other_tokens:
                found += [*_descendants(child.pid), child]
        return found


def _descendants(pid: int) -> list[_Process]:
    found: list[_Process] = []
    queue = [pid]
    while queue:
        children = _children(queue.pop())
        found += children
        queue += [child.pid for child in children]
    return [process for process in found if not process.ended]


def _children(pid: int) -> list[_Process]:
    """Of all its threads."""
    pids: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            pids += map(int, (task / "children").read_text().split())
    return [process for process in map(_look, pids) if process is not None]


def _look(pid: int) -> _Process | None:
    try:
        # The name in parentheses may hold anything; the fields after it are state, ppid, pgrp, session.
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except (OSError, ValueError):
        return None
    return _Process(pid, int(session), state == "Z")


def _token(pid: int, variable: str) -> str | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    prefix = variable.encode() + b"="
    return next(
        (
            each[len(prefix) :].decode("ascii", "replace")
            for each in environment.split(b"\0")
            if each.startswith(prefix)
        ),
        None,
    )


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _reap(pid: int) -> None:
    """Children of ours at once; a grandchild becomes one in the next round."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
