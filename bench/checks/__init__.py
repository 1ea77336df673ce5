"""10,000 targets checked by TCP every 2 s: processor, memory, punctuality, and how soon a dying hundredth is noticed.

All of kernlb, its checker alone, and HAProxy, each in a fresh network namespace: real listeners on loopback addresses,
every connection tracked. Punctuality is read off the wire, the same way for all: how late a target's next SYN comes
after the interval. keepalived stands beside them in the benchmark checks_ipvs: without IPVS it checks nothing.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.checks.peers import Farm, Peer, daemon, haproxy, kernlb, unable
from bench.checks.wire import Lateness, conntrack_entries, percentile, tracked
from bench.harness import Comparison, Count, Report, Series, machine
from kernlb.places import Places
from tests.system.network import inside, namespaces

TARGETS = 10_000
WARM_UP = 10.0
MEASURED = 12.0
NOTICING = 20.0

PROCESSOR, MEMORY, LATENESS = "processor, share of one core", "memory", "lateness of starts, 99th percentile"
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
    "live entries in conntrack": "a target",
    "entries in conntrack, expired ones too": "a target",
}

Progress = Callable[[str], None]
Figures = dict[str, float]


def run(rounds: int, progress: Progress) -> Report:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        if (why := unable(place)) is not None:
            progress(f"checks: keepalived is left out, it ends at once: {why}")
        report, figures = compared("checks", [daemon(place), kernlb(place), haproxy(place)], TARGETS, rounds, progress)
    ours = [each for name in ("kernlb", "kernlb's checker") for each in figures[name]]
    kept = (
        Count(f"rounds of kernlb with {title} beyond {most:g} {METRICS[title]}", sum(f[title] > most for f in ours), 0)
        for title, most in BUDGETS.items()
    )
    return Report(report.benchmark, report.comparisons, (*report.counts, *kept), report.machine)


def compared(
    name: str, peers: Sequence[Peer], targets: int, rounds: int, progress: Progress
) -> tuple[Report, dict[str, list[Figures]]]:
    """The peers in turns, and what was found of each, round by round."""
    figures: dict[str, list[Figures]] = {}
    missed = 0
    for number in range(rounds):
        turn = number % len(peers)
        for peer in (*peers[turn:], *peers[:turn]):
            found = _measured(peer, targets)
            missed += targets // 100 - int(found.pop("noticed"))
            figures.setdefault(peer.name, []).append(found)
            shown = ", ".join(f"{title} {found[title]:.1f} {unit}" for title, unit in METRICS.items())
            progress(f"{name}, round {number + 1} of {rounds}: {peer.name}: {shown}")
    comparisons = tuple(_comparison(f"{title}, {targets} targets", title, figures) for title in METRICS)
    return Report(name, comparisons, (Count("dying targets not noticed", missed, 0),), machine()), figures


def _measured(peer: Peer, targets: int) -> Figures:
    with namespaces("checks") as (name,), inside(name):
        try:
            return _measured_inside(peer, targets)
        finally:
            # What is pinned in the BPF file system outlives its namespace.
            shutil.rmtree(Places(namespace=name).pins, ignore_errors=True)


def _measured_inside(peer: Peer, targets: int) -> Figures:
    dying = targets // 100
    with tracked(), Farm(targets) as farm, peer.running(farm.targets) as watcher:
        watcher.sleep(WARM_UP)
        with Lateness(farm.sample) as lateness:
            used = watcher.processor_seconds()
            watcher.sleep(MEASURED)
            used = watcher.processor_seconds() - used
        counted, live = conntrack_entries()
        memory = watcher.memory_bytes()
        late = lateness.milliseconds(peer.interval)
        watcher.down.clear()
        died = farm.die(dying)
        noticed = sorted(watcher.noticed_down(dying, until=died + NOTICING).values())
        after = [at - died for at in noticed] or [NOTICING]
        return {
            PROCESSOR: 100 * used / MEASURED,
            MEMORY: memory / 2**20,
            "lateness of starts, median": percentile(late, 0.5),
            LATENESS: percentile(late, 0.99),
            "lateness of starts, worst": percentile(late, 1.0),
            "until half of the dying are noticed": after[len(after) // 2],
            "until all of the dying are noticed": after[-1] if len(noticed) == dying else NOTICING,
            "live entries in conntrack": live / targets,
            "entries in conntrack, expired ones too": counted / targets,
            "noticed": float(len(noticed)),
        }


def _comparison(heading: str, title: str, figures: dict[str, list[Figures]]) -> Comparison:
    series = tuple(Series(name, tuple(each[title] for each in rounds)) for name, rounds in figures.items())
    return Comparison(heading, METRICS[title], series, baseline="HAProxy")
