"""The ambient capabilities of the calling thread (capabilities(7)): what a unit grants, and programs would inherit."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# linux/prctl.h
PR_CAP_AMBIENT = 47
IS_SET, RAISE, CLEAR_ALL = 1, 2, 4
LAST = 64
# linux/capability.h
KILL, SETGID, SETUID = 5, 6, 7

BECOME = "its unit needs CAP_SETUID, CAP_SETGID and CAP_KILL (kernlb render kernlb.service FILE gives them)"


def may_become_others() -> bool:
    """Whether this process may start a program as another user, and end it."""
    effective = int(Path("/proc/thread-self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    return all(effective >> number & 1 for number in (KILL, SETGID, SETUID))


@contextmanager
def withheld() -> Iterator[None]:
    """A program that this thread starts meanwhile has none of them. What root has without them, it keeps."""
    prctl = ctypes.CDLL(None).prctl
    held = [number for number in range(LAST) if prctl(PR_CAP_AMBIENT, IS_SET, number, 0, 0) == 1]
    if held:
        prctl(PR_CAP_AMBIENT, CLEAR_ALL, 0, 0, 0)
    try:
        yield
    finally:
        for number in held:
            prctl(PR_CAP_AMBIENT, RAISE, number, 0, 0)
