"""One DNS question, over UDP or TCP; the answer's code and, if asked for, its records decide."""

import asyncio
import socket

import dns.exception
import dns.message
import dns.rcode

from kernlb.checks.base import opened
from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.matching import Matcher
from kernlb.checks.spec import DnsProbe, Transport
from kernlb.checks.stream import connected
from kernlb.checks.verdict import Code, Verdict

LARGEST = 8192  # bytes of an answer that is read: thousands of records would hold up the others
STRAY = 16  # wrong answers that are passed over


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, DnsProbe)
    query = dns.message.make_query(probe.name, probe.record_type)
    by_tcp = probe.transport is Transport.TCP
    answer = await (_over_tcp(conversation, query) if by_tcp else _over_udp(conversation, query))
    code = dns.rcode.to_text(answer.rcode())
    if code not in probe.rcodes:
        return conversation.down(Code.L7STS, code)
    if probe.match is not None:
        matcher = Matcher(probe.match)
        records = "\n".join(rrset.to_text() for rrset in answer.answer)
        if not matcher.satisfied(records.encode()):
            return conversation.down(Code.L7RSP, matcher.complaint)
    return conversation.up(Code.L7OK, code)


async def _over_udp(conversation: Conversation, query: dns.message.Message) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    with opened(conversation.target, socket.SOCK_DGRAM) as sock:
        sock.connect(conversation.target.sockaddr)
        sock.send(query.to_wire())
        for _ in range(STRAY):
            data = await loop.sock_recv(sock, LARGEST)
            conversation.layer = Code.L7RSP
            conversation.first_byte()
            answer = _read(data)
            if answer is not None and query.is_response(answer):
                return answer
    raise Failed(Code.L7RSP, "answers something else than was asked")


async def _over_tcp(conversation: Conversation, query: dns.message.Message) -> dns.message.Message:
    wire = query.to_wire()
    async with connected(conversation, budget=LARGEST) as stream:
        stream.write(len(wire).to_bytes(2, "big") + wire)
        received = b""
        while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
            data = await stream.read()
            if not data:
                raise EOFError
            received += data
        answer = _read(received[2 : 2 + int.from_bytes(received[:2], "big")])
        if answer is None or not query.is_response(answer):
            raise Failed(Code.L7RSP, "answers something else than was asked")
        return answer


def _read(data: bytes) -> dns.message.Message | None:
    try:
        return dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return None
