"""Mutated packets: the program never aborts, changes no packet of a non-VIP, and sends nothing malformed.

KERNLB_FUZZ sets how many (default 20,000; a million takes some minutes).
"""

import os
import random
import struct

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether

from kernlb.engines.dataplane import TC, XDP, Dataplane
from tests.bpf.world import FULLNAT, METHODS, PASSED, SENT, SOURCE4, World, frame, icmp_error, network, tcp, udp

pytestmark = [pytest.mark.bpf, pytest.mark.timeout(3600)]
PACKETS = int(os.environ.get("KERNLB_FUZZ", "20000"))


def seeds() -> list[bytes]:
    packets = []
    for method in METHODS:
        for family in (4, 6):
            packets += [
                frame(method, family, transport) for transport in (tcp("S"), tcp("A", payload=bytes(200)), udp())
            ]
        packets.append(frame(method, 4, tcp("S"), options=b"\x01\x01\x01\x00"))
        packets.append(frame(method, 6, IPv6ExtHdrDestOpt() / tcp("S")))
        packets.append(frame(method, 6, IPv6ExtHdrFragment(id=5, m=1) / udp()))
        packets.append(frame(method, 4, udp(), flags="MF"))
        quoted = IP(src=method.vip4, dst="198.51.100.7") / TCP(sport=80, dport=40000)
        packets.append(icmp_error(method, quoted=quoted, destination=method.vip4))
        packets.append(Ether() / Dot1Q(vlan=3) / Dot1Q(vlan=4) / network(4, method.vip4) / tcp("S"))
    packets.append(Ether() / IP(src=str(FULLNAT.server(0, 4)), dst=str(SOURCE4)) / TCP(sport=8080, dport=2000))
    return [bytes(packet) for packet in packets]


def mutate(dice: random.Random, packet: bytes, shortest: int) -> bytes:
    changed = bytearray(packet)
    for _ in range(dice.randint(1, 4)):
        match dice.randrange(5):
            case 0:
                changed[dice.randrange(12, len(changed))] = dice.randrange(256)
            case 1:
                changed[dice.randrange(12, min(len(changed), 80))] ^= 1 << dice.randrange(8)
            case 2:
                del changed[max(14, dice.randrange(len(changed))) :]
            case 3:
                changed += dice.randbytes(dice.randrange(64))
            case 4 if len(changed) > 40:
                at = dice.randrange(14, len(changed) - 2)
                changed[at : at + 2] = dice.choice([b"\0\0", b"\xff\xff", b"\x7f\xff", b"\0\x01"])
    # The kernel takes no shorter frame for a test run.
    return bytes(changed).ljust(shortest, b"\0")


def to_whom(packet: bytes) -> bytes | None:
    """The destination address, behind up to two tags."""
    at = 12
    for _ in range(2):
        if packet[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
            at += 4
    kind, head = packet[at : at + 2], packet[at + 2 :]
    if kind == b"\x08\x00":
        return head[16:20]
    return head[24:40] if kind == b"\x86\xdd" else None


def well_formed(packet: bytes) -> bool:
    """The outermost IP header is one: version, lengths and, for IPv4, a checksum no worse than it came."""
    at = 12
    for _ in range(2):
        if packet[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
            at += 4
    head = packet[at + 2 :]
    if packet[at : at + 2] == b"\x08\x00":
        return (
            head[0] >> 4 == 4
            and head[0] & 15 >= 5
            and (head[0] & 15) * 4 <= struct.unpack("!H", head[2:4])[0] <= len(head)
        )
    return (
        packet[at : at + 2] == b"\x86\xdd" and head[0] >> 4 == 6 and struct.unpack("!H", head[4:6])[0] + 40 <= len(head)
    )


@pytest.mark.parametrize("hook", [XDP, TC])
def test_mutated_packets_harm_nobody(plane: Dataplane, hook: str) -> None:
    world = World(plane)
    ours = {address.packed for address in world.addresses}
    dice = random.Random(20261123)
    corpus = seeds()
    program = plane.program(hook)
    sent = 0
    for number in range(PACKETS):
        packet = mutate(dice, corpus[number % len(corpus)], 54 if hook == TC else 14)
        run = program.run(packet)
        assert run.verdict in (PASSED[hook], SENT[hook]), packet.hex()
        if run.verdict == PASSED[hook]:
            assert run.packet == packet, packet.hex()
            continue
        sent += 1
        assert to_whom(packet) in ours, packet.hex()
        assert hook == TC or well_formed(run.packet), f"{packet.hex()} -> {run.packet.hex()}"
    assert sent > PACKETS // 20
