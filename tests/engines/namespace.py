"""A network namespace for one test, entered by the test's own thread, so that no table of this machine is touched."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000


@contextmanager
def fresh_network() -> Iterator[None]:
    """With lo up. Whatever is started inside is inside."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(libc.unshare(CLONE_NEWNET))
        try:
            ip("link set lo up")
            yield
        finally:
            _check(libc.setns(before, CLONE_NEWNET))
    finally:
        os.close(before)


@contextmanager
def one_interface() -> Iterator[None]:
    """A fresh network with `front`, 10.7.255.254/16, whose far end is silent."""
    with fresh_network():
        for line in (
            "link add front type veth peer name far",
            # An address that is made and probed for by itself would be news, and one more place to hang at.
            "link set front addrgenmode none",
            "link set far addrgenmode none",
            "addr add 10.7.255.254/16 dev front",
            "link set front up",
            "link set far up",
        ):
            ip(line)
        yield


def ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True, timeout=30)


def _check(result: int) -> None:
    if result:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
