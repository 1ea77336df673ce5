"""Programs that are killed with everything they started, even what left their process group, session and environment.

This process adopts orphans (PR_SET_CHILD_SUBREAPER, prctl(2)), so what a program leaves behind becomes our child.
Whose it was is told by an inherited mark that nothing else uses: the soft limit of POSIX message queues
(RLIMIT_MSGQUEUE, getrlimit(2)).
"""

import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kernlb.checks.privileges import withheld

PR_SET_CHILD_SUBREAPER = 36
MARKS = 800_000  # below the usual limit of 819,200 bytes
STAT = 1024  # bytes of /proc/PID/stat that hold what is asked of it
ROUNDS = 10  # a killed program may have forked meanwhile


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    session: int
    ended: bool


class Household:
    """The programs of one process."""

    def __init__(self) -> None:
        self._marks: dict[int, int] = {}  # of the programs that run, by pid
        self._count = 0
        self._adopting = False
        self._lock = threading.Lock()  # while a program starts, the mark is our own
        self._clearing = threading.Lock()  # one at a time: who starts a program waits for no more than that one
        self._children: defaultdict[int, list[_Process]] = defaultdict(list)  # of everybody, by parent
        self._looked = 0.0  # when they were looked for, monotonic

    def start(
        self, argv: Sequence[str], *, environment: Mapping[str, str], user: int | None, group: int | None
    ) -> "subprocess.Popen[bytes]":
        """Output and errors come through one pipe. Raises OSError."""
        with self._lock:
            if not self._adopting:
                ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
                self._adopting = True
            soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
            highest = MARKS if hard == resource.RLIM_INFINITY else min(hard, MARKS)
            self._count += 1
            mark = 1 + self._count % max(highest - 1, 1)
            resource.setrlimit(resource.RLIMIT_MSGQUEUE, (min(mark, highest), hard))
            try:
                with withheld():
                    process = _started(argv, environment, user, group)
            finally:
                resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, hard))
            self._marks[process.pid] = mark
            return process

    def clear_out(self, process: "subprocess.Popen[bytes]") -> None:
        """Kills the program and all that it started, and reaps them. Blocks for some milliseconds."""
        for _ in range(ROUNDS):
            now = time.monotonic()
            with self._clearing, self._lock:
                self._look_again(since=now)
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
        self._marks.pop(process.pid, None)

    def _look_again(self, *, since: float) -> None:
        """Programs that end together look once."""
        if self._looked < since:
            self._looked = time.monotonic()
            self._children = defaultdict(list)
            for each in _census():
                self._children[each.parent].append(each)

    def _family(self, process: "subprocess.Popen[bytes]") -> list[_Process]:
        """What lives of a program: itself, the orphans with its mark, and their descendants. The ended are reaped."""
        children = self._children
        mark = self._marks.get(process.pid)
        family: list[_Process] = []
        for child in children[os.getpid()]:
            if child.pid == process.pid:
                family.append(child)
            elif child.session == process.pid or (child.session != os.getsid(0) and _mark(child.pid) == mark):
                family.append(child)
                if child.ended:
                    with suppress(ChildProcessError):
                        os.waitpid(child.pid, os.WNOHANG)
        for each in family:  # grows as it goes
            family += children[each.pid]
        return [each for each in family if not each.ended]


def _census() -> list[_Process]:
    found = (_look(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [process for process in found if process is not None]


def _look(pid: str) -> _Process | None:
    # Without a file object: this is done for every process of the machine, whenever a program ends.
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            line = os.read(descriptor, STAT)
        finally:
            os.close(descriptor)
        # The name in parentheses may hold anything; the fields after it are state, parent, group, session.
        state, parent, _, session = line.rpartition(b")")[2].split(None, 4)[:4]
    except (OSError, ValueError):
        return None
    return _Process(int(pid), int(parent), int(session), state == b"Z")


def _mark(pid: int) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        limits = Path(f"/proc/{pid}/limits").read_text()
        return int(limits.partition("Max msgqueue size")[2].split()[0])
    return None


def _started(
    argv: Sequence[str], environment: Mapping[str, str], user: int | None, group: int | None
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
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
