"""Track files of keepalived.conf and the FILE_CHECKs that go by them: a number that is added to a weight."""

from collections.abc import Mapping
from dataclasses import dataclass

from kernlb.checks.spec import Check, FileProbe
from kernlb.formats.keepalived.syntax import Statement
from kernlb.formats.keepalived.values import signed
from kernlb.formats.report import Ledger, Refused, approximated, dropped

_MOST = 2**31 - 1
_INTERVAL = Check().interval
_READ = approximated(f"the file is read every {_INTERVAL:g} s; keepalived is told of each change")
_UNWRITTEN = dropped("kernlb writes no such file: put the number there before it starts")
REVERSED = "a file that holds 0 takes no server out: write another one, where 0 is well"
"""Why there is no check for a weight of 0, reversed."""


@dataclass(slots=True)
class TrackFile:
    """One `track_file` block. `used` tells whether a real server goes by it; the others are VRRP's."""

    statement: Statement
    used: bool = False

    @property
    def path(self) -> str:
        said = self._said("file")
        if said is None or not said.argument().startswith("/"):
            raise Refused(f"track_file {self.statement.argument()!r} names no absolute path")
        return said.argument()

    @property
    def weight(self) -> tuple[int, bool]:
        """And whether it is reversed."""
        said = self._said("weight")
        return (1, False) if said is None else _weight(said, most=254)

    @property
    def written(self) -> Statement | None:
        """What asks for more than a file that counts as 0 while there is none."""
        said = self._said("init_file")
        return said if said is not None and set(said.words[1:]) - {"0"} else None

    def _said(self, keyword: str) -> Statement | None:
        return next((inner for inner in self.statement.body if inner.keyword == keyword), None)


def file_check(statement: Statement, files: Mapping[str, TrackFile], ledger: Ledger) -> Check | None:
    """The check of a FILE_CHECK block; None where its weight is 0 and reversed."""
    file, own = None, None
    for inner in statement.body:
        match inner.keyword:
            case "track_file":
                file = files.get(inner.argument())
                if file is None:
                    raise Refused(f"there is no track_file {inner.argument()!r} above")
            case "weight":
                own = _weight(inner, most=_MOST)
            case word:
                raise Refused(f"unknown keyword {word!r} in FILE_CHECK")
    if file is None:
        raise Refused("FILE_CHECK expects track_file")
    file.used = True
    if file.written is not None:
        ledger.say(file.written.line, _UNWRITTEN)
    weight, reverse = file.weight if own is None else own
    if reverse and not weight:
        return None
    ledger.say(statement.line, _READ)
    return Check(probe=FileProbe(path=file.path, adjust=-weight if reverse else weight), rise=1, fall=1)


def _weight(statement: Statement, *, most: int) -> tuple[int, bool]:
    match statement.words[2:]:
        case [] | ["noreverse"]:
            reverse = False
        case ["reverse"]:
            reverse = True
        case [word, *_]:
            raise Refused(f"unknown word {word!r} of a weight", hint="reverse")
    return signed(statement, most=most), reverse
