"""Agents that speak, mumble, or shout."""

import asyncio

from kernlb.checks.spec import AgentProbe, Check
from kernlb.checks.verdict import Code, Orders, Outcome, Verdict
from tests.checks.servers import Handler, endless, serving, silent, verdict


def telling(data: bytes) -> Handler:
    async def handler(reader, writer):
        writer.write(data)
        await writer.drain()

    return handler


def judged(handler: Handler, *, timeout: float = 2.0, send: bytes = b"") -> Verdict:
    async def run() -> Verdict:
        async with serving(handler) as port:
            return await verdict(Check(probe=AgentProbe(send=send), timeout=timeout), port)

    return asyncio.run(run())


def test_a_weight_alone_says_nothing_of_health():
    found = judged(telling(b"75%\n"))
    assert (found.outcome, found.orders) == (Outcome.NEUTRAL, Orders(share=0.75))


def test_down_is_down_with_the_agents_reason():
    found = judged(telling(b"down #no space left\r\n"))
    assert (found.outcome, found.reason) == (Outcome.DOWN, "agent: no space left")
    assert found.orders == Orders(up=False)


def test_up_with_more_is_up():
    assert judged(telling(b"up ready 50% maxconn:10\n")).outcome is Outcome.UP


def test_a_line_ends_with_the_connection_too():
    assert judged(telling(b"drain")).orders is not None


def test_what_is_sent_reaches_the_agent():
    async def echoing(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()

    assert judged(echoing, send=b"maint\n").orders is not None


def test_an_agent_that_cannot_be_heard_orders_nothing():
    for found in (
        asyncio.run(verdict(Check(probe=AgentProbe(), timeout=0.5), 1)),
        judged(silent(), timeout=0.3),
        judged(telling(b"")),
        judged(telling(b"\xff\xfe\0\n")),
        judged(telling(b"up" + b" " * 5000 + b"\n")),
    ):
        assert (found.outcome, found.orders) == (Outcome.NEUTRAL, None)


def test_ten_megabytes_without_a_line_are_not_read():
    found = judged(endless(b"", b"u" * 65536), timeout=10)
    assert (found.outcome, found.code) == (Outcome.NEUTRAL, Code.L7RSP)
