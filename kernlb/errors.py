"""What can go wrong, named by whose fault it is. Only the command line prints these and chooses exit codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class KernlbError(Exception):
    """Says what went wrong, where, and what to do next."""

    kind = "error"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a configuration. `path` is dotted (`service.api.bind[0]`); `line` counts from 1."""

    path: str
    message: str
    line: int | None = None
    hint: str | None = None


class ConfigError(KernlbError):
    """The input is at fault. Carries every mistake found, not only the first."""

    kind = "config"

    def __init__(self, file: str, mistakes: Sequence[Mistake]) -> None:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{count} in {file}", where=file, hint="correct the file; nothing was changed")
        self.file = file
        self.mistakes = tuple(mistakes)


class UsageError(KernlbError):
    """The command line is at fault."""

    kind = "usage"


class Ending(KernlbError):
    """The daemon ended before it knew what came of an order."""

    kind = "ending"


class Unsupported(KernlbError):
    """This kernel or this machine lacks what was asked. The message names the feature, the hint the way out."""

    kind = "unsupported"


class KernelError(KernlbError):
    """The kernel refused an operation. The message carries the errno and what it means here."""

    kind = "kernel"

    def __init__(self, message: str, *, errno: int, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where=where, hint=hint)
        self.errno = errno


class Refused(KernlbError):
    """Some services could not be made as wanted; all others are. `refusals` by the name of the service, or by the thing
    of the whole namespace."""

    kind = "refused"

    def __init__(self, refusals: Mapping[str, KernlbError]) -> None:
        some = ", ".join(list(refusals)[:5]) + (", …" if len(refusals) > 5 else "")
        super().__init__(
            f"{len(refusals)} not as wanted: {some}", hint="all others are; the reasons are told one by one"
        )
        self.refusals = refusals


class Conflict(KernlbError):
    """Something that is not kernlb's stands in the way: a foreign service, a local listener, a lock."""

    kind = "conflict"
