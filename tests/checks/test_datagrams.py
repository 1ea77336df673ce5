"""UDP, DNS and ping against the kernel and small servers."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import dns.message
import dns.rrset
import pytest

from kernlb.checks.spec import Check, DnsProbe, Match, PingProbe, Transport, UdpProbe
from kernlb.checks.verdict import Code, Outcome, Verdict
from tests.checks.servers import serving, verdict

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="ICMP sockets need root")


@contextmanager
def answering(answer: Callable[[bytes], list[bytes]], host: str = "127.0.0.1") -> Iterator[int]:
    """A datagram server in a thread; `answer` gives the datagrams to send back."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    data, peer = sock.recvfrom(65535)
                except TimeoutError:
                    continue
                for each in answer(data):
                    sock.sendto(each, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            over.set()
            thread.join()


def udp(port: int, *, host: str = "127.0.0.1", timeout: float = 1.0, **options) -> Verdict:
    return asyncio.run(verdict(Check(probe=UdpProbe(**options), timeout=timeout), port, host))


def test_a_closed_udp_port_is_down_at_once():
    with answering(lambda data: []) as port:
        pass
    found = udp(port, timeout=5.0)
    assert (found.outcome, found.text) == (Outcome.DOWN, "L4CON connection refused")


def test_a_silent_udp_server_is_up_unless_it_must_answer():
    with answering(lambda data: []) as port:
        assert udp(port, timeout=0.3).outcome is Outcome.UP
        found = udp(port, timeout=0.3, require_reply=True)
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.L7TOUT)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_answer_of_a_udp_server_decides(host):
    with answering(lambda data: [b"pong" if data == b"ping" else b"what?"], host) as port:
        assert udp(port, host=host, payload=b"ping", match=Match(text=b"pong")).outcome is Outcome.UP
        assert udp(port, host=host, payload=b"x", match=Match(text=b"pong")).outcome is Outcome.DOWN


def answer(query: bytes, rcode: int = 0) -> bytes:
    question = dns.message.from_wire(query)
    response = dns.message.make_response(question)
    response.set_rcode(rcode)
    response.answer.append(dns.rrset.from_text(question.question[0].name, 60, "IN", "A", "192.0.2.7"))
    return response.to_wire()


def resolved(port: int, *, timeout: float = 1.0, **options) -> Verdict:
    probe = DnsProbe(name="web.example", record_type="A", **options)
    return asyncio.run(verdict(Check(probe=probe, timeout=timeout), port))


def test_a_dns_answer_is_up():
    with answering(lambda query: [answer(query)]) as port:
        found = resolved(port)
        assert (found.outcome, found.text) == (Outcome.UP, "L7OK NOERROR")
        assert resolved(port, match=Match(pattern=r"192\.0\.2\.7")).outcome is Outcome.UP
        assert resolved(port, match=Match(pattern=r"192\.0\.2\.8")).outcome is Outcome.DOWN


def test_a_dns_refusal_is_down_unless_it_is_what_was_wanted():
    with answering(lambda query: [answer(query, 5)]) as port:
        assert resolved(port).text == "L7STS REFUSED"
        assert resolved(port, rcodes=("REFUSED",)).outcome is Outcome.UP


def test_stray_and_forged_answers_are_passed_over():
    with answering(
        lambda query: [b"garbage", b"\xc0\x0c" * 30, b"\xff\xff" + answer(query)[2:], answer(query)]
    ) as port:
        assert resolved(port).outcome is Outcome.UP


def test_garbage_alone_is_down():
    with answering(lambda query: [b"\0" * 12] * 50) as port:
        assert resolved(port).outcome is Outcome.DOWN


def test_dns_over_tcp_is_read_in_pieces_and_closed_halfway_is_down():
    async def handler(reader, writer):
        size = int.from_bytes(await reader.readexactly(2), "big")
        wire = answer(await reader.readexactly(size))
        writer.write(len(wire).to_bytes(2, "big") + wire[:5])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(wire[5:])
        await writer.drain()

    async def halfway(reader, writer):
        await reader.read(2)
        writer.write(b"\xff\xff\0")
        await writer.drain()

    async def run(which) -> Verdict:
        async with serving(which) as port:
            probe = DnsProbe(name="web.example", record_type="A", transport=Transport.TCP)
            return await verdict(Check(probe=probe, timeout=1.0), port)

    assert asyncio.run(run(handler)).outcome is Outcome.UP
    assert asyncio.run(run(halfway)).outcome is Outcome.DOWN


@needs_root
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("size", [0, 32, 1001])
def test_a_host_that_answers_pings_is_up(host, size):
    check = Check(probe=PingProbe(payload_bytes=size), timeout=1.0, bind_address=ip_address(host))
    found = asyncio.run(verdict(check, 0, host))
    assert found.outcome is Outcome.UP
    assert found.seconds < 0.5


@needs_root
def test_many_pings_at_once_are_not_mixed_up():
    async def many() -> list[Verdict]:
        check = Check(probe=PingProbe(), timeout=2.0)
        return list(await asyncio.gather(*(verdict(check, 0, f"127.0.1.{n}") for n in range(1, 30))))

    assert {each.outcome for each in asyncio.run(many())} == {Outcome.UP}
