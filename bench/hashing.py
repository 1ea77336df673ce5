"""A table of 65,537 slots for a hundred servers: built whole, and after one change, beside Maglev as its paper has it.

Cold is a process that has built none before: what the first service of a daemon waits for, numpy not counted.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from bench.harness import Comparison, Report, Series, machine
from kernlb.hashing import SLOTS, assign
from tests.test_hashing import maglev, servers

SERVERS = 100
BUDGET = 50.0
"""Milliseconds."""
COLD = f"""
import time
from kernlb.hashing import assign
servers = {{f"10.0.0.{{n}} 80": 1 for n in range({SERVERS})}}
begun = time.perf_counter()
assign(servers)
print((time.perf_counter() - begun) * 1000)
"""

Progress = Callable[[str], None]


def run(rounds: int, progress: Progress) -> Report:
    before = servers(SERVERS)
    known = assign(before)
    heavier = before | {next(iter(before)): 3}
    fewer = {name: weight for name, weight in before.items() if name != next(iter(before))}
    more = before | {"10.0.9.9:80": 1}
    works: dict[str, Callable[[], object]] = {
        "all of it": partial(assign, before),
        "another weight": partial(assign, heavier, previous=known),
        "a server less": partial(assign, fewer, previous=known),
        "a server more": partial(assign, more, previous=known),
        "Maglev, all of it": partial(maglev, before, SLOTS),
    }
    values: dict[str, list[float]] = {"all of it, cold": [], **{name: [] for name in works}}
    for number in range(rounds * 3):
        values["all of it, cold"].append(_cold())
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            values[name].append((time.perf_counter() - begun) * 1000)
        progress(f"round {number + 1} of {rounds * 3}")
    series = (Series("the budget", (BUDGET,)), *(Series(name, tuple(found)) for name, found in values.items()))
    held = tuple(name for name in values if not name.startswith("Maglev"))
    return Report("hashing", (Comparison("table", "ms", series, "the budget", 1.0, held),), machine=machine())


def _cold() -> float:
    return float(subprocess.run([sys.executable, "-c", COLD], capture_output=True, text=True, check=True).stdout)
