"""When checks start, in virtual time: soon at first, then each by a beat of its own."""

import asyncio
from ipaddress import ip_address
from itertools import pairwise

import pytest

from kernlb.agenda import TICK
from kernlb.checker import FIRST_ROUND, Checker
from kernlb.checks.spec import Address, Check
from kernlb.entries import Watched
from tests.virtual import Wire, play

SERVERS = 100
ROUNDS = 4


def starts(interval: float) -> dict[Address, list[float]]:
    """When each of a hundred servers is asked, in seconds after the beginning."""
    wire = Wire()

    async def scene() -> None:
        checker: Checker[int] = Checker(lambda _: None, clock=asyncio.get_running_loop().time, kinds=wire.probers)
        try:
            checker.replace(
                Watched(
                    key=number,
                    address=ip_address("10.0.0.1") + number,
                    port=80,
                    checks=(Check(interval=interval, timeout=1.0),),
                )
                for number in range(SERVERS)
            )
            await asyncio.sleep(FIRST_ROUND + ROUNDS * interval)
        finally:
            checker.close()

    play(scene())
    found: dict[Address, list[float]] = {}
    for at, address in wire.asked:
        found.setdefault(address, []).append(at)
    return found


@pytest.mark.parametrize("interval", [1.0, 2.0, 10.0, 60.0])
def test_everybody_is_asked_soon_and_then_evenly_over_the_interval(interval: float) -> None:
    found = starts(interval)
    assert len(found) == SERVERS
    assert max(times[0] for times in found.values()) <= min(interval, FIRST_ROUND) + TICK
    for times in found.values():
        first, *gaps = (after - before for before, after in pairwise(times))
        assert 0 < first <= interval + TICK
        assert all(abs(gap - interval) <= 2 * TICK for gap in gaps)
    begin = min(interval, FIRST_ROUND) + interval
    in_round = sorted(at for times in found.values() for at in times if begin < at <= begin + interval)
    assert len(in_round) == pytest.approx(SERVERS, abs=2)
    edges = [begin, *in_round, begin + interval]
    assert max(after - before for before, after in pairwise(edges)) <= 3 * interval / SERVERS + TICK
