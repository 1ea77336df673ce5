"""A daemon with nothing to do, at 1,000 services of 10 servers: what its watch for drift costs, and its memory."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import clock
from bench.harness import Comparison, Series
from kernlb.control_client import ControlClient
from kernlb.engines.proc import Digest
from kernlb.places import current_namespace

PATIENCE = 600.0
WINDOW = 60.0
"""Seconds: everything is read again once in so many."""
SHARE = 5.0
MEMORY = 150.0
_LOOKS = 20
_TIMES = 5
_BUDGET = "the budget"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Idle:
    """`share` of one core, in per cent: the whole machine's where another one counts that, else the process's as
    `counted` by its kernel; `memory` in MiB, as resident."""

    share: float
    counted: float
    memory: float


@contextmanager
def daemon(file: Path, directory: Path, *, namespace: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """`kernlb run FILE`, in this namespace or in one of `ip netns`, from when it is reconciled until the end of the
    block."""
    command = [sys.executable, "-m", "kernlb", "--run-dir", f"{directory}/run", "--state-dir", f"{directory}/state"]
    command += [] if namespace is None else ["--netns", namespace]
    # What is pinned in the BPF file system would outlive the namespace.
    command += ["run", "--clear-on-exit", str(file)]
    control = ControlClient(directory / "run" / (namespace or current_namespace()) / "control.sock", timeout=60.0)
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not control.serves():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"bench: the daemon does not run: {(directory / 'log').read_text()[-2000:]}")
                time.sleep(0.5)
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


def idle(process: subprocess.Popen[bytes]) -> Idle:
    """Over the next minute."""
    clocks = [lambda: _seconds(process.pid), *([clock.seconds] if clock.told() else [])]
    began, before = time.monotonic(), [seconds() for seconds in clocks]
    time.sleep(WINDOW)
    passed = time.monotonic() - began
    shares = [(seconds() - at) / passed * 100 for seconds, at in zip(clocks, before, strict=True)]
    status = Path(f"/proc/{process.pid}/status").read_text()
    return Idle(shares[-1], shares[0], int(status.partition("VmRSS:")[2].split()[0]) / 1024)


def share(*command: str) -> float:
    """What a command run once a second takes of one core, in per cent, the kernel's part included."""
    seconds = clock.seconds if clock.told() else _of_children
    before = seconds()
    for _ in range(_TIMES):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (seconds() - before) / _TIMES * 100


def look(blocks: list[bytes]) -> float:
    """Milliseconds for the digest of a table of IPVS in which nothing has changed."""
    digest = Digest()
    digest.of(blocks)
    # Other objects, as if they came from the kernel: Python remembers the hash of those it knows.
    fresh = [[bytes(bytearray(block)) for block in blocks] for _ in range(_LOOKS)]
    begun = time.perf_counter()
    for each in fresh:
        digest.of(each)
    return (time.perf_counter() - begun) / _LOOKS * 1000


def recorded(services: int, servers: int) -> list[bytes]:
    """/proc/net/ip_vs as the kernel hands it out: a page of whole services at a time."""
    line = b"  -> %08X:0050      Masq    1      0          0         \n"
    found = [b""]
    for number in range(services):
        members = (line % (0x0A800000 + number * servers + member) for member in range(servers))
        service = b"TCP  %08X:0050 wrr \n%s" % (0x0A400000 + number, b"".join(members))
        if len(found[-1]) + len(service) > 4096:
            found.append(b"")
        found[-1] += service
    return found


def figures(
    where: str, shares: Mapping[str, list[float]], memory: list[float], looks: list[float]
) -> tuple[Comparison, ...]:
    ours, digest = next(iter(shares)), Series("digest of 11,000 recorded lines", tuple(looks))
    return (
        _held(f"10,000 real servers in {where}, nothing to do", "% of a core", SHARE, shares),
        _held("the daemon's memory", "MiB", MEMORY, {ours: memory}),
        Comparison("the same Python on every machine", "ms", (digest,), digest.name),
    )


def _held(title: str, unit: str, budget: float, found: Mapping[str, list[float]]) -> Comparison:
    """The first is held to the budget."""
    series = (Series(_BUDGET, (budget,)), *(Series(name, tuple(values)) for name, values in found.items()))
    return Comparison(title, unit, series, _BUDGET, 1.0, (next(iter(found)),))


def _seconds(pid: int) -> float:
    """Of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
