"""The program's clock: ticks of 2^TICK_SHIFT jiffies, about a second each, and what they are in seconds."""

import time
from math import log2

import numpy as np
from numpy.typing import NDArray

HZ = round(1 / time.clock_getres(getattr(time, "CLOCK_MONOTONIC_COARSE", 6)))
"""The kernel's: its coarse clock advances once a jiffy."""

TICK_SHIFT = max(0, round(log2(HZ)))
TICK = 2.0**TICK_SHIFT / HZ
_INITIAL_JIFFIES = (1 << 32) - 300 * HZ  # linux/jiffies.h, as a 64-bit kernel counts


def now() -> int:
    """The tick that it is, to within one."""
    return (_INITIAL_JIFFIES + int(time.monotonic() * HZ) >> TICK_SHIFT) & 0xFFFFFFFF


def seconds_of(ticks: NDArray[np.uint32], *, now: float) -> NDArray[np.float64]:
    """Monotonic seconds of ticks that were; 0 is never."""
    ago = np.uint32(_tick(now)) - ticks
    return np.where(ticks == 0, -np.inf, now - ago.astype(np.int32) * TICK)


def _tick(seconds: float) -> int:
    return (_INITIAL_JIFFIES + int(seconds * HZ) >> TICK_SHIFT) & 0xFFFFFFFF
