"""What a process and its children have used: processor and memory, as /proc says."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGESIZE")


def processor_seconds(pid: int) -> float:
    """In user and kernel mode, since they were started; of children that have ended too."""
    return sum(sum(map(int, stat[11:15])) for stat in _family(pid)) / TICKS


def memory_bytes(pid: int) -> int:
    """Resident."""
    return sum(int(stat[21]) for stat in _family(pid)) * PAGE


def _family(pid: int) -> Iterator[list[str]]:
    """What is said of each."""
    yield _stat(pid)
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            # One that has just ended is counted with its parent.
            with suppress(FileNotFoundError, ProcessLookupError):
                yield from _family(int(child))


def _stat(pid: int) -> list[str]:
    """From the process's state on: field 3 of proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
