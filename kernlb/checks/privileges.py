"""The ambient capabilities of the calling thread (capabilities(7)): what a unit grants, and programs would inherit."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# linux/prctl.h
PR_CAP_AMBIENT = 47
IS_SET, RAISE, CLEAR_ALL = 1, 2, 4
LAST = 64


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
