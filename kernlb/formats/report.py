"""What an import made of each line of a foreign file: exact, approximated (what differs), dropped (what to do)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from kernlb.config.values import Config
from kernlb.errors import ConfigError, Mistake
from kernlb.model import IPAddress

Resolve = Callable[[str], list[IPAddress]]
"""The addresses of a host name, best first. Raises OSError where there are none."""


class Verdict(StrEnum):
    EXACT = "exact"
    APPROXIMATED = "approximated"
    DROPPED = "dropped"


_RANK = {Verdict.EXACT: 0, Verdict.APPROXIMATED: 1, Verdict.DROPPED: 2}


@dataclass(frozen=True, slots=True)
class Line:
    """One statement of the file. `note` says what differs, or what to do instead; it may be empty where exact."""

    line: int
    text: str
    verdict: Verdict
    note: str


@dataclass(frozen=True, slots=True)
class Imported:
    config: Config
    lines: tuple[Line, ...]

    @property
    def dropped(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.verdict is Verdict.DROPPED)


@dataclass(frozen=True, slots=True)
class Remark:
    verdict: Verdict
    note: str = ""


EXACT = Remark(Verdict.EXACT)


def exact(note: str) -> Remark:
    return Remark(Verdict.EXACT, note)


def approximated(note: str) -> Remark:
    return Remark(Verdict.APPROXIMATED, note)


def dropped(note: str) -> Remark:
    return Remark(Verdict.DROPPED, note)


class Refused(Exception):
    """A statement that the foreign program itself would refuse, or that no import can read."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(slots=True)
class Ledger:
    """Collects remarks and mistakes by line; a line's verdict is the worst of its remarks."""

    texts: dict[int, str] = field(default_factory=dict)
    remarks: dict[int, list[Remark]] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def enter(self, line: int, text: str) -> None:
        self.texts[line] = text
        self.remarks.setdefault(line, [])

    def say(self, line: int, *remarks: Remark) -> None:
        for remark in remarks:
            if remark not in self.remarks[line]:
                self.remarks[line].append(remark)

    def refuse(self, line: int, refused: Refused, *, path: str = "") -> None:
        self.mistakes.append(Mistake(path, refused.message, line, refused.hint))

    def lines(self) -> tuple[Line, ...]:
        return tuple(Line(number, text, *_summary(self.remarks[number])) for number, text in sorted(self.texts.items()))

    def imported(self, file: str, config: Config) -> Imported:
        """Raises ConfigError with every mistake, in the order of the file."""
        if self.mistakes:
            raise ConfigError(file, sorted(self.mistakes, key=lambda mistake: mistake.line or 0))
        return Imported(config, self.lines())


def _summary(remarks: Iterable[Remark]) -> tuple[Verdict, str]:
    # The worst comes first: it is what the reader has to act upon.
    ordered = sorted(remarks, key=lambda remark: -_RANK[remark.verdict])
    verdict = ordered[0].verdict if ordered else Verdict.EXACT
    return verdict, "; ".join(remark.note for remark in ordered if remark.note)
