"""As bench/failover, through kernlb's eBPF engine on the running kernel, beside HAProxy.

keepalived is not among the peers: it balances by IPVS and nothing else.
"""

from collections.abc import Callable
from dataclasses import replace

from bench.failover import measured
from bench.failover.peers import PEERS_XDP
from bench.harness import Report


def run(rounds: int, progress: Callable[[str], None]) -> Report:
    report = measured("failover_xdp", PEERS_XDP, rounds, progress)
    return replace(report, machine=report.machine | {"left out": "keepalived, which cannot balance without IPVS"})
