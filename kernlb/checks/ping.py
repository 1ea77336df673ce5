"""One ICMP echo (RFC 792, RFC 4443), by the kernel's ping sockets where they are allowed, else by a raw one."""

import asyncio
import itertools
import os
import socket
import struct

from kernlb.checks.base import opened
from kernlb.checks.dialogue import Conversation
from kernlb.checks.spec import PingProbe
from kernlb.checks.verdict import Code, Verdict

ECHO = {socket.AF_INET: 8, socket.AF_INET6: 128}
REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}  # linux/in.h, in6.h
SEQUENCE = itertools.count()


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, PingProbe)
    family = conversation.target.family
    loop = asyncio.get_running_loop()
    sock, raw = _socket(conversation)
    with sock:
        sock.setsockopt(*RECVERR[family], 1)  # unreachable is told at once instead of waited for
        sock.connect((conversation.target.sockaddr[0], 0))
        # The payload begins with a random token: a raw socket also sees the answers to others.
        token = os.urandom(8)
        sequence = next(SEQUENCE) & 0xFFFF
        payload = token + bytes(max(probe.payload_bytes - len(token), 0))
        sock.send(_echo(ECHO[family], sequence, payload))
        while True:
            answer = await loop.sock_recv(sock, 65535)
            if raw and family == socket.AF_INET:
                answer = answer[(answer[0] & 0x0F) * 4 :]  # IPv4 raw sockets hand over the IP header
            if answer[:1] == bytes([REPLY[family]]) and answer[8:16] == token:
                conversation.first_byte()
                return conversation.up(Code.L4OK, "echo reply")


def _socket(conversation: Conversation) -> tuple[socket.socket, bool]:
    protocol = PROTOCOL[conversation.target.family]
    try:
        return opened(conversation.target, socket.SOCK_DGRAM, protocol), False
    except PermissionError:
        return opened(conversation.target, socket.SOCK_RAW, protocol), True


def _echo(kind: int, sequence: int, payload: bytes) -> bytes:
    """The kernel fills in the identifier of ping sockets, and every checksum of ICMPv6."""
    head = struct.pack("!BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, sequence)
    return head[:2] + struct.pack("!H", _checksum(head + payload)) + head[4:] + payload


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
