"""A real server dies under load: how long clients suffer, how many fail, how many wait for more than a second.

New connections come at a constant rate whatever becomes of the earlier ones (open loop). The server is killed, so that
its machine answers by reset, or vanishes, so that nothing answers. Or all servers are out of reach for a moment: nobody
should be taken out for that, and the SYNs that are lost come again after a second. Beside keepalived and HAProxy in the
same network.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.failover.peers import PATIENCE, PEERS, Peer, call, inside, route_back
from bench.failover.traffic import start_server, steady_load
from bench.harness import Comparison, Count, Report, Series, machine
from kernlb.cli import load
from kernlb.demo.director import Director, await_that
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS, lab
from kernlb.demo.stage import Stage
from kernlb.demo.steady import Sample

NEEDS_IPVS = True
CPUS = 2  # of the guest: clients, director and servers share them
RATE = 500.0  # new connections a second; halved until this machine keeps up
SLOWEST = 10.0
HEADROOM = 3.0  # a proxy and a daemon between take their share too
KEEPING_UP = 0.25  # seconds that a request may take where nothing is wrong
CALM = 1.5
LATE = 1.0
WAITING = 6.0  # seconds after which a client gives up
VICTIM = "server3"
RIVALS = ("keepalived", "HAProxy")  # A proxy asked to redispatch tries a refused connection again, as no director can.

Progress = Callable[[str], None]
Figures = dict[tuple[str, str], dict[str, list[float]]]
"""By mode and title, then by peer, round by round."""
OUT = "until the last client suffered"
FAILED, LATER, BOTH = "failed", f"answered after more than {LATE:g} s", "failed or late"
UNITS = {OUT: "s", FAILED: "requests", LATER: "requests", BOTH: "requests"}
GAP = 0.3
KILLED, VANISHED = f"{VICTIM} killed (reset)", f"{VICTIM} vanished (no answer)"
UNREACHABLE = f"all servers out of reach for {GAP:g} s"
SUFFERING = {KILLED: 7.0, VANISHED: 13.0, UNREACHABLE: 7.0}
"""Seconds that the slowest of the peers needs to notice, and some."""


def run(rounds: int, progress: Progress) -> Report:
    return measured("failover", PEERS, rounds, progress)


def measured(benchmark: str, peers: Sequence[Peer], rounds: int, progress: Progress) -> Report:
    """Each peer and each fault once a round."""
    figures: Figures = {}
    early = 0.0
    with tempfile.TemporaryDirectory() as scratch, lab() as built:
        stage = Stage(built, Director(built, Path(scratch), load()), Path(scratch), progress)
        for name in SERVERS:
            _started(stage, name)
        route_back(stage)
        rate = _bearable(stage, progress)
        for number in range(rounds):
            turn = number % len(peers)
            for peer in (*peers[turn:], *peers[:turn]):
                for mode in SUFFERING:
                    samples, died = _one_fault(stage, peer, mode, rate)
                    early += suffered([each for each in samples if each.started < died - LATE], died)[BOTH]
                    found = suffered([each for each in samples if each.started >= died - LATE], died)
                    shown = ", ".join(f"{title} {value:.1f} {UNITS[title]}" for title, value in found.items())
                    progress(f"failover, round {number + 1} of {rounds}: {peer.name}, {mode}: {shown}")
                    for title, value in found.items():
                        figures.setdefault((mode, title), {}).setdefault(peer.name, []).append(value)
    comparisons = tuple(
        _comparison(f"{mode}: {title}, at {rate:g} new connections/s", UNITS[title], found)
        for (mode, title), found in figures.items()
    )
    overload = Count("requests that failed or came late before anything died", int(early), 0)
    return Report(benchmark, comparisons, (overload, *_worse(figures)), machine())


def _one_fault(stage: Stage, peer: Peer, mode: str, rate: float) -> tuple[list[Sample], float]:
    """What the client saw, and when the fault began."""
    with peer.running(stage):
        await_that(lambda: _all_answer(stage), f"{peer.name} does not reach every server", seconds=PATIENCE)
        with steady_load(stage, rate=rate, patience=WAITING, address=DIRECTOR_FRONT) as under_way:
            time.sleep(CALM)
            with _fault(stage, mode) as died:
                time.sleep(SUFFERING[mode])
                samples = under_way.stop()
    return samples, died


def suffered(samples: Sequence[Sample], died: float) -> dict[str, float]:
    failed = [sample for sample in samples if sample.failure]
    late = [sample for sample in samples if not sample.failure and sample.seconds > LATE]
    last = max((sample.started for sample in (*failed, *late)), default=died)
    return {
        OUT: max(0.0, last - died),
        FAILED: len(failed),
        LATER: len(late),
        BOTH: len(failed) + len(late),
    }


@contextmanager
def _fault(stage: Stage, mode: str) -> Iterator[float]:
    """When it began; with the block all is well again."""
    if mode == UNREACHABLE:
        with _out_of_reach(stage) as began:
            yield began
    elif mode == KILLED:
        began = time.monotonic()
        stage.kill_server(VICTIM)
        yield began
        _started(stage, VICTIM)
    else:
        began = time.monotonic()
        with _ruled(stage, VICTIM, "add chain inet bench input { type filter hook input priority 0; policy drop; }"):
            yield began


@contextmanager
def _out_of_reach(stage: Stage) -> Iterator[float]:
    """All servers at one moment, for which nft waits in each, and for exactly so long, which the kernel sees to."""
    rules = (
        "add set inet bench lost { type ipv4_addr; flags timeout; }",
        "add chain inet bench input { type filter hook input priority 0; }",
        "add rule inet bench input ip daddr @lost drop",
    )
    with ExitStack() as stack:
        for name in SERVERS:
            stack.enter_context(_ruled(stage, name, *rules))
        waiting = [
            stack.enter_context(
                subprocess.Popen(inside(stage, name, "nft", "-f", "-"), stdin=subprocess.PIPE, text=True)
            )
            for name in SERVERS
        ]
        time.sleep(CALM)
        began = time.monotonic()
        for process, address in zip(waiting, SERVERS.values(), strict=True):
            assert process.stdin is not None
            process.stdin.write(f"add element inet bench lost {{ {address} timeout {1000 * GAP:g}ms }}")
            process.stdin.close()
        for process in waiting:
            if process.wait(PATIENCE):
                raise SystemExit("bench: nft does not put servers out of reach")
        yield began


@contextmanager
def _ruled(stage: Stage, name: str, *lines: str) -> Iterator[None]:
    call(stage, name, "nft", "; ".join(["add table inet bench", *lines]))
    yield
    call(stage, name, "nft", "delete table inet bench")


def _bearable(stage: Stage, progress: Progress) -> float:
    """The rate at which this machine serves HEADROOM times as much without delay, with nothing between."""
    rate = RATE
    while rate > SLOWEST:
        with steady_load(
            stage, rate=HEADROOM * rate, patience=WAITING, address=SERVERS[VICTIM], at="director"
        ) as under_way:
            time.sleep(CALM)
            seconds = sorted(sample.seconds for sample in under_way.stop())
        if seconds[int(0.99 * (len(seconds) - 1))] < KEEPING_UP:
            break
        progress(f"failover: {rate:g} new connections/s are too many for this machine")
        rate /= 2
    return rate


def _started(stage: Stage, name: str) -> None:
    """A real server that answers the director."""
    start_server(stage, name)
    await_that(lambda: not stage.requests(1, address=SERVERS[name], at="director").failed, f"{name} did not start")


def _all_answer(stage: Stage) -> bool:
    return set(stage.requests(12).split) == set(SERVERS)


def _comparison(title: str, unit: str, found: dict[str, list[float]]) -> Comparison:
    series = tuple(Series(name, tuple(values)) for name, values in found.items())
    return Comparison(title, unit, series, baseline="HAProxy")


def _worse(figures: Figures) -> Iterator[Count]:
    """kernlb fails and delays no more requests than its rivals, and fails none where all were back in a moment."""
    for (mode, title), found in figures.items():
        if mode == UNREACHABLE:
            if title == FAILED:
                yield Count(f"{mode}: requests failed through kernlb", int(sum(found["kernlb"])), 0)
        elif title == BOTH:
            ours = median(found["kernlb"])
            rivals = [name for name in RIVALS if name in found]
            worse = sum(ours > median(found[name]) for name in rivals)
            yield Count(f"{mode}: of {' and '.join(rivals)}, those with fewer failed or late requests", worse, 0)
