"""10,000 targets checked by TCP every 2 s: processor, memory, punctuality, and how soon a dying hundredth is noticed.

Beside HAProxy, and keepalived where the kernel has IPVS (without it keepalived checks nothing). Each in a fresh
network namespace: real listeners on loopback addresses, every connection tracked. Punctuality is read off the
wire, the same way for all: how late a target's next SYN comes after the interval.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.checks.peers import Farm, Peer, haproxy, keepalived, kernlb
from bench.checks.wire import Lateness, conntrack_entries, percentile, tracked
from bench.harness import Comparison, Count, Report, Series, machine
from tests.engines.namespace import fresh_network

TARGETS = 10_000
DYING = 100
WARM_UP = 8.0
MEASURED = 12.0
NOTICING = 20.0

Progress = Callable[[str], None]
Figures = dict[str, float]

METRICS = {
    "processor, share of one core": "%",
    "memory": "MiB",
    "lateness of starts, median": "ms",
    "lateness of starts, 99th percentile": "ms",
    "until half of the dying are noticed": "s",
    "until all of the dying are noticed": "s",
    "connections left in conntrack": "a target",
}


def run(rounds: int, progress: Progress) -> Report:
    figures: dict[str, list[Figures]] = {}
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        peers = [kernlb(Path(scratch)), haproxy(Path(scratch))]
        if Path("/proc/net/ip_vs").exists():
            peers.append(keepalived(Path(scratch)))
        else:
            progress("checks: keepalived is left out, this kernel has no IPVS")
        for number in range(rounds):
            turn = number % len(peers)
            for peer in (*peers[turn:], *peers[:turn]):
                found = _measured(peer, progress)
                missed += DYING - int(found.pop("noticed"))
                figures.setdefault(peer.name, []).append(found)
                shown = ", ".join(f"{title} {found[title]:.1f} {unit}" for title, unit in METRICS.items())
                progress(f"checks, round {number + 1} of {rounds}: {peer.name}: {shown}")
    comparisons = tuple(_comparison(title, unit, figures) for title, unit in METRICS.items())
    return Report("checks", comparisons, (Count("dying targets not noticed", missed, 0),), machine())


def _measured(peer: Peer, progress: Progress) -> Figures:
    with fresh_network(), tracked(), Farm(TARGETS) as farm, peer.running(farm.targets) as watcher:
        watcher.sleep(WARM_UP)
        with Lateness(farm.sample) as lateness:
            used = watcher.processor_seconds()
            watcher.sleep(MEASURED)
            used = watcher.processor_seconds() - used
        entries = conntrack_entries()
        memory = watcher.memory_bytes()
        late = lateness.milliseconds(peer.interval)
        died = farm.die(DYING)
        noticed = sorted(watcher.noticed_down(DYING, until=died + NOTICING).values())
        after = [at - died for at in noticed] or [NOTICING]
        return {
            "processor, share of one core": 100 * used / MEASURED,
            "memory": memory / 2**20,
            "lateness of starts, median": percentile(late, 0.5),
            "lateness of starts, 99th percentile": percentile(late, 0.99),
            "until half of the dying are noticed": after[len(after) // 2],
            "until all of the dying are noticed": after[-1] if len(noticed) == DYING else NOTICING,
            "connections left in conntrack": entries / TARGETS,
            "noticed": float(len(noticed)),
        }


def _comparison(title: str, unit: str, figures: dict[str, list[Figures]]) -> Comparison:
    series = tuple(Series(name, tuple(each[title] for each in rounds)) for name, rounds in figures.items())
    return Comparison(title, unit, series, baseline="HAProxy")
