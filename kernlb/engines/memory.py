"""A Table in a dict: the engine of tests and simulations. It refuses what a kernel would refuse."""

from collections.abc import Mapping, Sequence
from errno import EEXIST, ENOENT

from kernlb.errors import KernelError
from kernlb.model import Counters, Endpoint, Fwmark, Key, ServerKey, Table
from kernlb.plan import Operation, play


class Memory:
    """`written` keeps every operation applied, in order."""

    handles: tuple[type, ...] = (object,)

    def __init__(self, table: Table | None = None) -> None:
        self._table: Table = dict(table or {})
        self.written: list[Operation] = []

    def read(self) -> Table:
        return dict(self._table)

    def apply(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            try:
                self._table = play([operation], self._table)
            except (KeyError, ValueError) as error:
                errno = ENOENT if isinstance(error, KeyError) else EEXIST
                raise KernelError(f"cannot {operation.verb}: {error}", errno=errno, where=str(operation.key)) from error
            self.written.append(operation)

    def counters(self) -> Mapping[Key, Counters]:
        return {
            key: Counters(0, 0, 0, 0, 0, 0, 0) for key in self._table if isinstance(key, Endpoint | Fwmark | ServerKey)
        }
