"""TCP with steps, as HAProxy's tcp-check: send, expect, in their order, over TLS if asked for."""

from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.matching import Matcher
from kernlb.checks.spec import Expect, Send, TcpProbe
from kernlb.checks.stream import Stream, connected
from kernlb.checks.verdict import Code, Verdict


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, TcpProbe)
    async with connected(conversation, probe.tls) as stream:
        received = bytearray()
        for number, step in enumerate(probe.steps, start=1):
            match step:
                case Send():
                    received.clear()
                    stream.write(step.data)
                    await stream.drain()
                case Expect():
                    await _expect(stream, step, received, number)
        conversation.first_byte()
        return conversation.up(Code.L7OK if probe.steps else Code.L6OK)


async def _expect(stream: Stream, step: Expect, received: bytearray, number: int) -> None:
    """Waits for more bytes as long as they could bring what is wanted. What is unwanted is judged by the first."""
    matcher = Matcher(step.match)
    more = True
    while more and len(received) < max(step.min_bytes, 1):
        more = await _receive(stream, received)
    while not matcher.satisfied(bytes(received)):
        if step.match.negate or step.min_bytes or not more:
            ended = "" if more else ", then closed"
            raise Failed(Code.L7RSP, f"step {number}: {matcher.complaint}{ended}")
        more = await _receive(stream, received)


async def _receive(stream: Stream, received: bytearray) -> bool:
    data = await stream.read()
    received += data
    return bool(data)
