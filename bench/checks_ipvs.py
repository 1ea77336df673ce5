"""As the benchmark checks, with IPVS in the kernel: 10,000 targets every 10 s, real tables of kernlb and keepalived.

In User Mode Linux where the running kernel has none. The share of a core is that of the whole guest then, with what its
kernel does for the listeners, which is the same for all; a system call costs some 50 µs there, so that it tells mostly
how few a check needs. That kernel lacks the tables of nftables which track connections. keepalived goes without
SO_LINGER (bench/checks/keepalived.c).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.checks import Course, compared, comparisons, unnoticed
from bench.checks.peers import daemon, haproxy, keepalived
from bench.harness import Report, machine

NEEDS_IPVS = True
USER_MODE = True
INTERVAL = 10.0
COURSE = Course(12.0, 20.0, 35.0, tracked=False)


def run(rounds: int, progress: Callable[[str], None]) -> Report:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        peers = [
            daemon(place, interval=INTERVAL, engine="ipvs"),
            haproxy(place, interval=INTERVAL),
            keepalived(place, interval=INTERVAL, lingers=False),
        ]
        figures = compared(peers, COURSE, rounds, progress)
    return Report("checks_ipvs", comparisons(figures), (unnoticed(figures["kernlb"]),), machine())
