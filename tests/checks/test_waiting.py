"""Who waits for a place is late, and is told to be."""

import asyncio
from ipaddress import ip_address

import pytest

from kernlb.agenda import TICK
from kernlb.checker import Checker
from kernlb.checks.base import Late, Report, Target, target_of
from kernlb.checks.dialogue import Conversation, DialogueProber
from kernlb.checks.spec import Check, CommandProbe
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
        prober = DialogueProber(lengthy, lambda done: None, parallel=4, late=waits.append)
        prober.start([target_of(Check(timeout=60.0), ip_address("10.0.0.1"), port) for port in range(1, 6)])
        await asyncio.sleep(4 * LONG)
        prober.close()
        return waits

    assert play(scene()) == [pytest.approx(wait, abs=0.01) for wait in (LONG, LONG, 2 * LONG)]


def test_those_of_whom_all_hang_keep_none_from_others() -> None:
    async def scene() -> tuple[list[float], int]:
        waits: list[float] = []
        held = 0

        async def talk(conversation: Conversation) -> Verdict:
            nonlocal held
            probe = conversation.target.check.probe
            if isinstance(probe, CommandProbe) and probe.argv[0] == "quick":
                return conversation.up(Code.PROCOK, "")
            held += 1
            return await lengthy(conversation)

        def targets(count: int, *argv: str) -> list[Target]:
            check = Check(probe=CommandProbe(argv=argv), timeout=60.0)
            return [target_of(check, ip_address("10.0.0.1"), port) for port in range(1, count + 1)]

        quick: list[Target] = []
        prober = DialogueProber(
            talk, lambda done: quick.extend(each for each, _ in done), parallel=64, late=waits.append
        )
        for together in zip(*(targets(100, "hangs", f"{number}") for number in range(10)), strict=True):
            prober.start(together)
        prober.start(targets(5, "quick"))
        await asyncio.sleep(LONG / 2)
        prober.close()
        assert len(quick) == 5
        return waits, held

    waits, held = play(scene())
    assert waits == []
    assert 50 < held < 64


class Narrow:
    """Has places for two that ask the same."""

    def __init__(self, report: Report, late: Late) -> None:
        self._prober = DialogueProber(lengthy, report, parallel=4, late=late)

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
