"""The processor time of this whole machine, where it is a process of another machine, which counts it.

A kernel that counts in ticks, as User Mode Linux does, misses what ends between two of them.
"""

import os
import tty
from pathlib import Path

from tests.vm.uml import CLOCK


def told() -> bool:
    return CLOCK in os.environ


def seconds() -> float:
    """Since the machine was started, by the clock of the one that it runs on."""
    with Path(os.environ[CLOCK]).open("r+b", buffering=0) as terminal:
        tty.setraw(terminal)
        terminal.write(b"\n")
        return float(terminal.readline())
