"""A gateway over two servers: plain ECMP routing, nftables DNAT, HAProxy tcp and kernlb's eBPF engine, in turns.

Each path has a client, a gateway and servers of its own, in namespaces joined by veth, because the conntrack that a
NAT rule brings would burden everybody else. All of them stand at once and are measured a second each: a ratio is that
of two windows side by side, and the median of many. Limit and yardstick is plain routing over as many servers. Less is
better throughout: microseconds a request, nanoseconds a kilobyte; a budget of 0.97 of somebody's rate reads as 1/0.97
of his time. Then thousands of clients ask at a constant rate for as long as it takes ports to come round again. Last
come new connections and nothing else, by clients and servers that leave the gateway most of two processors.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bench.gateway.load import bulk, connections, many_clients, requests
from bench.gateway.network import SOURCES, Network
from bench.gateway.paths import PATHS
from bench.gateway.paths import Path as Way
from bench.harness import Comparison, Count, Report, Series, machine

ROUTING, NFTABLES, HAPROXY, KERNLB = "plain ECMP routing", "nftables DNAT", "HAProxy tcp", "kernlb xdp"
SECONDS = 1
WINDOWS = 5
"""A round has so many of each path and kind of work."""
CLIENTS, RATE, CLIENTS_SECONDS = 4000, 5000, 120
OPENED, OPENING_RATE, OPENING_SECONDS = 30_000, 30_300, 12
"""New connections a second that have to be reached, those that are tried, and for how long."""

Progress = Callable[[str], None]

# What kernlb's rate has to be, as a multiple of each other's: keep-alive, new connections, bulk.
BUDGETS = {ROUTING: (1.00, 0.97, 0.95), NFTABLES: (1.15, 1.2, 1.0), HAPROXY: (1.6, 1.35, 1.9)}
WORKS: tuple[tuple[str, str, Callable[[Network], float]], ...] = (
    ("keep-alive requests", "us", lambda network: requests(network, seconds=SECONDS, keep_alive=True)),
    ("new connections", "us", lambda network: requests(network, seconds=SECONDS, keep_alive=False)),
    ("bulk", "ns a kB", lambda network: bulk(network, seconds=SECONDS)),
)


def run(rounds: int, progress: Progress) -> Report:
    comparisons: list[Comparison] = []
    with ExitStack() as stack:
        networks: dict[str, Network] = {}
        for number, path in enumerate(PATHS):
            networks[path.name] = stack.enter_context(Network(f"-{number}"))
            stack.enter_context(path.on(networks[path.name]))
        for number, (title, unit, work) in enumerate(WORKS):
            progress(title)
            times, processor = _windows(networks, work, rounds * WINDOWS, progress)
            measured = Comparison(f"{title}, {unit}", unit, times, ROUTING, paired=True)
            comparisons.append(measured)
            for other, budgets in BUDGETS.items():
                name, budget = f"{title}: kernlb beside {other}", round(1 / budgets[number], 3)
                two = tuple(one for one in times if one.name in (other, KERNLB))
                beside = replace(measured, title=name, series=two, baseline=other, budget=budget, held=(KERNLB,))
                comparisons.append(beside)
            spent = f"{title}: processor time of client, gateway and server together, {unit}"
            comparisons.append(Comparison(spent, unit, processor, ROUTING, paired=True))
        connecting = next(each for each in comparisons if each.title.startswith("new connections"))
        fastest = 1e6 / min(value for one in connecting.series if one.name == KERNLB for value in one.values)
        counts = [
            Count(
                f"SYNs sent again through kernlb, up to {fastest:,.0f} connections/s",
                networks[KERNLB].retransmitted_syns(),
                0,
            ),
            Count("checksum errors through kernlb", networks[KERNLB].checksum_errors(), 0),
        ]
        counts += _many(networks[KERNLB], progress)
    with ExitStack() as stack:
        networks = {path.name: stack.enter_context(_standing(path)) for path in PATHS if path.name != HAPROXY}
        opening, opened = _opening(networks, rounds, progress)
        comparisons += opening
        counts += opened
    return Report("gateway", tuple(comparisons), tuple(counts), machine())


def _windows(
    networks: Mapping[str, Network], work: Callable[[Network], float], count: int, progress: Progress
) -> tuple[tuple[Series, ...], tuple[Series, ...]]:
    """Time and processor time of a unit of work, by path; their order turns and turns round."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    processor: dict[str, list[float]] = {name: [] for name in networks}
    names = list(networks)
    for window in range(count):
        turn = window % len(names)
        order = [*names[turn:], *names[:turn]]
        for name in order if window % 2 else reversed(order):
            before = os.times().elapsed, _busy()
            times[name].append(work(networks[name]))
            busy = (_busy() - before[1]) / (os.times().elapsed - before[0])
            processor[name].append(times[name][-1] * busy)
            progress(f"window {window + 1} of {count}: {name} {times[name][-1]:.1f}, {busy:.2f} processors busy")
    return _series(times), _series(processor)


