"""The whole of a network namespace as one engine: each part of a Table goes to the engine that answers for it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby

from kernlb.counters import Counters
from kernlb.engines import (
    Closing,
    Displacing,
    Engine,
    Loaded,
    Loading,
    Overhearing,
    Parted,
    Tending,
    Transit,
    Transiting,
)
from kernlb.errors import Conflict, Unsupported
from kernlb.model import EngineName, Key, ServerKey, ServiceKey, Table, Value, service_of
from kernlb.parts import Parts, cut, whole
from kernlb.plan import Operation

_NOTHING: Table = {}


class Kernel:
    """`balancers` carry virtual services and real servers, each its own; `others` everything else by key type."""

    def __init__(self, balancers: Mapping[EngineName, Engine], others: Sequence[Engine] = ()) -> None:
        self.balancers = dict(balancers)
        self._others = tuple(others)
        self._missing: dict[int, Unsupported] = {}
        self._cuts: dict[int, tuple[Table, Parts]] = {}
        self._rest: tuple[list[Table], Table] = [], {}

    def through(self, wrap: Callable[[Engine], Engine]) -> "Kernel":
        """The same kernel with something around each of its engines."""
        return Kernel({name: wrap(engine) for name, engine in self.balancers.items()}, [*map(wrap, self._others)])

    def read(self) -> Table:
        """All that exists. A part that this machine lacks reads as empty; `require` says so when it matters."""
        return whole(self.parts())

    def parts(self) -> Parts:
        """The same, cut; parts that did not change since the last reading are the same objects."""
        found: dict[ServiceKey | None, Table] = {}
        rest: list[Table] = []
        self._missing.clear()
        for engine in self._engines():
            try:
                parts = self._of(engine)
            except Unsupported as error:
                self._missing[id(engine)] = error.with_traceback(None)
            else:
                found.update(parts)
                rest.append(parts.get(None, _NOTHING))
        if len(rest) != len(self._rest[0]) or any(a is not b for a, b in zip(rest, self._rest[0], strict=True)):
            together: dict[Key, Value] = {}
            for table in rest:
                together.update(table)
            self._rest = rest, together
        found[None] = self._rest[1]
        return found

    def require(self, keys: Iterable[Key]) -> None:
        """Raises the Unsupported of the first engine that the keys need and the last read found missing."""
        if not self._missing:
            return
        for key in keys:
            missing = self._missing.get(id(self._engine(key)))
            if missing:
                raise missing.with_traceback(None)

    def in_the_way(self, keys: Iterable[Key]) -> Mapping[Key, Conflict]:
        """Of things to be added, those that something of somebody else's stands in the way of."""
        found: dict[int, Conflict | None] = {}
        held_up: dict[Key, Conflict] = {}
        for key in keys:
            engine = self._engine(key)
            if isinstance(engine, Displacing):
                if id(engine) not in found:
                    found[id(engine)] = engine.in_the_way()
                if conflict := found[id(engine)]:
                    held_up[key] = conflict
        return held_up

    def apply(self, operations: Sequence[Operation]) -> None:
        """Consecutive operations on one engine go to it together, so that it can batch them."""
        for _, batch in groupby(operations, key=lambda operation: id(self._engine(operation.key))):
            together = list(batch)
            self._engine(together[0].key).apply(together)

    def close(self) -> None:
        """Let go of what the engines hold open. What they carry stays."""
        for engine in self._engines():
            if isinstance(engine, Closing):
                engine.close()

    def tend(self) -> None:
        """Have the engines that follow the network look at it again."""
        for engine in self._engines():
            if isinstance(engine, Tending):
                engine.tend()

    @cached_property
    def overhearing(self) -> Sequence[Overhearing]:
        return [engine for engine in self._engines() if isinstance(engine, Overhearing)]

    def silent(self) -> Collection[ServerKey]:
        """Real servers whose connections have begun since the last call and got no further, where engines notice."""
        return [key for engine in self.overhearing for key in engine.silent()]

    def counters(self) -> Mapping[Key, Counters]:
        counted: dict[Key, Counters] = {}
        for engine in self._engines():
            if id(engine) not in self._missing:
                counted.update(engine.counters())
        return counted

    def loaded(self) -> Loaded | None:
        """The program that carries services, where one does."""
        programs = (engine.loaded() for engine in self.balancers.values() if isinstance(engine, Loading))
        return next((program for program in programs if program is not None), None)

    def transits(self) -> Mapping[ServiceKey, Transit]:
        """The virtual services that are in transition."""
        found: dict[ServiceKey, Transit] = {}
        for engine in self.balancers.values():
            if isinstance(engine, Transiting):
                found.update(engine.transits())
        return found

    def _of(self, engine: Engine) -> Parts:
        if isinstance(engine, Parted):
            return engine.parts()
        table = engine.read()
        before = self._cuts.get(id(engine))
        if before is None or (before[0] is not table and before[0] != table):
            before = self._cuts[id(engine)] = table, cut(table)
        return before[1]

    def _engines(self) -> Iterator[Engine]:
        yield from self.balancers.values()
        yield from self._others

    def _engine(self, key: Key) -> Engine:
        service = service_of(key)
        if service is not None:
            engine = self.balancers.get(service.engine)
            if engine is None:
                raise Unsupported(
                    f"no engine {service.engine} here", hint='choose another with engine = "…" in the service'
                )
            return engine
        for engine in self._engines():
            if isinstance(key, engine.handles):
                return engine
        raise Unsupported(f"nothing here handles {type(key).__name__}")
