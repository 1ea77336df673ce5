"""As the benchmark checks, where the kernel has IPVS and keepalived can stand beside: as many targets every 2 s as this
machine carries, which in a guest are hundreds."""

import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.checks import TARGETS, compared
from bench.checks.peers import INTERVAL, daemon, haproxy, keepalived, kernlb
from bench.harness import Report

NEEDS_IPVS = True
SHARE = 0.1
"""Of a core: what the bare connects of all targets may take."""
TRIALS = 300
LEAST = 200


def run(rounds: int, progress: Callable[[str], None]) -> Report:
    targets = bearable()
    progress(f"checks_ipvs: {targets} targets are what this machine carries")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        peers = [daemon(place), kernlb(place), haproxy(place), keepalived(place)]
        report, _ = compared("checks_ipvs", peers, targets, rounds, progress)
    return report


def bearable() -> int:
    """Whole hundreds, by what one connect costs."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        began = time.process_time()
        for _ in range(TRIALS):
            socket.create_connection(server.getsockname()).close()
            server.accept()[0].close()
        cost = (time.process_time() - began) / TRIALS
    return max(LEAST, min(TARGETS, int(SHARE * INTERVAL / cost) // 100 * 100))
