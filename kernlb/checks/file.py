"""A weight or an order from a file on the director."""

from functools import partial
from pathlib import Path

from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.orders import parsed
from kernlb.checks.spec import FileProbe
from kernlb.checks.verdict import Code, Orders, Outcome, Verdict
from kernlb.threads import Shared

LIMIT = 1024  # bytes
HEAVIEST = 65535

_lines: Shared[str] = Shared()


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, FileProbe)
    conversation.layer = Code.PROCERR
    # A file on a dead network mount must not hold up the others.
    line = (await _lines.get(probe.path, partial(_first_line, Path(probe.path)))).strip()
    if line.isascii() and line.isdigit() and int(line) <= HEAVIEST:
        return conversation.up(Code.PROCOK, f"weight {line}", orders=Orders(weight=int(line)))
    orders, reason = parsed(line)
    if orders == Orders():
        raise Failed(Code.PROCERR, f"neither a weight nor an order: {line[:60]!r}")
    if orders.up is False:
        return Verdict(Outcome.DOWN, Code.PROCERR, reason or line, None, orders)
    return conversation.up(Code.PROCOK, reason or line, orders=orders)


def _first_line(path: Path) -> str:
    if not path.is_file():  # a pipe or a terminal could be waited for without end
        raise FileNotFoundError(2, "no such file")
    with path.open("rb") as file:
        return file.read(LIMIT).partition(b"\n")[0].decode("utf-8", "replace")
