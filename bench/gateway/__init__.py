"""A gateway over two servers: plain ECMP routing, nftables DNAT, HAProxy tcp and kernlb's eBPF engine, round by round.

Client, gateway and servers are namespaces joined by veth, built anew for each path and round, because the conntrack
that a NAT rule brings would burden everybody else. Limit and yardstick is plain routing over the same two servers.
Less is better throughout: microseconds a request, nanoseconds a kilobyte; a budget of 0.97 of somebody's rate reads
as 1/0.97 of his time.
"""

from collections.abc import Callable

from bench.gateway.load import bulk, requests
from bench.gateway.network import Network
from bench.gateway.paths import PATHS, Path
from bench.harness import Comparison, Count, Peer, Report, compare, machine

ROUTING, NFTABLES, HAPROXY, KERNLB = "plain ECMP routing", "nftables DNAT", "HAProxy tcp", "kernlb xdp"
SECONDS = 3.0

Progress = Callable[[str], None]

# What kernlb's rate has to be, as a multiple of each other's: keep-alive, new connections, bulk.
BUDGETS = {ROUTING: (1.00, 0.97, 0.95), NFTABLES: (1.15, 1.2, 1.0), HAPROXY: (1.6, 1.35, 1.9)}
TITLES = ("keep-alive requests, us", "new connections, us", "bulk, ns a kB")


def run(rounds: int, progress: Progress) -> Report:
    errors = {"SYNs of clients sent again through kernlb": 0, "checksum errors through kernlb": 0}

    def measure(path: Path, work: Callable[[Network], float]) -> Callable[[], float]:
        def once() -> float:
            with Network() as network, path.on(network):
                figure = work(network)
                if path.name == KERNLB:
                    errors["SYNs of clients sent again through kernlb"] += network.retransmitted_syns()
                    errors["checksum errors through kernlb"] += network.checksum_errors()
            return figure

        return once

    works: tuple[Callable[[Network], float], ...] = (
        lambda network: requests(network, seconds=SECONDS, keep_alive=True),
        lambda network: requests(network, seconds=SECONDS, keep_alive=False),
        lambda network: bulk(network, seconds=SECONDS),
    )
    comparisons = []
    for number, (title, work) in enumerate(zip(TITLES, works, strict=True)):
        peers = [Peer(path.name, measure(path, work)) for path in PATHS]
        unit = title.rpartition(", ")[2]
        measured = compare(title, peers, rounds=rounds, unit=unit, baseline=ROUTING, progress=progress)
        for other, budgets in BUDGETS.items():
            name = f"{title}: kernlb beside {other}"
            budget = 1 / budgets[number]
            comparisons.append(Comparison(name, unit, measured.series, other, round(budget, 3), (KERNLB,)))
    counts = tuple(Count(title, found, 0) for title, found in errors.items())
    return Report("gateway", tuple(comparisons), counts, machine())
