"""Scripts of send and expect, as HAProxy's tcp-check."""

import asyncio

from kernlb.checks.spec import Check, Expect, Match, Send, TcpProbe, TlsOptions
from kernlb.checks.verdict import Code, Outcome, Verdict
from tests.checks.servers import Handler, certificate, endless, serving, silent, verdict

PAUSE = 0.2


async def redis(reader, writer):
    """Says things in pieces, as networks do."""
    writer.write(b"+hel")
    await writer.drain()
    await asyncio.sleep(PAUSE)
    writer.write(b"lo\r\n")
    while line := await reader.readline():
        for piece in (b"+PO", b"NG\r\n") if line == b"PING\r\n" else (b"-ERR unknown\r\n",):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)


def judged(*steps, handler: Handler = redis, behind=None, tls=None, timeout: float = 2.0) -> Verdict:
    async def run() -> Verdict:
        async with serving(handler, tls=behind) as port:
            return await verdict(Check(probe=TcpProbe(steps=steps, tls=tls), timeout=timeout), port)

    return asyncio.run(run())


def expect(text: bytes | None = None, **options) -> Expect:
    negate = options.pop("negate", False)
    return Expect(match=Match(text=text, pattern=options.pop("pattern", None), negate=negate), **options)


def test_steps_are_played_in_order_over_split_answers():
    found = judged(expect(b"+hello"), Send(data=b"PING\r\n"), expect(b"+PONG"))
    assert (found.outcome, found.code) == (Outcome.UP, Code.L7OK)
    assert found.seconds < PAUSE, "the time of the first byte"


def test_a_wrong_answer_waits_until_the_timeout_because_more_might_come():
    found = judged(expect(b"+hello"), Send(data=b"NONSENSE\r\n"), expect(b"+PONG"), timeout=0.4)
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.L7TOUT)


def test_enough_bytes_make_a_wrong_answer_final():
    found = judged(Send(data=b"X\r\n"), expect(b"+PONG", min_bytes=5), timeout=5)
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.L7RSP)


def test_what_must_not_come_is_judged_at_once():
    assert judged(expect(b"-ERR", negate=True)).outcome is Outcome.UP
    assert judged(expect(b"+hel", negate=True)).outcome is Outcome.DOWN


def test_expressions_match_bytes():
    assert judged(expect(pattern=r"^\+h[a-z]{4}\r\n$")).outcome is Outcome.UP


def test_a_server_that_closes_early_is_down_and_the_step_is_named():
    async def closing(reader, writer):
        writer.write(b"bye")
        await writer.drain()

    found = judged(expect(b"+hello"), handler=closing)
    assert (found.outcome, found.reason) == (Outcome.DOWN, "step 1: answered without '+hello', then closed")


def test_steps_go_through_tls(tmp_path):
    tls, authority = certificate(tmp_path)
    assert judged(expect(b"+hello"), behind=tls, tls=TlsOptions(ca_file=str(authority))).outcome is Outcome.UP


def test_an_answer_without_end_is_cut():
    found = judged(expect(b"needle"), handler=endless(b"", b"hay" * 1000), timeout=10)
    assert (found.outcome, found.reason) == (Outcome.DOWN, "answers without end")


def test_a_silent_server_times_out():
    assert judged(expect(b"x"), handler=silent(), timeout=0.2).code is Code.L7TOUT