def _busy() -> float:
    """Seconds of all processors that were not idle, since the machine began."""
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    user, nice, system, _idle, _wait, hard, soft, *_ = map(int, first.split()[1:])
    return (user + nice + system + hard + soft) / os.sysconf("SC_CLK_TCK")


def _many(network: Network, progress: Progress) -> list[Count]:
    again, wrong = network.retransmitted_syns(), network.checksum_errors()
    progress(f"{CLIENTS:,} clients, {RATE:,} connections/s for {CLIENTS_SECONDS} s")
    told = many_clients(network, clients=CLIENTS, rate=RATE, seconds=CLIENTS_SECONDS)
    whole = f"of {told['asked']:,} connections of {CLIENTS:,} clients, {told['rate']:,.0f}/s for {CLIENTS_SECONDS} s"
    return [
        Count(f"{whole}: not answered", int(told["asked"] - told.get("answered", 0) - told.get("late", 0)), 0),
        Count(f"{whole}: answered late", int(told.get("late", 0)), 0),
        Count(f"{whole}: SYNs sent again", network.retransmitted_syns() - again, 0),
        Count(f"{whole}: checksum errors", network.checksum_errors() - wrong, 0),
    ]


@contextmanager
def _standing(path: Way) -> Iterator[Network]:
    with Network(f"-{PATHS.index(path)}", sources=SOURCES) as network, path.on(network):
        yield network


def _opening(networks: Mapping[str, Network], rounds: int, progress: Progress) -> tuple[list[Comparison], list[Count]]:
    """Nothing but new connections, at one rate for each path: what they cost, and what went wrong through kernlb."""
    processor: dict[str, list[float]] = {name: [] for name in networks}
    again: dict[str, list[float]] = {name: [] for name in networks}
    wrong: Counter[str] = Counter()
    total = 0
    for number in range(rounds):
        for name in list(networks)[:: -1 if number % 2 else 1]:
            network = networks[name]
            before = network.retransmitted_syns(), network.checksum_errors(), os.times().elapsed, _busy()
            told = connections(network, clients=CLIENTS, rate=OPENING_RATE, seconds=OPENING_SECONDS)
            busy = _busy() - before[3]
            processor[name].append(1e6 * busy / told.asked)
            again[name].append(network.retransmitted_syns() - before[0])
            progress(
                f"{name}: {told.rate:,.0f} new connections/s, {again[name][-1]:.0f} SYNs sent again, "
                f"{busy / (os.times().elapsed - before[2]):.2f} processors busy, {told.behind:.2f} s behind, "
                f"{dict(told.failed)}"
            )
            if name == KERNLB:
                total += told.asked
                wrong["not connected at once"] += told.asked - told.connected
                wrong["SYNs sent again"] += int(again[name][-1])
                wrong["checksum errors"] += network.checksum_errors() - before[1]
                wrong[f"windows of less than {OPENED:,}/s"] += told.rate < OPENED
    title = f"{OPENING_RATE:,} new connections/s, each ended by a reset"
    compared = [
        Comparison(f"{title}: processor time of all, us", "us", _series(processor), ROUTING, paired=True),
        Comparison(f"{title}: SYNs sent again in {OPENING_SECONDS} s", "SYNs", _series(again)),
    ]
    whole = f"of {total:,} new connections through kernlb, in windows of {OPENING_SECONDS} s"
    return compared, [Count(f"{whole}: {what}", number, 0) for what, number in wrong.items()]


def _series(values: Mapping[str, list[float]]) -> tuple[Series, ...]:
    return tuple(Series(name, tuple(each)) for name, each in values.items())
