"""HAProxy's agent-check: connect, read one line, obey. An agent that cannot be reached or understood orders nothing."""

from kernlb.checks.dialogue import Conversation
from kernlb.checks.orders import parsed
from kernlb.checks.spec import AgentProbe
from kernlb.checks.stream import connected
from kernlb.checks.verdict import Code, Orders, Outcome, Verdict

LINE = 1024  # bytes


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, AgentProbe)
    conversation.silence = Verdict(Outcome.NEUTRAL, Code.L7TOUT, "the agent did not answer in time")
    try:
        said = await _line(conversation, probe)
    except OSError as error:
        return _unheard(conversation, f"the agent cannot be reached: {error.strerror or error}")
    if said is None:
        return _unheard(conversation, f"the agent said no line within {LINE} bytes")
    orders, reason = parsed(said)
    outcome = {True: Outcome.UP, False: Outcome.DOWN, None: Outcome.NEUTRAL}[orders.up]
    if orders == Orders():
        return _unheard(conversation, f"the agent said nothing known: {said[:60]!r}")
    code = Code.L7STS if orders.up is False else Code.L7OK
    return Verdict(outcome, code, f"agent: {reason or said}"[:120], None, orders)


async def _line(conversation: Conversation, probe: AgentProbe) -> str | None:
    async with connected(conversation, budget=LINE) as stream:
        if probe.send:
            stream.write(probe.send)
        received = b""
        while len(received) < LINE and b"\n" not in received:
            data = await stream.read()
            if not data:
                break
            received += data
        line, end, _ = received.partition(b"\n")
        whole = bool(end) or len(received) < LINE
        return line.decode("utf-8", "replace").strip() if whole and received else None


def _unheard(conversation: Conversation, reason: str) -> Verdict:
    return Verdict(Outcome.NEUTRAL, conversation.layer, reason)
