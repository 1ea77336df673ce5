"""What the daemon knows of the kernel since its last step: the Table, the names in it, and what was counted."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from kernlb import operator
from kernlb.config.values import Config
from kernlb.counters import Counters
from kernlb.daemon.unhurried import unhurried
from kernlb.desired import Name
from kernlb.engines import Loaded, Transit
from kernlb.errors import KernlbError
from kernlb.model import Key, ServerKey, ServiceKey, Table
from kernlb.pool import ServerName
from kernlb.reconciler import Step
from kernlb.status import Places
from kernlb.totals import Totals

Seen = tuple[Mapping[Key, Counters], Mapping[ServiceKey, Transit], Loaded | None]
"""What was counted, the services that are in transition, and the program that carries services."""

FRESH = 0.9
"""Seconds for which counters are good enough."""


class View:
    """`names` are those of what is configured now; what only lingers in the kernel has none. `steps` tells one state
    of the Table from another."""

    def __init__(self) -> None:
        self.steps = 0
        self.table: Table = {}
        self.names: Mapping[Key, Name] = {}
        self.places = Places({})
        self.keys: dict[ServerName, list[ServerKey]] = {}
        self.totals = Totals()
        self.transits: Mapping[ServiceKey, Transit] = {}
        self.program: Loaded | None = None
        self._counted = float("-inf")
        self._counting = asyncio.Lock()

    def take(self, step: Step) -> None:
        self.steps += 1
        self.table = step.after
        if step.done:
            self._counted = float("-inf")
        if self.names is not step.plan.desired.names:
            self.names = step.plan.desired.names
            self.places = Places(self.names)
            self.keys = {}
            for key, name in self.names.items():
                if isinstance(key, ServerKey) and name.server is not None:
                    self.keys.setdefault((name.service, name.server), []).append(key)

    async def count(self, counters: Mapping[Key, Counters]) -> None:
        """What the kernel has counted, unless somebody is about to know better."""
        if not self._counting.locked():
            async with self._counting:
                await self._count(counters)

    async def recount(self, read: Callable[[], Awaitable[Seen]]) -> None:
        """Counters no older than FRESH or the last change, if the reader has a moment; else the last ones stand."""
        if time.monotonic() - self._counted < FRESH or self._counting.locked():
            return
        async with self._counting:
            try:
                async with asyncio.timeout(FRESH):
                    counters, self.transits, self.program = await read()
            except (TimeoutError, KernlbError):
                return
            await self._count(counters)

    async def _count(self, counters: Mapping[Key, Counters]) -> None:
        self._counted = time.monotonic()
        await unhurried(self.totals.observed(counters, self.names))

    def live(self, name: ServerName, config: Config, counters: Mapping[Key, Counters]) -> int | None:
        """The connections that a drain of this server waits for."""
        service = next(each for each in config.services if each.name == name[0])
        there = [counters[key] for key in self.keys.get(name, ()) if key in self.table and key in counters]
        return operator.live_connections(service.protocol, there)
