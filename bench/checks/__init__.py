"""10,000 targets checked by TCP every 2 s: processor, memory, punctuality, and how soon a dying hundredth is noticed.

All of kernlb, its checker alone, HAProxy and keepalived, each in a fresh network namespace: real listeners on loopback
addresses, every connection tracked. Punctuality is read off the wire, the same way for all: how late the next SYN to a
target comes after the interval. keepalived checks nothing without IPVS: where the kernel has none, its orders are only
taken for carried out, which can but make it cheaper. Before 2.3.2 it waits for an answer to each FIN; both are shown.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.checks.peers import Farm, Peer, daemon, haproxy, keepalived, kernlb
from bench.checks.wire import Lateness, conntrack_entries, percentile, tracked
from bench.harness import Comparison, Count, Report, Series, machine
from kernlb.places import Places
from tests.features import Feature, absent
from tests.system.network import inside, namespaces

TARGETS = 10_000
DYING = TARGETS // 100
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
    "noticed": f"of {DYING} dying within {NOTICING:g} s",
    "live entries in conntrack": "a target",
    "entries in conntrack, expired ones too": "a target",
}

Progress = Callable[[str], None]
Figures = dict[str, float]


def run(rounds: int, progress: Progress) -> Report:
    """The peers in turns."""
    figures: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        peers = [daemon(place), kernlb(place), haproxy(place), keepalived(place), keepalived(place, lingers=False)]
        for number in range(rounds):
            turn = number % len(peers)
            for peer in (*peers[turn:], *peers[:turn]):
                found = _measured(peer)
                figures.setdefault(peer.name, []).append(found)
                shown = ", ".join(f"{title} {found[title]:.1f} {unit}" for title, unit in METRICS.items())
                progress(f"checks, round {number + 1} of {rounds}: {peer.name}: {shown}")
    ours = [each for name in ("kernlb", "kernlb's checker") for each in figures[name]]
    kept = (
        Count(f"rounds of kernlb with {title} beyond {most:g} {METRICS[title]}", sum(f[title] > most for f in ours), 0)
        for title, most in BUDGETS.items()
    )
    missed = sum(DYING - int(each["noticed"]) for each in ours)
    comparisons = tuple(_comparison(title, figures) for title in METRICS)
    counts = (Count("dying targets that kernlb did not notice", missed, 0), *kept)
    real = {} if absent(Feature.IPVS) is None else {"keepalived": "its orders to IPVS answered, not carried out"}
    return Report("checks", comparisons, counts, machine() | real)


def _measured(peer: Peer) -> Figures:
    with namespaces("checks") as (name,), inside(name):
        try:
            return _measured_inside(peer)
        finally:
            # What is pinned in the BPF file system outlives its namespace.
            shutil.rmtree(Places(namespace=name).pins, ignore_errors=True)


def _measured_inside(peer: Peer) -> Figures:
    with tracked(), Farm(TARGETS) as farm, peer.running(farm.targets) as watcher:
        watcher.sleep(WARM_UP)
        with Lateness(farm.sample) as lateness:
            used = watcher.processor_seconds()
            watcher.sleep(MEASURED)
            used = watcher.processor_seconds() - used
        counted, live = conntrack_entries()
        memory = watcher.memory_bytes()
        # Of who came round to no target in the meantime, this is the least.
        late = lateness.milliseconds(peer.interval) or [1000 * (MEASURED - peer.interval)]
        watcher.down.clear()
        died = farm.die(DYING)
        noticed = sorted(watcher.noticed_down(DYING, until=died + NOTICING).values())
        after = [at - died for at in noticed] or [NOTICING]
        return {
            PROCESSOR: 100 * used / MEASURED,
            MEMORY: memory / 2**20,
            "lateness of starts, median": percentile(late, 0.5),
            LATENESS: percentile(late, 0.99),
            "lateness of starts, worst": percentile(late, 1.0),
            "until half of the dying are noticed": after[len(after) // 2],
            "until all of the dying are noticed": after[-1] if len(noticed) == DYING else NOTICING,
            "noticed": float(len(noticed)),
            "live entries in conntrack": live / TARGETS,
            "entries in conntrack, expired ones too": counted / TARGETS,
        }


def _comparison(title: str, figures: dict[str, list[Figures]]) -> Comparison:
    series = tuple(Series(name, tuple(each[title] for each in rounds)) for name, rounds in figures.items())
    return Comparison(f"{title}, {TARGETS} targets", METRICS[title], series, baseline="HAProxy")
