"""Who waits for a place is late, and is told to be."""

import asyncio
from ipaddress import ip_address

import pytest

from kernlb.agenda import TICK
from kernlb.checker import Checker
from kernlb.checks.base import Late, Report, Target, target_of
from kernlb.checks.dialogue import Conversation, DialogueProber
from kernlb.checks.spec import Check
from kernlb.checks.verdict import Code, Verdict
from kernlb.entries import Watched
from tests.virtual import play

LONG = 3.0


async def lengthy(conversation: Conversation) -> Verdict:
    await asyncio.sleep(LONG)
    return conversation.up(Code.L7OK)


def test_waits_are_told_when_they_end_and_by_nobody_who_need_not_wait() -> None:
    async def scene() -> list[float]:
        waits: list[float] = []
        prober = DialogueProber(lengthy, lambda done: None, parallel=2, late=waits.append)
        prober.start([target_of(Check(timeout=60.0), ip_address("10.0.0.1"), port) for port in range(1, 6)])
        await asyncio.sleep(4 * LONG)
        prober.close()
        return waits

    assert play(scene()) == [pytest.approx(wait, abs=0.01) for wait in (LONG, LONG, 2 * LONG)]


class Narrow:
    """Has places for two."""

    def __init__(self, report: Report, late: Late) -> None:
        self._prober = DialogueProber(lengthy, report, parallel=2, late=late)

    def of(self, target: Target) -> DialogueProber:
        return self._prober

    def close(self) -> None:
        self._prober.close()


def test_the_lateness_of_checks_counts_waits() -> None:
    async def scene(servers: int) -> float:
        checker: Checker[int] = Checker(lambda changes: None, kinds=Narrow)
        check = Check(interval=20.0, timeout=10.0)
        address = ip_address("10.0.0.1")
        checker.replace(Watched(key=n, address=address, port=n + 1, checks=(check,)) for n in range(servers))
        await asyncio.sleep(60)
        checker.close()
        return checker.statistics().lateness_p99

    assert play(scene(2)) <= TICK
    assert play(scene(6)) == 1.0  # and more: it counts no further
