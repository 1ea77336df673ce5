"""What a process and its children have used: processor and memory, as /proc says."""

import os
from collections.abc import Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGESIZE")


def processor_seconds(pid: int) -> float:
    """In user and kernel mode, since they were started; of children that have ended too."""
    return sum(sum(map(int, _stat(each)[11:15])) for each in _family(pid)) / TICKS


def memory_bytes(pid: int) -> int:
    """Resident."""
    return sum(int(_stat(each)[21]) for each in _family(pid)) * PAGE


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))


def _stat(pid: int) -> list[str]:
    """From the process's state on: field 3 of proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
