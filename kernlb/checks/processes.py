"""Programs that are killed with everything they started, even what left their process group and session.

Each program leads a session and carries a token in its environment. This process adopts orphans
(PR_SET_CHILD_SUBREAPER, prctl(2)), so what a program leaves behind becomes our child and is found. Nothing else in this
process may start sessions.
"""

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
ROUNDS = 10  # a killed program may have forked meanwhile


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    session: int
    ended: bool


class Household:
    """The programs of one process."""

    variable = "KERNLB_CHECK"

    def __init__(self) -> None:
        self._tokens: dict[int, str] = {}  # of the programs that run, by pid
        self._adopting = False
        self._lock = threading.Lock()  # a program between fork and registration would look like an orphan

    def start(
        self, argv: Sequence[str], *, environment: Mapping[str, str], user: int | None, group: int | None
    ) -> "subprocess.Popen[bytes]":
        """Output and errors come through one pipe. Raises OSError."""
        with self._lock:
            return self._started(argv, environment, user, group)

    def _started(
        self, argv: Sequence[str], environment: Mapping[str, str], user: int | None, group: int | None
    ) -> "subprocess.Popen[bytes]":
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

    def clear_out(self, process: "subprocess.Popen[bytes]") -> None:
        """Kills the program and all that it started, and reaps them. Blocks for some milliseconds."""
        for _ in range(ROUNDS):
            with self._lock:
                living = self._family(process)
                for each in living:
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(each.pid, signal.SIGKILL)
            if not living:
                break
            time.sleep(0.002)  # for the killed to become zombies, and their children ours
        # SIGKILL spares nobody, but the end of an uninterruptible sleep is not waited for.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
        self._tokens.pop(process.pid, None)

    def _family(self, process: "subprocess.Popen[bytes]") -> list[_Process]:
        """What lives of a program, and the orphans that no other running program owns; those that ended are reaped."""
        everybody = _census()
        children: dict[int, list[_Process]] = defaultdict(list)
        for each in everybody:
            children[each.parent].append(each)
        us, ours = os.getpid(), os.getsid(0)
        others = {pid: token for pid, token in self._tokens.items() if pid != process.pid}
        family = [each for each in children[us] if each.pid == process.pid]
        for child in children[us]:
            known = child.session == ours or child.pid in self._tokens or child.session in others
            if known or _token(child.pid, self.variable) in others.values():
                continue
            family.append(child)
            if child.ended:
                with suppress(ChildProcessError):
                    os.waitpid(child.pid, os.WNOHANG)
        for each in family:  # grows as it goes
            family += children[each.pid]
        return [each for each in family if not each.ended]


def _census() -> list[_Process]:
    found = (_look(int(entry.name)) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [process for process in found if process is not None]


def _look(pid: int) -> _Process | None:
    try:
        # The name in parentheses may hold anything; the fields after it are state, parent, group, session.
        state, parent, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except (OSError, ValueError):
        return None
    return _Process(pid, int(parent), int(session), state == "Z")


def _token(pid: int, variable: str) -> str:
    """Empty where there is none."""
    prefix = variable.encode() + b"="
    with suppress(OSError):
        for each in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if each.startswith(prefix):
                return each[len(prefix) :].decode("ascii", "replace")
    return ""
