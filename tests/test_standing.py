"""A check takes up what a check said, an agent what an agent said, across reloads, restarts and the state file."""

import asyncio
import json

import pytest

from kernlb import record
from kernlb.checks.spec import AgentProbe, Check, CommandProbe, Exit, FileProbe, Probe, TcpProbe
from kernlb.health import Health, State, Status
from kernlb.standing import Standing
from kernlb.totals import Known
from tests.checks.servers import serving
from tests.test_checker import checking, listener, until, watched

TCP, AGENT = Check(interval=60.0), Check(probe=AgentProbe(), interval=60.0)
DEAD = State(status=Status.DOWN, since=5.0, reason="L4CON connection refused")
WELL = State(status=Status.UP, since=6.0, reason="L4OK")
HALF = State(status=Status.DRAINING, since=7.0, reason="L7OK agent: drain 50%", share=0.5)
WEB = ("web", "s1")


@pytest.mark.parametrize(
    ("before", "checks", "expected"),
    [
        (Standing((DEAD,), (HALF,)), [AGENT], [HALF]),
        (Standing((DEAD,), ()), [AGENT], [None]),
        (Standing((), (HALF,)), [TCP, AGENT], [None, HALF]),
        (Standing((DEAD,), (HALF,)), [TCP, TCP, AGENT], [DEAD, DEAD, HALF]),
        (Standing((WELL, DEAD), (HALF,)), [TCP, AGENT], [DEAD, HALF]),
        (Standing((WELL, DEAD), ()), [TCP, TCP], [WELL, DEAD]),
        (Standing((WELL, HALF), None), [TCP, AGENT], [WELL, HALF]),
        (Standing((WELL, HALF), None), [AGENT], [None]),
        (Standing(), [TCP, AGENT], [None, None]),
    ],
)
def test_each_kind_takes_up_its_own(before: Standing, checks: list[Check], expected: list[State | None]) -> None:
    assert before.heirs(checks) == expected


def test_a_server_is_what_all_of_them_say_together() -> None:
    assert Standing().together is None
    for kept in (Standing((DEAD,), (HALF,)), Standing((DEAD, HALF), None)):
        assert kept.together is not None
        assert (kept.together.status, kept.together.share) == (Status.DOWN, 0.5)


@pytest.mark.parametrize("before", [Standing((DEAD,), (HALF,)), Standing((), (HALF,)), Standing((WELL, DEAD), ())])
def test_the_state_file_tells_checks_from_agents(before: Standing) -> None:
    written = json.loads(json.dumps(record.written({WEB: before}, {}, Known({}, {}))))
    assert record.standing(written) == {WEB: before}


def test_a_state_file_of_before_agents_stood_apart_is_read_by_position() -> None:
    states = [
        {"status": "up", "since": 6.0, "reason": "L4OK"},
        {"status": "draining", "since": 7.0, "reason": "L7OK agent: drain 50%", "share": 0.5},
    ]
    (found,) = record.standing({"servers": {"web": {"s1": states}}}).values()
    assert found.heirs([TCP, AGENT]) == [WELL, HALF]


@pytest.mark.parametrize(
    "garbage", [{"agents": 7}, {"servers": {"web": 1}, "agents": []}, {"agents": {"web": {"s": [1]}}}]
)
def test_what_cannot_be_understood_is_left_out(garbage: dict) -> None:
    assert record.standing(garbage) == {}


@pytest.mark.parametrize(
    ("probe", "heeded"),
    [
        (TcpProbe(), False),
        (CommandProbe(argv=("/bin/true",)), False),
        (CommandProbe(argv=("/bin/true",), exit=Exit.WEIGHT), True),
        (FileProbe(path="/w"), True),
        (AgentProbe(), True),
    ],
)
def test_orders_are_taken_up_only_by_who_may_take_them_back(probe: Probe, heeded: bool) -> None:
    weighed = State(status=Status.UP, since=3.0, reason="", share=0.5, weight=7, max_connections=9)
    assert (Health(Check(probe=probe), now=9.0, resume=weighed).state.weight == 7) is heeded
    assert Health(Check(probe=probe), now=9.0, resume=weighed).state.status is Status.UP
    assert Health(Check(probe=probe), now=9.0, resume=HALF).state.serves is not heeded


def test_an_agent_left_alone_does_not_keep_its_server_down_for_the_check_that_went() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"50%\n")
        await writer.drain()

    async def run() -> None:
        async with serving(half) as port:
            check = Check(interval=0.05, port=1)
            agent = Check(probe=AgentProbe(), port=port, interval=0.05)
            async with checking(watched("web", port, check, agent)) as (checker, _):
                await until(lambda: checker.states()["web"].status is Status.DOWN)
                checker.replace([watched("web", port, Check(probe=AgentProbe(), port=port, interval=0.04))])
                await until(lambda: checker.states()["web"].share == 0.5)
                assert checker.states()["web"].serves

    asyncio.run(run())


def test_a_check_that_comes_beside_an_agent_takes_none_of_its_orders_up() -> None:
    said = [b"50% maint\n"]

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said[0])
        await writer.drain()

    async def run() -> None:
        with listener() as server:
            async with serving(agent) as port:
                orders = Check(probe=AgentProbe(), port=port, interval=0.05)
                plain = Check(interval=0.05, port=server.getsockname()[1])
                async with checking(watched("web", port, orders)) as (checker, _):
                    await until(lambda: checker.states()["web"].status is Status.DISABLED)
                    checker.replace([watched("web", port, plain, orders)])
                    assert checker.states()["web"].status is Status.DISABLED
                    said[0] = b"ready\n"
                    await until(lambda: checker.states()["web"].status is Status.UP)
                    assert checker.states()["web"].share == 0.5
                    last = checker.standing()
        # The same across a restart.
        alone = Standing((), last["web"].agents)
        async with checking(watched("web", 1, TCP, AGENT), last={"web": alone}) as (checker, _):
            assert checker.standing()["web"].agents == alone.agents
            assert checker.standing()["web"].checks[0].share is None

    asyncio.run(run())
