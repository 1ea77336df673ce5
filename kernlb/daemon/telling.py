"""What the daemon says of itself: lines of its journal, its status line, answers about overrides."""

from collections.abc import Mapping, Sequence
from typing import Any

from kernlb.assessment import Assessment
from kernlb.checker import Change, Statistics
from kernlb.desired import Name
from kernlb.errors import KernlbError
from kernlb.health import Status
from kernlb.journal import Journal, Level
from kernlb.model import Key
from kernlb.plan import Operation
from kernlb.pool import Pool, ServerName
from kernlb.text import operation

LINES = 20
"""Operations told one by one; of a larger change only the number."""


def server(journal: Journal, change: Change[ServerName]) -> None:
    level = Level.WARNING if change.after.status is Status.DOWN else Level.NOTICE
    journal.say(
        "server",
        level=level,
        service=change.key[0],
        server=change.key[1],
        was=change.before.status,
        now=change.after.status,
        reason=change.after.reason,
    )


class Hindrances:
    """Servers that cannot be asked for a shortage of the director's own: a line when it begins, and when it is over."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._most = 0

    def look(self, hindered: Mapping[ServerName, str]) -> None:
        if hindered and not self._most:
            (service, server), reason = next(iter(hindered.items()))
            self._journal.say(
                "checks-hindered",
                level=Level.ERROR,
                servers=len(hindered),
                service=service,
                server=server,
                reason=reason,
            )
        elif self._most and not hindered:
            self._journal.say("checks-again", level=Level.NOTICE, servers=self._most)
        self._most = max(self._most, len(hindered)) if hindered else 0


def pool(journal: Journal, name: str, before: Pool | None, after: Pool) -> None:
    """Quorum, sorry server and panic, where they changed; what is ordinary at the start is not told."""
    before = before or Pool((), quorum=True)
    for event, was, now, wanted in (
        ("quorum", before.quorum, after.quorum, True),
        ("sorry-server", before.sorry, after.sorry, False),
        ("panic", before.panic, after.panic, False),
    ):
        if was != now:
            level = Level.NOTICE if now is wanted else Level.WARNING
            words = {"quorum": ("lost", "reached"), "sorry-server": ("out", "in"), "panic": ("over", "serving all")}
            journal.say(event, level=level, service=name, now=words[event][now])


def operations(
    journal: Journal, event: str, done: Sequence[Operation], names: Mapping[Key, Name], *, level: Level = Level.INFO
) -> None:
    for op in done[:LINES]:
        journal.say(event, level=level, operation=operation(op, names))
    if len(done) > LINES:
        journal.say(event, level=level, more=len(done) - LINES)


def complain(journal: Journal, event: str, error: KernlbError, **facts: object) -> None:
    journal.say(event, level=Level.ERROR, kind=error.kind, message=error.message, where=error.where, **facts)


def line(assessment: Assessment) -> str:
    """For `systemctl status`."""
    servers = sum(len(service.servers) for service in assessment.config.services)
    down = sum(1 for state in assessment.states.values() if state.status is Status.DOWN)
    lost = [name for name, each in assessment.pools.items() if not each.quorum]
    said = f"{len(assessment.pools)} services, {servers} servers, {down} down"
    return said + (f"; without quorum: {', '.join(sorted(lost)[:5])}" if lost else "")


def checks(found: Statistics) -> dict[str, Any]:
    return {
        "asked": found.asked,
        "probed": found.probed,
        "saved": found.saved,
        "started": found.started,
        "internal": found.internal,
        "outcomes": {str(outcome): count for outcome, count in found.outcomes.items()},
        "lateness_p50_ms": round(found.lateness_p50 * 1000, 1),
        "lateness_p99_ms": round(found.lateness_p99 * 1000, 1),
    }
