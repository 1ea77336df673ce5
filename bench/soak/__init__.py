"""Ten minutes of real servers that flap at random: whether states are true, and whether the daemon grows.

Twelve servers on three machines behind the running kernel's engine, each refusing, silent, failing, stuck or well by a
script with a fixed seed. Time and again the flapping pauses: then states, kernel and real requests have to agree with
the model, and the daemon is measured. KERNLB_SOAK=60 makes it a minute.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.harness import Comparison, Count, Report, Series, machine
from bench.soak.scene import Size, servers, staged

SEED = 20240229
SECONDS = float(os.environ.get("KERNLB_SOAK", "600"))
FLAPPING = 10.0
REQUESTS = 20
GROWTH = 1.05

Progress = Callable[[str], None]


@dataclass(slots=True)
class Found:
    """`pauses` are the sizes of the daemon, pause by pause."""

    faults: int = 0
    transitions: int = 0
    untrue: int = 0
    uncaused: int = 0
    failed: int = 0
    pauses: list[Size] = field(default_factory=list)


def run(rounds: int, progress: Progress) -> Report:
    """One round, whatever is asked for: it is long."""
    with tempfile.TemporaryDirectory() as directory:
        found = soak(Path(directory), seconds=SECONDS, progress=progress)
    early, late = quarters(found.pauses)
    comparisons = (
        _growth("memory, resident", "MiB", [each.memory for each in early], [each.memory for each in late]),
        _growth("objects", "", [each.objects for each in early], [each.objects for each in late]),
    )
    counts = (
        Count(f"pauses of {len(found.pauses)} in which states or kernel were not as the model says", found.untrue, 0),
        Count(f"changes of state of {found.transitions} without a cause in {found.faults} faults", found.uncaused, 0),
        Count(f"requests failed in the pauses, of {REQUESTS} a service and pause", found.failed, 0),
        Count("descriptors more than early on and probes explain", grown(early, late, "descriptors"), 0),
        Count("threads more than early on", grown(early, late, "threads"), 0),
        Count("tasks more than early on and probes explain", grown(early, late, "tasks"), 0),
    )
    return Report("soak", comparisons, counts, machine())


def soak(
    directory: Path,
    *,
    seconds: float = 0.0,
    pauses: int = 4,
    flapping: float = FLAPPING,
    progress: Progress = lambda line: None,
) -> Found:
    """For so long, and for so many pauses at least, with `flapping` seconds between two."""
    found, until = Found(), time.monotonic() + seconds
    with staged(directory, seed=SEED) as scene:
        scene.settled()
        while time.monotonic() < until or len(found.pauses) < pauses:
            found.faults += scene.flap(flapping)
            found.untrue += not scene.settled()
            found.failed += scene.failed_requests(REQUESTS)
            scene.reload()
            found.pauses.append(scene.size())
            progress(
                f"soak: {max(0.0, until - time.monotonic()):.0f} s left, {found.faults} faults, {found.pauses[-1]}"
            )
        found.transitions, found.uncaused = len(scene.transitions()), len(scene.without_cause())
    return found


def quarters(pauses: list[Size]) -> tuple[list[Size], list[Size]]:
    """The second quarter, when all that is made once has been made, and the last."""
    quarter = max(1, len(pauses) // 4)
    return pauses[quarter : 2 * quarter], pauses[-quarter:]


def grown(early: list[Size], late: list[Size], what: str) -> int:
    """By how much the least of late exceeds the most of early, a probe of each server under way set apart."""
    under_way = len(servers()) if what in ("descriptors", "tasks") else 0
    least, most = (choose(getattr(each, what) for each in of) for choose, of in ((min, late), (max, early)))
    return max(0, least - most - under_way)


def _growth(title: str, unit: str, early: list[float], late: list[float]) -> Comparison:
    series = (Series("second quarter", (median(early),)), Series("last quarter", (median(late),)))
    return Comparison(title, unit, series, baseline="second quarter", budget=GROWTH, held=("last quarter",))
