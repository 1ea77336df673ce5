"""The packets that speak for or against a real server, and the classic BPF program that lets no others through."""

import ctypes
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address

from kernlb.model import IPAddress

SNAP = 96
"""Bytes of a packet that the filter lets through."""

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SO_ATTACH_FILTER = 26
_OUTGOING = 4  # PACKET_OUTGOING of linux/if_packet.h
_PROTOCOL, _PKTTYPE = 0xFFFFF000, 0xFFFFF004  # SKF_AD_PROTOCOL and SKF_AD_PKTTYPE of linux/filter.h
_SYN, _RST, _ACK, _KINDS = 0x02, 0x04, 0x10, 0x17  # with FIN

# linux/bpf_common.h
_LD_W, _LD_H, _LD_B = 0x20, 0x28, 0x30
_LDX_IPLEN, _LDX_IMM, _LDI_H, _LDI_B = 0xB1, 0x01, 0x48, 0x50
_JEQ, _JSET, _JA, _AND, _RET = 0x15, 0x45, 0x05, 0x54, 0x06

End = tuple[IPAddress, int]
"""Address and port."""


class Kind(Enum):
    SYN = auto()
    ANSWER = auto()  # SYN+ACK
    REFUSAL = auto()  # a reset that answers a SYN
    RESET = auto()  # of an established connection


@dataclass(frozen=True, slots=True)
class Sighting:
    kind: Kind
    source: End
    target: End
    sequence: int


def sighting(packet: bytes) -> Sighting | None:
    """What the filter let through, from the network header on; None for what is cut off or of another kind."""
    try:
        if packet[0] >> 4 == 4:
            at = (packet[0] & 15) * 4
            source: IPAddress = IPv4Address(packet[12:16])
            target: IPAddress = IPv4Address(packet[16:20])
        else:
            at = 40
            source, target = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        sport, dport, sequence = struct.unpack_from("!HHI", packet, at)
        flags = packet[at + 13]
    except (IndexError, struct.error, ValueError):
        return None
    # RFC 9293, 3.5.2: a reset that answers a SYN has sequence number 0.
    reset = Kind.RESET if sequence else Kind.REFUSAL
    kind = reset if flags & _RST else Kind.ANSWER if flags & _ACK else Kind.SYN
    return Sighting(kind, (source, sport), (target, dport), sequence)


def opened() -> socket.socket:
    """A packet socket of the calling thread's network namespace behind the filter. Raises OSError."""
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    sock = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
    try:
        attach(sock, program(0))
        _emptied(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _emptied(sock: socket.socket) -> None:
    """Of what came in before the filter was there."""
    for _ in range(1 << 16):
        try:
            sock.recv(1)
        except BlockingIOError:
            return


def program(shift: int) -> list[tuple[int, int, int, int]]:
    """The filter: SYNs that go out, answers and resets that come in; of one client port in 2**shift."""
    sampled = (1 << shift) - 1
    tail: list[tuple[int, str | int, str | int, int]]
    tail = [
        (_LDI_B, 0, 0, 13),
        (_AND, 0, 0, _KINDS),
        (_JEQ, "out", 0, _SYN),
        (_JEQ, 1, 0, _SYN | _ACK),
        (_JSET, 0, "drop", _RST),
        (_LD_W, 0, 0, _PKTTYPE),
        (_JEQ, "drop", 0, _OUTGOING),
        (_LDI_H, 0, 0, 2),
        (_JSET, "drop", "take", sampled),
        (_LD_W, 0, 0, _PKTTYPE),  # out
        (_JEQ, 0, "drop", _OUTGOING),
        (_LDI_H, 0, 0, 0),
        (_JSET, "drop", "take", sampled),
    ]
    lines: list[tuple[int, str | int, str | int, int]] = [
        (_LD_W, 0, 0, _PROTOCOL),
        (_JEQ, 0, 6, _ETH_P_IP),
        (_LD_B, 0, 0, 9),
        (_JEQ, 0, "drop", socket.IPPROTO_TCP),
        (_LD_H, 0, 0, 6),
        (_JSET, "drop", 0, 0x1FFF),  # later fragments
        (_LDX_IPLEN, 0, 0, 0),
        (_JA, 0, 0, 4),
        (_JEQ, 0, "drop", _ETH_P_IPV6),
        (_LD_B, 0, 0, 6),
        (_JEQ, 0, "drop", socket.IPPROTO_TCP),
        (_LDX_IMM, 0, 0, 40),
        *tail,
        (_RET, 0, 0, SNAP),
        (_RET, 0, 0, 0),
    ]
    places = {"take": len(lines) - 2, "drop": len(lines) - 1, "out": len(lines) - 2 - 4}

    def jump(to: str | int, here: int) -> int:
        return to if isinstance(to, int) else places[to] - here - 1

    return [(code, jump(yes, n), jump(no, n), value) for n, (code, yes, no, value) in enumerate(lines)]


def attach(sock: socket.socket, code: Sequence[tuple[int, int, int, int]]) -> None:
    """Replaces the filter in one step."""
    packed = b"".join(struct.pack("HBBI", *line) for line in code)
    held = ctypes.create_string_buffer(packed)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(code), ctypes.addressof(held)))
