"""A loop whose time passes where nobody has anything to do, and probes over a wire with faults."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

from kernlb.checks.base import Late, Report, Target, timed_out
from kernlb.checks.spec import Address
from kernlb.checks.verdict import Code, Outcome, Verdict

T = TypeVar("T")
RTT = 0.001


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self._passed = 0.0
        self._selector.select = self._select  # type: ignore[attr-defined, method-assign]

    def time(self) -> float:
        return self._passed

    def _select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nobody would ever wake"
        self._passed += timeout
        return []


def play(scene: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scene)


@dataclass(frozen=True, slots=True)
class Fault:
    """`whose` None: everybody's. Who does not refuse is silent."""

    begin: float
    end: float = float("inf")
    whose: Address | None = None
    refuses: bool = False

    def strikes(self, address: Address, now: float) -> bool:
        return self.begin <= now < self.end and self.whose in (None, address)


class Fate(Enum):
    ANSWERED = auto()
    REFUSED = auto()
    LOST = auto()


class Wire:
    """What becomes of a packet to an address, and when whom a probe asked."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = faults
        self.asked: list[tuple[float, Address]] = []

    def fate(self, address: Address, now: float) -> Fate:
        found = [fault for fault in self._faults if fault.strikes(address, now)]
        if not found:
            return Fate.ANSWERED
        return Fate.REFUSED if all(fault.refuses for fault in found) else Fate.LOST

    def probers(self, report: Report, _: Late) -> "Probers":
        return Probers(self, report)


class Probers:
    """As a tcp check without retransmission sees the wire."""

    def __init__(self, wire: Wire, report: Report) -> None:
        self._wire, self._report = wire, report
        self._loop = asyncio.get_running_loop()

    def of(self, target: Target) -> "Probers":
        return self

    def start(self, targets: Sequence[Target]) -> None:
        for target in targets:
            now = self._loop.time()
            fate = self._wire.fate(target.address, now)
            self._wire.asked.append((now, target.address))
            verdict = {
                Fate.ANSWERED: Verdict(Outcome.UP, Code.L4OK, "", RTT),
                Fate.REFUSED: Verdict(Outcome.DOWN, Code.L4CON, "connection refused"),
                Fate.LOST: timed_out(Code.L4TOUT, target.patience),
            }[fate]
            self._loop.call_later(target.patience if fate is Fate.LOST else RTT, self._report, [(target, verdict)])

    def close(self) -> None:
        pass


def every(seconds: float, act: Callable[[], None]) -> None:
    """Now and from now on."""
    loop = asyncio.get_running_loop()
    act()
    loop.call_later(seconds, every, seconds, act)
