"""A weight or an order from a file on the director."""

import re
from functools import partial
from pathlib import Path

from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.orders import parsed
from kernlb.checks.spec import HEAVIEST, FileProbe
from kernlb.checks.verdict import Code, Orders, Outcome, Verdict
from kernlb.threads import Shared

LIMIT = 1024  # bytes
FAULT = -(2**31)
"""An adjustment so low is a failure, as keepalived has it (IPVS_WEIGHT_FAULT)."""

_NUMBER = re.compile(r"\s*[+-]?[0-9]+")

_lines: Shared[str] = Shared()


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, FileProbe)
    conversation.layer = Code.PROCERR
    if probe.adjust is not None:
        return _adjusted(conversation, probe.adjust, await _tracked(probe.path))
    # A file on a dead network mount must not hold up the others.
    try:
        line = (await _lines.get(probe.path, partial(_first_line, Path(probe.path)))).strip()
    except FileNotFoundError as error:
        raise Failed(Code.PROCERR, str(error.strerror)) from None
    if line.isascii() and line.isdigit() and int(line) <= HEAVIEST:
        return conversation.up(Code.PROCOK, f"weight {line}", orders=Orders(weight=int(line)))
    orders, reason = parsed(line)
    if orders == Orders():
        raise Failed(Code.PROCERR, f"neither a weight nor an order: {line[:60]!r}")
    if orders.up is False:
        return Verdict(Outcome.DOWN, Code.PROCERR, reason or line, None, orders)
    return conversation.up(Code.PROCOK, reason or line, orders=orders)


async def _tracked(path: str) -> int:
    """The number that the file begins with; 0 where there is none, or no file: its writer may be at it."""
    try:
        line = await _lines.get(path, partial(_first_line, Path(path)))
    except FileNotFoundError:
        return 0
    found = _NUMBER.match(line)
    return int(found[0]) if found else 0


def _adjusted(conversation: Conversation, adjust: int, number: int) -> Verdict:
    if abs(number) > -FAULT:
        return Verdict(Outcome.NEUTRAL, Code.PROCERR, "the number in the file is out of range")
    change = number * adjust
    if change <= FAULT or (number and not adjust):
        return conversation.down(Code.PROCERR, f"{number} in the file")
    return conversation.up(Code.PROCOK, f"weight {change:+d}", orders=Orders(adjust=change))


def _first_line(path: Path) -> str:
    if not path.is_file():  # a pipe or a terminal could be waited for without end
        raise FileNotFoundError(2, "no regular file" if path.exists() else "no such file or directory")
    with path.open("rb") as file:
        return file.read(LIMIT).partition(b"\n")[0].decode("utf-8", "replace")
