"""Engines whose last reading holds until something may have changed it. What tells so is somebody else's to know."""

import time
from collections.abc import Callable, Mapping, Sequence

from kernlb.engines import Engine
from kernlb.engines.ipvs import Ipvs
from kernlb.model import Counters, Endpoint, Fwmark, Key, ServerKey, ServiceKey, Table, Value, service_of
from kernlb.plan import Operation

FULL = 60.0
"""Seconds after which everything is read again, whatever the signs say."""


class Remembered:
    """Reads again after `spoil`, after its own writes, and after FULL seconds."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.handles = engine.handles
        self._engine = engine
        self._clock = clock
        self._table: Table | None = None
        self._read = 0.0

    def spoil(self) -> None:
        self._table = None

    def read(self) -> Table:
        if self._table is None or self._clock() - self._read >= FULL:
            self._read = self._clock()
            self._table = self._engine.read()
        return self._table

    def apply(self, operations: Sequence[Operation]) -> None:
        self._table = None
        self._engine.apply(operations)

    def counters(self) -> Mapping[Key, Counters]:
        return self._engine.counters()


class RememberedIpvs:
    """Reads again only the virtual services whose digest changed or that it wrote to itself. The digest knows no
    thresholds and no timers: those wait for the full reading."""

    handles = Ipvs.handles

    def __init__(self, engine: Ipvs, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._parts: dict[ServiceKey, dict[Key, Value]] = {}
        self._others: dict[Key, Value] = {}
        self._digest: Mapping[ServiceKey, int] = {}
        self._touched: set[ServiceKey] = set()
        self._read: float | None = None

    def spoil(self) -> None:
        self._read = None

    def close(self) -> None:
        self._engine.close()

    def changed(self) -> bool:
        """Whether the digest tells of anything that was not there at the last reading."""
        return self._engine.digest() != self._digest

    def read(self) -> Table:
        now = self._clock()
        # Taken before the reading: what changes in between is read again, never missed.
        digest = self._engine.digest()
        if self._read is None or now - self._read >= FULL:
            self._read = None
            self._take(self._engine.read())
            self._read = now
        else:
            before = self._digest
            stale = self._touched | {key for key in {*before, *digest} if before.get(key) != digest.get(key)}
            if stale:
                for key in stale:
                    self._parts.pop(key, None)
                self._add(self._engine.read_services(stale))
        self._digest, self._touched = digest, set()
        table = dict(self._others)
        for part in self._parts.values():
            table.update(part)
        return table

    def apply(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            service = service_of(operation.key)
            if service is None:
                self._read = None
            else:
                self._touched.add(service)
        self._engine.apply(operations)

    def counters(self) -> Mapping[Key, Counters]:
        return self._engine.counters()

    def _take(self, table: Table) -> None:
        self._parts = {}
        self._others = {k: v for k, v in table.items() if not isinstance(k, Endpoint | Fwmark | ServerKey)}
        self._add({key: value for key, value in table.items() if key not in self._others})

    def _add(self, table: Table) -> None:
        for key, value in table.items():
            service = service_of(key)
            if service is not None:
                self._parts.setdefault(service, {})[key] = value
