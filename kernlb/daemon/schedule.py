"""When the daemon looks again although nothing has happened. Pure: seconds from now."""

LEAVING = 0.5  # between looks at servers that leave
DRAINING = 1.0
FULL = 60.0  # between readings of everything


def next_look(*, leaving: bool, draining: bool, change: float | None, note: float | None) -> float:
    """`change`: seconds until a pool changes by itself; `note`: until health may be written down again."""
    seconds = LEAVING if leaving else FULL
    if draining:
        seconds = min(seconds, DRAINING)
    if change is not None:
        seconds = min(seconds, max(0.05, change))
    return seconds if note is None else min(seconds, note + 0.05)
