"""How much of its weight a server gets after it came back: more by steps. No clock: seconds in, a share out.

HAProxy's `slowstart` is linear from nothing; here as there it does not apply to servers that never were down.
"""

from math import floor

STEPS = 10
"""A change of weight is a write to the kernel: no more than so many a start."""


def share(elapsed: float, duration: float) -> float:
    """0.1..1 of the weight, `elapsed` seconds after the server came back."""
    if elapsed >= duration:
        return 1.0
    return max(1, floor(max(0.0, elapsed) / duration * STEPS + 1e-9)) / STEPS


def next_step(elapsed: float, duration: float) -> float | None:
    """Seconds after the return at which the share next grows; None where it is whole."""
    if elapsed >= duration:
        return None
    done = max(1, floor(max(0.0, elapsed) / duration * STEPS + 1e-9))
    return duration * (done + 1) / STEPS
