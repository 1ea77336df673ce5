"""The place of an engine that this machine does not have: reading it says what is missing and what brings it."""

from collections.abc import Mapping, Sequence

from kernlb.counters import Counters
from kernlb.errors import Unsupported
from kernlb.model import Key, Table
from kernlb.plan import Operation


class Absent:
    """`handles` are the key types of the engine that is missing."""

    def __init__(self, handles: tuple[type, ...], why: Unsupported) -> None:
        self.handles = handles
        self._why = why

    def read(self) -> Table:
        raise self._fresh

    def apply(self, operations: Sequence[Operation]) -> None:
        if operations:
            raise self._fresh

    @property
    def _fresh(self) -> Unsupported:
        # An exception keeps the frames of every place that it was ever raised in, and a daemon reads for ever.
        return self._why.with_traceback(None)

    def counters(self) -> Mapping[Key, Counters]:
        return {}
