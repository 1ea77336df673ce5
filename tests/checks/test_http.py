"""HTTP and HTTPS probes against servers that answer, lie, or never end."""

import asyncio
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kernlb.checks.spec import Check, HttpProbe, Match, StatusRange, TlsOptions
from kernlb.checks.verdict import Code, Outcome, Verdict
from tests.checks.servers import Handler, certificate, endless, saying, serving, silent, verdict
from tests.test_checker_hostile import measured_turns

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def judged(handler: Handler, *, behind=None, timeout: float = 2.0, **options) -> Verdict:
    async def run() -> Verdict:
        async with serving(handler, tls=behind) as port:
            return await verdict(Check(probe=HttpProbe(**options), timeout=timeout), port)

    return asyncio.run(run())


def test_a_status_in_range_is_up_with_the_time_of_its_first_byte():
    found = judged(saying(OK))
    assert (found.outcome, found.text) == (Outcome.UP, "L7OK 200 OK")
    assert 0 < found.seconds < 1


def test_a_status_out_of_range_is_down_and_named():
    found = judged(saying(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"))
    assert (found.outcome, found.text) == (Outcome.DOWN, "L7STS 503 Service Unavailable")
    ranges = (StatusRange(first=204, last=204), StatusRange(first=500, last=503))
    assert judged(saying(b"HTTP/1.1 503 X\r\n\r\n"), status=ranges).outcome is Outcome.UP


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"", "closed before it answered"), (b"HTTP/1.1 20", "not HTTP: peer unexpectedly closed connection")],
)
def test_a_server_that_closes_is_down_and_says_so(answer, reason):
    async def closing(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    assert judged(closing).text == f"L7RSP {reason}"


def test_the_request_is_what_was_asked_for():
    seen = b""

    async def handler(reader, writer):
        nonlocal seen
        seen = await reader.readuntil(b"\r\n\r\n")
        seen += await reader.readexactly(4)
        writer.write(OK)
        await writer.drain()

    judged(handler, method="POST", path="/healthz?x=1", host="web.example", headers=(("X-Check", "yes"),), body=b"body")
    lines = seen.split(b"\r\n")
    assert lines[0] == b"POST /healthz?x=1 HTTP/1.1"
    assert {b"Host: web.example", b"X-Check: yes", b"Content-Length: 4", b"Connection: close"} <= set(lines)
    assert lines[-1] == b"body"


@pytest.mark.parametrize(
    ("match", "outcome"),
    [
        (Match(text=b"ell"), Outcome.UP),
        (Match(text=b"elk"), Outcome.DOWN),
        (Match(pattern="^h.*o$"), Outcome.UP),
        (Match(pattern="error", negate=True), Outcome.UP),
        (Match(pattern="h[aeiou]", negate=True), Outcome.DOWN),
    ],
)
def test_the_body_decides_where_asked(match, outcome):
    assert judged(saying(OK), match=match).outcome is outcome


def test_a_chunked_body_is_read_as_one():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    assert judged(saying(chunked), match=Match(text=b"hello")).outcome is Outcome.UP


def test_interim_answers_are_passed_over():
    assert judged(saying(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)).outcome is Outcome.UP


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\0" * 4096,
        b"HTTP/9.9 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
    ],
)
def test_what_is_not_http_is_down(answer):
    found = judged(saying(answer))
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.L7RSP)


def test_a_close_without_an_answer_is_down():
    async def handler(reader, writer):
        await reader.read(10)

    assert judged(handler).outcome is Outcome.DOWN


def test_silence_is_down_at_the_timeout():
    found = judged(silent(), timeout=0.3)
    assert (found.outcome, found.text) == (Outcome.DOWN, "L7TOUT no answer within 0.3 s")


@pytest.mark.parametrize(
    "handler",
    [
        endless(b"HTTP/1.1 200 OK\r\n", b"X-Endless: " + b"x" * 1000 + b"\r\n"),
        endless(b"HTTP/1.1 200 OK\r\nX-Endless: ", b"x" * 1000),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["headers", "one header", "interim answers"],
)
def test_headers_without_end_are_down_long_before_the_timeout(handler):
    found = judged(handler, timeout=20)
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.L7RSP)


def test_a_huge_body_is_read_no_further_than_its_limit():
    gigabyte = endless(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b"x" * 65536)
    assert judged(gigabyte).outcome is Outcome.UP
    assert judged(gigabyte, match=Match(text=b"needle")).outcome is Outcome.DOWN
    late = endless(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"y" * 1000 + b"needle", b"x" * 65536)
    assert judged(late, match=Match(text=b"needle"), body_limit=100).outcome is Outcome.DOWN
    assert judged(late, match=Match(text=b"needle"), body_limit=2000).outcome is Outcome.UP


def test_an_expression_that_explodes_is_cut_short():
    body = b"a" * 5000 + b"!"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def stalls() -> tuple[Verdict, float]:
        async with serving(saying(answer)) as port:
            with measured_turns(asyncio.get_running_loop()) as longest:
                found = await verdict(Check(probe=HttpProbe(match=Match(pattern="^(a|a)*$"))), port)
            return found, longest[0]

    found, longest = asyncio.run(stalls())
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.L7RSP)
    assert longest < 0.5


def test_https_verifies_the_certificate_and_its_name(tmp_path):
    tls, authority = certificate(tmp_path)
    named = TlsOptions(server_name="web.example", ca_file=str(authority))
    assert judged(saying(OK), behind=tls, tls=named).text == "L7OK 200 OK"
    assert judged(saying(OK), behind=tls, tls=TlsOptions(ca_file=str(authority))).outcome is Outcome.UP
    other = judged(saying(OK), behind=tls, tls=TlsOptions(server_name="other.example", ca_file=str(authority)))
    assert (other.outcome, other.code) == (Outcome.DOWN, Code.L6RSP)
    assert "certificate refused" in judged(saying(OK), behind=tls, tls=TlsOptions()).reason
    assert judged(saying(OK), behind=tls, tls=TlsOptions(verify=False)).outcome is Outcome.UP


def test_the_server_name_is_sent(tmp_path):
    tls, _ = certificate(tmp_path)
    names = []
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    judged(saying(OK), behind=tls, tls=TlsOptions(verify=False, server_name="web.example"))
    assert names == ["web.example"]


@pytest.mark.parametrize("behind", [False, True])
def test_an_answer_that_came_in_time_counts_however_late_the_loop_reads_it(tmp_path, behind):
    context, authority = certificate(tmp_path)
    options = TlsOptions(server_name="web.example", ca_file=str(authority)) if behind else None

    async def run() -> Verdict:
        with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
            met = thread.submit(answered, listener, context if behind else None)
            check = Check(probe=HttpProbe(tls=options), timeout=0.3)
            asked = asyncio.create_task(verdict(check, listener.getsockname()[1]))
            while not met.done() and not reached.is_set():
                await asyncio.sleep(0.001)
            # What the loop has to do takes longer than the check may last; the answer comes meanwhile.
            busy.set()
            met.result()
            time.sleep(0.5)
            return await asked

    reached, busy = threading.Event(), threading.Event()

    def answered(listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        sock, _ = listener.accept()
        if tls is not None:
            sock = tls.wrap_socket(sock, server_side=True)
        with sock:
            sock.recv(1000)
            reached.set()
            busy.wait(10)
            sock.sendall(OK)

    found = asyncio.run(run())
    assert (found.outcome, found.text) == (Outcome.UP, "L7OK 200 OK")
