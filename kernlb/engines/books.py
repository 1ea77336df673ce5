"""The book of what is carried, as it is pinned beside the program: read again only after somebody has written it."""

from collections.abc import Callable
from pathlib import Path

from kernlb.engines.carried import Book, from_text, to_text
from kernlb.engines.pins import Ledger
from kernlb.errors import KernlbError
from kernlb.model import Table
from kernlb.parts import whole
from kernlb.places import namespace_inode


class Books:
    """`lost` is called when somebody else has written, or removed it all: what was known holds no more."""

    def __init__(self, directory: Path, *, lost: Callable[[], None]) -> None:
        self._directory = directory
        self._lost = lost
        self._ledger: Ledger | None = None
        self._book: Book | None = None
        self._text = b""
        self._generation: int | None = None
        self._table: Table | None = None

    def current(self) -> Book | None:
        """As it stands in the kernel; another process may have written it. What it says is `keep` to write down."""
        found = Ledger.open(self._directory)
        if found is None:
            self._forsake()
            return None
        if self._ledger is not None and self._ledger.map.id == found.map.id:
            found.close()
        else:
            self._forsake()
            self._ledger = found
        assert self._ledger is not None
        generation = self._ledger.generation
        if self._generation != generation:
            self._lost()
            self._text = self._ledger.read() or b""
            self._book, self._table = self._understood(), None
            self._generation = generation
        # A namespace of the same name is gone, and with it all that hung there.
        return self._book if self._book is not None and self._book.namespace == namespace_inode() else None

    def table(self) -> Table:
        """The whole of it: the same object until something changes."""
        book = self.current()
        if book is None:
            return {}
        if self._table is None:
            self._table = whole(book.parts())
        return self._table

    def keep(self, book: Book) -> None:
        """Write it down where it says anything new."""
        if self._ledger is None:
            self._ledger = Ledger.create()
            self._ledger.pin(self._directory)
        text = to_text(book)
        if text != self._text:
            self._ledger.write(text)
        self._book, self._text, self._table = book, text, None
        self._generation = self._ledger.generation

    def doubt(self) -> None:
        """What was to be kept was not carried out: only what is written down holds."""
        self._generation = None

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        self._ledger = self._book = self._generation = self._table = None
        self._text = b""

    def _forsake(self) -> None:
        if self._ledger is not None:
            self._lost()
        self.close()

    def _understood(self) -> Book | None:
        try:
            return from_text(self._text) if self._text else None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise KernlbError(
                f"another version of kernlb carries services here ({error})",
                where=str(self._directory),
                hint="clear with that version, or remove the directory: its connections end",
            ) from error
