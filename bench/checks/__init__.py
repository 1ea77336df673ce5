"""10,000 targets checked by TCP every 2 s: processor, memory, punctuality, and how soon a dying hundredth is noticed.

All of kernlb, its checker alone, HAProxy and keepalived, each in a fresh network namespace: real listeners on loopback
addresses, every connection tracked. Punctuality is read off the wire, the same way for all: how late the next SYN to a
target comes after the interval. keepalived checks nothing without IPVS: where the kernel has none, its orders are only
taken for carried out, which can but make it cheaper. Before 2.3.2 it waits for an answer to each FIN; both are shown.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import clock
from bench.checks.peers import Farm, Peer, daemon, haproxy, keepalived, kernlb
from bench.checks.wire import Lateness, conntrack_entries, percentile, tracked
from bench.harness import Comparison, Count, Report, Series, machine
from kernlb.places import Places
from tests.features import Feature, absent
from tests.system.network import inside, namespaces

TARGETS = 10_000
DYING = TARGETS // 100

PROCESSOR, MEMORY, LATENESS = "processor, share of one core", "memory", "lateness of starts, 99th percentile"
NOTICED = "noticed in time"
LIVE, ALL = "live entries in conntrack", "entries in conntrack, expired ones too"
BUDGETS = {PROCESSOR: 25.0, MEMORY: 150.0, LATENESS: 100.0}
"""What kernlb may need at 10,000 targets, in every round."""
METRICS = {
    PROCESSOR: "%",
    MEMORY: "MiB",
    "lateness of starts, median": "ms",
    LATENESS: "ms",
    "lateness of starts, worst": "ms",
    "until half of the dying are noticed": "s",
    "until all of the dying are noticed": "s",
    NOTICED: f"of {DYING}",
    LIVE: "a target",
    ALL: "a target",
}

Progress = Callable[[str], None]
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Course:
    """The seconds that pass before anything is measured, while it is, and at most until all of the dying are noticed.
    `tracked`: whether connections are."""

    warm_up: float
    measured: float
    noticing: float
    tracked: bool


def run(rounds: int, progress: Progress) -> Report:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        peers = [daemon(place), kernlb(place), haproxy(place), keepalived(place), keepalived(place, lingers=False)]
        figures = compared(peers, Course(10.0, 12.0, 20.0, tracked=True), rounds, progress)
    ours = [each for name in ("kernlb", "kernlb's checker") for each in figures[name]]
    kept = (
        Count(f"rounds of kernlb with {title} beyond {most:g} {METRICS[title]}", sum(f[title] > most for f in ours), 0)
        for title, most in BUDGETS.items()
    )
    real = {} if absent(Feature.IPVS) is None else {"keepalived": "its orders to IPVS answered, not carried out"}
    return Report("checks", comparisons(figures), (unnoticed(ours), *kept), machine() | real)


def compared(peers: Sequence[Peer], course: Course, rounds: int, progress: Progress) -> dict[str, list[Figures]]:
    """What was found of each, round by round: the peers take turns."""
    figures: dict[str, list[Figures]] = {}
    for number in range(rounds):
        turn = number % len(peers)
        for peer in (*peers[turn:], *peers[:turn]):
            found = _measured(peer, course)
            figures.setdefault(peer.name, []).append(found)
            shown = ", ".join(f"{title} {value:.1f} {METRICS[title]}" for title, value in found.items())
            progress(f"checks, round {number + 1} of {rounds}: {peer.name}: {shown}")
    return figures


def unnoticed(ours: Sequence[Figures]) -> Count:
    return Count("dying targets that kernlb did not notice", sum(DYING - int(each[NOTICED]) for each in ours), 0)


def comparisons(figures: Mapping[str, Sequence[Figures]]) -> tuple[Comparison, ...]:
    found = {title for rounds in figures.values() for each in rounds for title in each}
    return tuple(_comparison(title, figures) for title in METRICS if title in found)


def _measured(peer: Peer, course: Course) -> Figures:
    with namespaces("checks") as (name,), inside(name):
        try:
            return _measured_inside(peer, course)
        finally:
            # What is pinned in the BPF file system outlives its namespace.
            shutil.rmtree(Places(namespace=name).pins, ignore_errors=True)


def _measured_inside(peer: Peer, course: Course) -> Figures:
    with ExitStack() as stack:
        if course.tracked:
            stack.enter_context(tracked())
        farm = stack.enter_context(Farm(TARGETS))
        watcher = stack.enter_context(peer.running(farm.targets))
        seconds = clock.seconds if clock.told() else watcher.processor_seconds
        watcher.sleep(course.warm_up)
        with Lateness(farm.sample) as lateness:
            used = seconds()
            watcher.sleep(course.measured)
            used = seconds() - used
        counted, live = conntrack_entries() if course.tracked else (0, 0)
        memory = watcher.memory_bytes()
        # Of who came round to no target in the meantime, this is the least.
        late = lateness.milliseconds(peer.interval) or [1000 * (course.measured - peer.interval)]
        watcher.down.clear()
        died = farm.die(DYING)
        noticed = sorted(watcher.noticed_down(DYING, until=died + course.noticing).values())
    after = [at - died for at in noticed] or [course.noticing]
    found = {
        PROCESSOR: 100 * used / course.measured,
        MEMORY: memory / 2**20,
        "lateness of starts, median": percentile(late, 0.5),
        LATENESS: percentile(late, 0.99),
        "lateness of starts, worst": percentile(late, 1.0),
        "until half of the dying are noticed": after[len(after) // 2],
        "until all of the dying are noticed": after[-1] if len(noticed) == DYING else course.noticing,
        NOTICED: float(len(noticed)),
    }
    return found | ({LIVE: live / TARGETS, ALL: counted / TARGETS} if course.tracked else {})


def _comparison(title: str, figures: Mapping[str, Sequence[Figures]]) -> Comparison:
    series = tuple(Series(name, tuple(each[title] for each in rounds)) for name, rounds in figures.items())
    return Comparison(f"{title}, {TARGETS} targets", METRICS[title], series, baseline="HAProxy")
