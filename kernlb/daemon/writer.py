"""The daemon's one worker thread: everything that reads or writes the kernel or the state file happens in it."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from kernlb.counters import Counters
from kernlb.daemon.options import Signs
from kernlb.daemon.view import Seen
from kernlb.model import Key, ServerKey
from kernlb.operator import Overrides
from kernlb.ownership import Ownership
from kernlb.plan import Operation
from kernlb.reconciler import Plan, Reconciler, Step, Wanted

T = TypeVar("T")
Record = Callable[[], Mapping[str, Any]]
"""Makes what is to be written down of health: of ten thousand servers, that is work for this thread."""

SHARE = 0.05
"""The most of a core that writing health down may take."""

AGAIN = 5.0
"""Seconds until what could not be written down is tried again."""


@dataclass(frozen=True, slots=True)
class Work:
    step: Step
    counters: Mapping[Key, Counters] | None


class Writer:
    def __init__(self, reconciler: Reconciler, signs: Signs, *, deadline: float) -> None:
        self.reconciler = reconciler
        self.signs = signs
        self._deadline = deadline
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kernlb-writer")
        self._began: float | None = None
        self._noted = 0.0
        self._rest = 0.0

    def stuck(self, *, seconds: float) -> bool:
        """Whether one piece of work has lasted so long."""
        return self._began is not None and time.monotonic() - self._began > seconds

    async def do(self, work: Callable[[], T]) -> T:
        """Cancelled, it still waits for its turn to end: nobody else may write meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: self._timed(work))

    async def step(
        self,
        wanted: Wanted,
        *,
        overrides: Overrides,
        health: Record | None,
        count: bool,
        now: float,
    ) -> Work:
        """One step of the reconciler: the operators' orders are written down before it, health after it."""

        def work() -> Work:
            self.reconciler.note(overrides=overrides)
            step = self.reconciler.step(wanted, deadline=self._deadline, now=now)
            # After it: of ten thousand servers this takes longer than the step that a dead one waits for.
            self._note(overrides, health)
            return Work(step, self.reconciler.kernel.counters() if count else None)

        return await self.do(work)

    async def plan(self, wanted: Wanted) -> Plan:
        return await self.do(lambda: self.reconciler.plan(wanted, count=False))

    async def foresee(self, wanted: Wanted, open: Callable[[Ownership], Signs] | None) -> Plan:
        """What a step would do to the kernel as it is this very moment, live connections counted."""

        def look() -> Plan:
            if open is None:
                self.signs.spoil()
                return self.reconciler.plan(wanted)
            ours, opened = self.reconciler.kernel, open(self.reconciler.state.ownership)
            try:
                self.reconciler.kernel = opened.kernel
                return self.reconciler.plan(wanted)
            finally:
                self.reconciler.kernel = ours
                opened.close()

        return await self.do(look)

    async def seen(self) -> Seen:
        kernel = self.reconciler.kernel
        return await self.do(lambda: (kernel.counters(), kernel.transits(), kernel.loaded()))

    async def silent(self) -> Collection[ServerKey]:
        kernel = self.reconciler.kernel
        return await self.do(kernel.silent) if kernel.overhearing else ()

    async def note(self, overrides: Overrides, health: Record) -> None:
        await self.do(lambda: self._note(overrides, health))

    async def clear(self) -> list[Operation]:
        return await self.do(self.reconciler.clear)

    async def changed(self) -> bool:
        return await self.do(lambda: self.signs.changed())

    async def spoil(self) -> None:
        await self.do(lambda: self.signs.spoil())

    def replace(self, signs: Signs) -> None:
        """Another configuration needs other engines. The old ones stay open."""
        self.signs = signs
        self.reconciler.kernel = signs.kernel

    @property
    def may_note(self) -> bool:
        """Writing health down costs time in a large configuration: not more often than its share allows."""
        return time.monotonic() - self._noted >= self._rest

    @property
    def next_note(self) -> float:
        """Seconds until it may be written down again."""
        return max(0.0, self._noted + self._rest - time.monotonic())

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self.signs.close()

    def _note(self, overrides: Overrides, health: Record | None) -> None:
        began = time.monotonic()
        self.reconciler.note(overrides=overrides, health=None if health is None else health())
        if health is not None:
            self._noted = time.monotonic()
            self._rest = max((self._noted - began) / SHARE, AGAIN if self.reconciler.unwritten else 0.0)

    def _timed(self, work: Callable[[], T]) -> T:
        self._began = time.monotonic()
        try:
            return work()
        finally:
            self._began = None
