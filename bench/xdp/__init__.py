"""Nanoseconds a packet of the balancer program by what it meets, beside a MAC swap in the same mode and run: of the
object that is shipped, and of what BCC compiles for a configuration like the row's, over the same maps.

Programs take turns, so that drift of the machine hits all alike; ratios of one run are the result, not nanoseconds.
"""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.harness import Comparison, Report, Series, machine
from bench.xdp.course import ALL_NEW, WRAPPER, Course, Stimulus, Subject
from bench.xdp.planes import ACK, NAT4, OTHER, SYN, TCP, UDP, VIP4, VIP6, balancer, packet, specialised
from kernlb.engines.dataplane import TC, XDP, Dataplane
from kernlb.engines.libbpf import Object

PACKETS = 500_000
TURNS = 3
"""Of each program a round."""
OBJECT, BCC, SWAP, EMPTY = "object", "BCC", "MAC swap", "an empty program"
ITSELF = {"XDP": 25.0, "tc": 35.0}
"""Nanoseconds that a packet of full NAT may take at a hook beyond what an empty program does, the test run's own part
included: that is 5 on some machines and 30 on others."""
_PASS, _TX, _TC_OK, _TC_REDIRECT = 2, 3, 0, 7
_MANY = 0xFFFF

Progress = Callable[[str], None]
Subjects = Mapping[str, Subject]


@dataclass(frozen=True, slots=True)
class Row:
    """`aim` and `must` are multiples of the MAC swap; `beyond` is nanoseconds beyond an empty program."""

    title: str
    stimulus: Stimulus
    subjects: Subjects
    aim: float | None = None
    must: float | None = None
    beyond: float | None = None


def run(rounds: int, progress: Progress) -> Report:
    subprocess.run(("make", "-s", "-C", Path(__file__).parent), check=True)
    progress("object and BCC: load and compile")
    with _one_processor(), Object(WRAPPER) as bare:
        bare.load("swap", "empty", "empty_tc")
        steady, moving = balancer(moved=False), balancer(moved=True)
        steady.program(XDP).run(packet(NAT4, TCP, SYN))
        rows = [*_tunnels(bare, steady, moving), *_full_nat(bare, steady)]
        found = _measured(rows, rounds * TURNS, progress)
    return Report("xdp", tuple(map(_comparison, rows, found)), machine=machine())


def _tunnels(bare: Object, steady: Dataplane, moving: Dataplane) -> Iterator[Row]:
    syn, ack, udp = packet(VIP4, TCP, SYN), packet(VIP4, TCP, ACK), packet(VIP4, UDP)
    many, new = Stimulus(ack, 4, _MANY), Stimulus(syn, 4, ALL_NEW)
    swap = {SWAP: Subject(bare.program("swap").fd, _TX)}
    compiled = specialised(steady, tunnel=True, transition=True)
    four = swap | _ours(steady, compiled, _TX)
    six = swap | _ours(steady, specialised(steady, ipv6=True, tunnel=True, transition=True), _TX)
    shifting = swap | _ours(moving, specialised(moving, tunnel=True, transition=True), _TX)
    yield Row("TCP ACK, one flow", Stimulus(ack), four, aim=3.5, must=6)
    yield Row("TCP ACK, 64k flows, steady", many, four, aim=4, must=6)
    yield Row("TCP, every packet a new flow, steady", new, four, aim=4, must=5.5)
    yield Row("TCP ACK, 64k flows, every slot in transition", many, shifting, aim=12, must=25)
    yield Row("TCP, every packet a new flow, every slot in transition", new, shifting)
    yield Row("UDP, one flow", Stimulus(udp), four, aim=4, must=6)
    yield Row("IPv6 TCP ACK, one flow", Stimulus(packet(VIP6, TCP, ACK)), six, aim=4, must=6)
    other = Stimulus(packet(OTHER, TCP, ACK), direct=True)
    yield Row("no VIP, without the wrapper", other, swap | _ours(steady, compiled, _PASS), aim=1.8, must=2.4)


def _full_nat(bare: Object, steady: Dataplane) -> Iterator[Row]:
    syn, ack = packet(NAT4, TCP, SYN), packet(NAT4, TCP, ACK)
    swap, compiled = {SWAP: Subject(bare.program("swap").fd, _TX)}, specialised(steady, fullnat=True)
    yield Row("full NAT, SYN again", Stimulus(syn), swap | _ours(steady, compiled, _TX))
    empty = {EMPTY: Subject(bare.program("empty").fd, _PASS)}
    xdp, tc = _ours(steady, compiled, _TX), _ours(steady, compiled, _TC_REDIRECT, hook=TC)
    yield Row("full NAT, TCP ACK, XDP", Stimulus(ack), empty | xdp, beyond=ITSELF["XDP"])
    empty = {EMPTY: Subject(bare.program("empty_tc").fd, _TC_OK)}
    yield Row("full NAT, TCP ACK, tc", Stimulus(ack, tc=True), empty | tc, beyond=ITSELF["tc"])


def _ours(shipped: Dataplane, compiled: Dataplane, verdict: int, *, hook: str = XDP) -> dict[str, Subject]:
    planes = {OBJECT: shipped, BCC: compiled}
    return {name: Subject(plane.program(hook).fd, verdict) for name, plane in planes.items()}


def _measured(rows: Sequence[Row], turns: int, progress: Progress) -> list[dict[str, list[float]]]:
    """Nanoseconds of each subject of each row, turn by turn."""
    courses = [{name: Course(name, one, row.stimulus) for name, one in row.subjects.items()} for row in rows]
    found: list[dict[str, list[float]]] = [{name: [] for name in row.subjects} for row in rows]
    for turn in range(turns + 1):
        for row, runners, figures in zip(rows, courses, found, strict=True):
            for name, course in runners.items():
                if turn:
                    figures[name].append(course.measure(PACKETS))
                else:
                    course.visit(PACKETS)
            if turn:
                said = ", ".join(f"{name} {figures[name][-1]:.0f}" for name in runners)
                progress(f"{row.title}, turn {turn} of {turns}: {said} ns")
    return found


def _comparison(row: Row, figures: Mapping[str, Sequence[float]]) -> Comparison:
    held = tuple(name for name in (OBJECT, BCC) if name in figures)
    if row.beyond is not None:
        own = [Series(name, tuple(map(float.__sub__, figures[name], figures[EMPTY]))) for name in held]
        series = (Series("the budget", (row.beyond,)), *own)
        return Comparison(f"{row.title}: beyond {EMPTY}", "ns", series, "the budget", 1.0, held)
    title = row.title if row.aim is None else f"{row.title} (aim {row.aim:g})"
    series = tuple(Series(name, tuple(values)) for name, values in figures.items())
    return Comparison(title, "ns", series, SWAP, row.must, held)


@contextmanager
def _one_processor() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
