"""How often and how patiently checkers ask. A statement in, the pace with it out."""

from dataclasses import dataclass, replace

from kernlb.formats.keepalived.syntax import Statement
from kernlb.formats.keepalived.values import flag, number, seconds
from kernlb.formats.report import Remark, approximated, exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often and how patiently; a virtual server's is the default of its real servers, theirs of the checkers."""

    delay_loop: float = 60.0
    retry: int | None = None
    delay_before_retry: float | None = None
    connect_timeout: float = 5.0
    alpha: bool = False
    virtualhost: str | None = None


def paced(pace: Pace, statement: Statement) -> tuple[Pace, Remark] | None:
    """The pace with one statement taken in, or None where it is about something else."""
    match statement.keyword:
        case "delay_loop":
            return replace(pace, delay_loop=seconds(statement)), exact("")
        case "retry" | "nb_get_retry":
            return replace(pace, retry=number(statement, highest=2**31 - 1)), exact("")
        case "delay_before_retry":
            return replace(pace, delay_before_retry=seconds(statement)), exact("")
        case "connect_timeout":
            note = "the limit of the whole check, not of its connect alone"
            return replace(pace, connect_timeout=seconds(statement)), approximated(note)
        case "alpha":
            return replace(pace, alpha=flag(statement)), exact("")
        case "virtualhost":
            return replace(pace, virtualhost=statement.argument()), exact("")
        case "warmup":
            return pace, exact("the starts of checks are spread evenly on their own")
    return None
