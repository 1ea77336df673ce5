"""A Table in a dict: the engine of tests and simulations. It refuses what a kernel would refuse."""

from collections.abc import Mapping, Sequence
from errno import EEXIST, ENOENT

from kernlb.counters import Counters
from kernlb.errors import KernelError
from kernlb.model import Endpoint, Fwmark, Key, ServerKey, Table
from kernlb.plan import Operation, play
from kernlb.text import thing


class Memory:
    """`written` keeps every operation applied, in order."""

    handles: tuple[type, ...] = (object,)

    def __init__(self, table: Table | None = None) -> None:
        self._table: Table = dict(table or {})
        self.written: list[Operation] = []

    @property
    def writes(self) -> int:
        return len(self.written)

    def read(self) -> Table:
        return dict(self._table)

    def apply(self, operations: Sequence[Operation]) -> None:
        try:
            self._table = play(operations, self._table)
        except (KeyError, ValueError):
            # Played one by one, those before the refused one stay done.
            for operation in operations:
                self._apply(operation)
        else:
            self.written += operations

    def _apply(self, operation: Operation) -> None:
        try:
            self._table = play([operation], self._table)
        except (KeyError, ValueError) as error:
            what = thing(operation.key)
            reason = "not there" if isinstance(error, KeyError) else "there already"
            if isinstance(error, KeyError) and error.args[0] != operation.key:
                reason = f"no {thing(error.args[0])}"
            errno = ENOENT if isinstance(error, KeyError) else EEXIST
            raise KernelError(f"cannot {operation.verb} {what}: {reason}", errno=errno, where=what) from error
        self.written.append(operation)

    def counters(self) -> Mapping[Key, Counters]:
        return {
            key: Counters(0, 0, 0, 0, 0, 0, 0) for key in self._table if isinstance(key, Endpoint | Fwmark | ServerKey)
        }
