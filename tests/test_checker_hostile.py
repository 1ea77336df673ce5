"""Real servers, a command and an agent that mean harm, all at once: each is bounded, and none holds up the others."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kernlb.checks.spec import AgentProbe, Check, CommandProbe, GrpcProbe, HttpProbe, Match, TlsOptions, TlsProbe
from kernlb.health import Status
from tests.checks.hostile import STUBBORN, hostile
from tests.test_checker import checking, listener, until, watched


def unqueued() -> float:
    """Time in which others had the processor does not count; time in which the turn itself waited does."""
    while True:
        before, now = queued(), time.monotonic()
        # Whoever has to wait between the two looks has seen two moments.
        if queued() == before:
            return now - before


@contextmanager
def measured_turns(loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = unqueued) -> Iterator[list[float]]:
    """The longest turn of a loop so far, in seconds: from when it has something to do until it waits again."""
    selector = loop._selector
    select, longest, began = selector.select, [0.0], clock()

    def selecting(timeout: float | None = None) -> object:
        nonlocal began
        longest[0] = max(longest[0], clock() - began)
        found = select(timeout)
        began = clock()
        return found

    selector.select = selecting
    try:
        yield longest
    finally:
        selector.select = select


def queued() -> float:
    """Seconds that this thread was ready to run and did not: the second field of its schedstat."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def test_a_turn_is_measured_with_what_it_waits_for():
    async def run() -> float:
        with measured_turns(asyncio.get_running_loop()) as longest:
            await asyncio.sleep(0)
            time.sleep(0.15)
            await asyncio.sleep(0)
        return longest[0]

    assert asyncio.run(run()) >= 0.15


def test_hostile_servers_are_down_and_no_turn_of_the_loop_takes_100_milliseconds():
    async def run(ports: dict[str, int]) -> None:
        slow = {"interval": 0.5, "timeout": 0.5}
        exploding = HttpProbe(match=Match(pattern="^(a|a)*b$"))
        needle = HttpProbe(match=Match(text=b"needle"))
        options = TlsOptions(verify=False)
        attackers = [
            watched("headers", ports["headers"], Check(probe=HttpProbe(), **slow)),
            watched("interim", ports["interim"], Check(probe=HttpProbe(), **slow)),
            watched("body", ports["body"], Check(probe=needle, **slow)),
            watched("expression", ports["body"], Check(probe=exploding, **slow)),
            watched("chunks", ports["chunks"], Check(probe=needle, **slow)),
            watched("tls", ports["tls"], Check(probe=TlsProbe(tls=options), **slow)),
            watched("grpc", ports["grpc"], Check(probe=GrpcProbe(), **slow)),
            watched("command", 1, Check(probe=CommandProbe(argv=(sys.executable, "-S", "-c", STUBBORN)), **slow)),
        ]
        silent = watched("agent", ports["agent"], Check(probe=AgentProbe(), **slow))
        with listener() as server:
            good = watched("good", server.getsockname()[1], Check(interval=0.02))
            async with checking(*attackers, silent, good) as (checker, _):
                with measured_turns(asyncio.get_running_loop()) as longest:
                    names = {each.key for each in attackers}
                    await until(lambda: all(checker.states()[name].status is Status.DOWN for name in names), 30)
                    started = checker.statistics().started
                    await until(lambda: checker.statistics().started > started + 100, 30)
                states = checker.states()
                assert states["good"].status is Status.UP
                assert states["agent"].status is Status.UNKNOWN
                assert longest[0] < 0.1

    with hostile() as ports:
        asyncio.run(run(ports))
