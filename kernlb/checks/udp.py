"""A datagram: ICMP unreachable is down, and so is silence or a wrong answer where an answer is required."""

import asyncio
import socket

from kernlb.checks.base import opened
from kernlb.checks.dialogue import Conversation
from kernlb.checks.matching import Matcher
from kernlb.checks.spec import UdpProbe
from kernlb.checks.verdict import Code, Verdict

DATAGRAM = 65535


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, UdpProbe)
    loop = asyncio.get_running_loop()
    with opened(conversation.target, socket.SOCK_DGRAM) as sock:
        # Connected, so that the kernel hands ICMP errors to it and drops what others send.
        sock.connect(conversation.target.sockaddr)
        sock.send(probe.payload)
        if probe.require_reply or probe.match is not None:
            conversation.layer = Code.L7RSP
        else:
            conversation.silence = conversation.up(Code.L4OK, "no ICMP error")
        answer = await loop.sock_recv(sock, DATAGRAM)
        conversation.first_byte()
        if probe.match is not None:
            matcher = Matcher(probe.match)
            if not matcher.satisfied(answer):
                return conversation.down(Code.L7RSP, matcher.complaint)
        return conversation.up(Code.L7OK if probe.require_reply or probe.match else Code.L4OK)
