"""A program under test, fed the same packets again and again through the wrapper that restores them."""

import struct
import time
from dataclasses import dataclass
from pathlib import Path

from kernlb.engines import abi
from kernlb.engines.libbpf import Object, Program
from kernlb.engines.maps import Map

WRAPPER = Path(__file__).parent / "wrap.bpf.o"
ALL_NEW = 0x3FFFFFFF
"""A mask under which no flow comes again."""
_ROOM = 80


@dataclass(frozen=True, slots=True)
class Stimulus:
    """A packet. `mask` + 1 flows vary it, with `family` 4 or 6; 0: one flow. `direct`: without the wrapper."""

    packet: bytes
    family: int = 0
    mask: int = 0
    direct: bool = False
    tc: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """A program by its descriptor, and the verdict that it has to give."""

    fd: int
    verdict: int


class Course:
    """One program and one stimulus, over a wrapper of its own."""

    def __init__(self, name: str, subject: Subject, stimulus: Stimulus) -> None:
        self._name, self._subject, self._stimulus = name, subject, stimulus
        self._object = Object(WRAPPER)
        wrapper = "wrap_tc" if stimulus.tc else "wrap"
        self._object.load(wrapper)
        Map(self._object.map("target"))[abi.index(0)] = struct.pack("=I", subject.fd)
        self._program = Program(name, subject.fd) if stimulus.direct else self._object.program(wrapper)
        self._plans = Map(self._object.map("plans"))

    def visit(self, packets: int) -> None:
        """Every flow once, in order, untimed."""
        self._run(packets, scatter=False)

    def measure(self, packets: int) -> float:
        """Nanoseconds of processor time a packet; many flows come in random order."""
        return self._run(packets, scatter=0 < self._stimulus.mask < ALL_NEW)

    def _run(self, packets: int, *, scatter: bool) -> float:
        stimulus = self._stimulus
        if stimulus.mask != ALL_NEW:
            packets = max(packets, stimulus.mask + 1)
        plan = self._plans[abi.index(0)]
        # New flows go on where the last round ended.
        following = plan[16:20]
        shape = struct.pack("=4I", len(stimulus.packet), stimulus.family, stimulus.mask, scatter)
        packet = stimulus.packet[:_ROOM].ljust(_ROOM, b"\0")
        self._plans[abi.index(0)] = shape + following + bytes(4) + packet
        begun = time.thread_time_ns()
        verdict = self._program.run(stimulus.packet, repeat=packets).verdict
        spent = time.thread_time_ns() - begun
        if verdict != self._subject.verdict:
            raise SystemExit(f"{self._name}: verdict {verdict}, expected {self._subject.verdict}")
        return spent / packets
