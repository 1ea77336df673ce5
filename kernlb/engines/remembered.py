"""Engines whose last reading holds until something may have changed it. What tells so is somebody else's to know."""

import time
from collections.abc import Callable, Mapping, Sequence

from kernlb.counters import Counters
from kernlb.engines import Engine
from kernlb.engines.ipvs import Ipvs
from kernlb.model import Key, ServiceKey, Table, service_of
from kernlb.parts import Parts, cut, whole
from kernlb.plan import Operation

FULL = 60.0
"""Seconds after which everything is read again, whatever the signs say."""
_MANY = 32
_UNKNOWN = -1
"""The digest of a service that was just written to: no hash of Python's is this."""


class Remembered:
    """Reads again after `spoil`, after its own writes, and after FULL seconds."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.handles = engine.handles
        self._engine = engine
        self._clock = clock
        self._table: Table | None = None
        self._read = 0.0
        self._spoilt = 0

    def spoil(self) -> None:
        """From any thread. A reading that is under way does not hold either."""
        self._spoilt += 1
        self._table = None

    def read(self) -> Table:
        held = self._table
        if held is None or self._clock() - self._read >= FULL:
            spoilt, self._read = self._spoilt, self._clock()
            held = self._engine.read()
            self._table = held if spoilt == self._spoilt else None
        return held

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
        self._parts: dict[ServiceKey | None, Table] = {}
        self._digest: Mapping[ServiceKey, int] = {}
        self._stale: set[ServiceKey] = set()
        self._read: float | None = None

    def spoil(self) -> None:
        self._read = None

    def close(self) -> None:
        self._engine.close()

    def changed(self) -> bool:
        """Whether the digest tells of anything since the last call; the services it tells of are read again."""
        before, now = self._digest, self._engine.digest()
        if now == before:
            return False
        self._digest = now
        self._stale |= {key for key in {*before, *now} if before.get(key) != now.get(key)}
        return True

    def read(self) -> Table:
        return whole(self.parts())

    def parts(self) -> Parts:
        if self._read is None or self._clock() - self._read >= FULL:
            self._read = None
            # Taken before the reading: what changes in between is read again, never missed.
            self._digest = self._engine.digest()
            began = self._clock()
            self._parts = dict(self._engine.parts())
            self._read = began
        elif self._stale:
            if len(self._stale) > _MANY:
                # What was written itself need not look like drift: reading all of that once more would cost.
                self._digest = self._engine.digest()
            parts = {key: part for key, part in self._parts.items() if key not in self._stale}
            parts.update(cut(self._engine.read_services(self._stale)))
            self._parts = parts
        self._stale = set()
        return self._parts

    def apply(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            service = service_of(operation.key)
            if service is None:
                self._read = None
            else:
                self._stale.add(service)
        # Whoever undoes it at once leaves the kernel as it was at the last look.
        self._digest = {**self._digest, **dict.fromkeys(self._stale, _UNKNOWN)}
        self._engine.apply(operations)

    def counters(self) -> Mapping[Key, Counters]:
        return self._engine.counters()
