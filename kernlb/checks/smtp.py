"""SMTP (RFC 5321): greeting, EHLO or HELO, QUIT; STARTTLS (RFC 3207) if asked for."""

from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.spec import SmtpProbe, TlsOptions
from kernlb.checks.stream import Stream, connected
from kernlb.checks.verdict import Code, Verdict

LINES = 100


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, SmtpProbe)
    first = None if probe.starttls else probe.tls
    async with connected(conversation, first) as stream:
        await _expect(stream, 220, "the greeting")
        await _hello(stream, probe.helo)
        if probe.starttls:
            stream.write(b"STARTTLS\r\n")
            await _expect(stream, 220, "STARTTLS")
            await stream.start_tls(probe.tls or TlsOptions())
            await _hello(stream, probe.helo)
        stream.write(b"QUIT\r\n")
        await stream.drain()
        return conversation.up(Code.L7OK)


async def _hello(stream: Stream, name: str) -> None:
    stream.write(f"EHLO {name}\r\n".encode())
    code, _ = await _reply(stream)
    if code != 250:
        stream.write(f"HELO {name}\r\n".encode())
        await _expect(stream, 250, "HELO")


async def _expect(stream: Stream, wanted: int, what: str) -> None:
    code, text = await _reply(stream)
    if code != wanted:
        raise Failed(Code.L7STS, f"answered {what} with {code} {text}"[:120])


async def _reply(stream: Stream) -> tuple[int, str]:
    for _ in range(LINES):
        line = (await stream.line()).decode("latin-1")
        if not line[:3].isascii() or not line[:3].isdigit():
            raise Failed(Code.L7RSP, f"not SMTP: {line[:60]!r}")
        if line[3:4] != "-":
            return int(line[:3]), line[4:]
    raise Failed(Code.L7RSP, "a reply without end")
