"""SMTP dialogues."""

import asyncio

from kernlb.checks.spec import Check, SmtpProbe, TlsOptions
from kernlb.checks.verdict import Code, Outcome, Verdict
from tests.checks.servers import Handler, certificate, endless, saying, serving, verdict


def mail(
    *, greeting: bytes = b"220-mail.example\r\n220 ready\r\n", ehlo: bool = True, tls=None, said: list | None = None
) -> Handler:
    async def handler(reader, writer):
        writer.write(greeting)
        while line := await reader.readline():
            if said is not None:
                said.append(line.strip())
            match line.split()[0].upper():
                case b"EHLO" if ehlo:
                    writer.write(b"250-mail.example\r\n250-STARTTLS\r\n250 SIZE 1000\r\n")
                case b"HELO":
                    writer.write(b"250 mail.example\r\n")
                case b"STARTTLS" if tls is not None:
                    writer.write(b"220 go ahead\r\n")
                    await writer.drain()
                    await writer.start_tls(tls)
                case b"QUIT":
                    writer.write(b"221 bye\r\n")
                    return
                case _:
                    writer.write(b"502 not implemented\r\n")
            await writer.drain()

    return handler


def judged(handler: Handler, *, behind=None, timeout: float = 2.0, **options) -> Verdict:
    async def run() -> Verdict:
        async with serving(handler, tls=behind) as port:
            return await verdict(Check(probe=SmtpProbe(**options), timeout=timeout), port)

    return asyncio.run(run())


def test_a_mail_server_is_up_and_told_goodbye():
    said: list[bytes] = []
    assert judged(mail(said=said), helo="lb.example").code is Code.L7OK
    assert said[0] == b"EHLO lb.example"


def test_a_server_without_ehlo_is_greeted_as_of_old():
    assert judged(mail(ehlo=False)).outcome is Outcome.UP


def test_a_server_that_turns_callers_away_is_down():
    found = judged(mail(greeting=b"554 no service\r\n"))
    assert (found.outcome, found.reason) == (Outcome.DOWN, "answered the greeting with 554 no service")


def test_tls_from_the_start_and_midway(tmp_path):
    tls, authority = certificate(tmp_path)
    options = TlsOptions(server_name="web.example", ca_file=str(authority))
    assert judged(mail(), behind=tls, tls=options).outcome is Outcome.UP
    assert judged(mail(tls=tls), starttls=True, tls=options).outcome is Outcome.UP
    assert judged(mail(tls=tls), starttls=True).code is Code.L6RSP


def test_what_is_not_smtp_or_never_ends_is_down():
    assert judged(saying(b"HTTP/1.1 400\r\n"), timeout=0.3).outcome is Outcome.DOWN
    assert judged(endless(b"", b"hello\r\n")).outcome is Outcome.DOWN
    assert judged(endless(b"", b"220-more\r\n")).outcome is Outcome.DOWN
    assert judged(endless(b"", b"220" * 1000), timeout=5).outcome is Outcome.DOWN
