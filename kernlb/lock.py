"""One writer at a time: a lock file that names who holds it. The kernel drops the lock when its holder ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernlb.errors import Conflict, Unsupported

_POLL = 0.05


@contextmanager
def lock(path: Path, *, purpose: str, wait: float) -> Iterator[None]:
    """Hold the lock. Raises Conflict naming the holder after `wait` seconds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Unsupported(
            f"cannot open the lock: {error.strerror}", where=str(path), hint="run as root, or choose --run-dir"
        ) from error
    try:
        _acquire(descriptor, path, wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {purpose}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder(path: Path) -> str | None:
    """Who holds the lock now ("process 123 (run)"); None where nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _named(descriptor)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Conflict(
                    f"{_named(descriptor)} is changing this namespace; waited {wait:g} s",
                    where=str(path),
                    hint="wait longer with --wait, or end that process",
                ) from None
            time.sleep(_POLL)


def _named(descriptor: int) -> str:
    pid, _, purpose = os.pread(descriptor, 256, 0).decode(errors="replace").strip().partition(" ")
    return f"process {pid} (kernlb {purpose})" if pid else "another process"
