"""A million mutated packets: the program never aborts, changes no packet of a non-VIP, and sends nothing malformed.

KERNLB_FUZZ sets how many a hook.
"""

import os
from ipaddress import ip_address

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether

from kernlb.engines import abi
from kernlb.engines.dataplane import TC, XDP, Dataplane
from tests.bpf import oracle
from tests.bpf.conftest import HOOKS
from tests.bpf.mutation import Frames, frames, mutated, run
from tests.bpf.world import (
    CLIENT4,
    CLIENT_MAC,
    DROPPED,
    FULLNAT,
    GATEWAY_MAC,
    GUE,
    IP4_IN_IP6,
    IPIP,
    METHODS,
    PASSED,
    SENT,
    SLOTS,
    SOURCE4,
    SOURCE6,
    Method,
    World,
    checksums_hold,
    frame,
    icmp_error,
    network,
    tcp,
    udp,
)

pytestmark = pytest.mark.bpf
PACKETS = int(os.environ.get("KERNLB_FUZZ", "500000"))
BATCH = 4096
LOOKED_AT = 20
NAT = [ip_address(FULLNAT.vip4), ip_address(FULLNAT.vip6), SOURCE4, SOURCE6]
SHORTEST = {XDP: 14, TC: 54}


def seeds() -> list[bytes]:
    packets = []
    for method in METHODS:
        for family in (4, 6):
            packets += [
                frame(method, family, transport) for transport in (tcp("S"), tcp("A", payload=bytes(200)), udp())
            ]
        packets.append(frame(method, 4, tcp("S"), options=b"\x01\x01\x01\x00"))
        timed = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (7, 0)), ("NOP", None), ("WScale", 7)]
        packets.append(frame(method, 4, TCP(sport=40001, dport=80, flags="S", options=timed)))
        packets.append(frame(method, 6, IPv6ExtHdrDestOpt() / tcp("S")))
        packets.append(frame(method, 6, IPv6ExtHdrFragment(id=5, m=1) / udp()))
        packets.append(frame(method, 4, udp(), flags="MF"))
        quoted = IP(src=method.vip4, dst=CLIENT4) / TCP(sport=80, dport=40000)
        packets.append(icmp_error(method, quoted=quoted, destination=method.vip4))
        packets.append(_outside() / Dot1Q(vlan=3) / Dot1Q(vlan=4) / network(4, method.vip4) / tcp("S"))
    packets.append(_outside() / IP(src=str(FULLNAT.server(0, 4)), dst=str(SOURCE4)) / TCP(sport=8080, dport=2000))
    return [bytes(packet) for packet in packets]


def answers(plane: Dataplane, hook: str) -> list[bytes]:
    """What the servers of full NAT say to a client's first packets."""
    said = []
    for family in (4, 6):
        for transport in (tcp("S"), udp()):
            asked = Ether(plane.program(hook).run(bytes(frame(FULLNAT, family, transport))).packet)
            network, inner = asked.payload, asked.payload.payload
            back = network.__class__(src=network.dst, dst=network.src) / inner.__class__(
                sport=inner.dport, dport=inner.sport
            )
            if isinstance(inner, TCP):
                back[TCP].flags = "SA"
            said.append(bytes(_outside() / back))
    return said


def large_seeds() -> list[bytes]:
    """What an outer header makes too big."""
    full = {4: 1460, 6: 1440}
    return [
        bytes(frame(method, family, tcp("A", payload=bytes(full[family]))))
        for method in (IPIP, GUE, IP4_IN_IP6)
        for family in (4, 6)
    ]


@pytest.mark.timeout(900)
@HOOKS
def test_mutated_packets_harm_nobody(world: World, hook: str) -> None:
    for method in (IPIP, GUE):
        in_transition(world, method)
    dice = np.random.default_rng(20261123)
    met = dict.fromkeys(("passed", "too big", "in a tunnel", "forwarded", "translated"), 0)
    small = frames([*seeds(), *answers(world.plane, hook)])
    for corpus, count in ((small, PACKETS), (frames(large_seeds()), PACKETS // 50)):
        for _ in range(0, count, BATCH):
            packets = mutated(dice, corpus, min(BATCH, count), shortest=SHORTEST[hook])
            verdicts, out = run(world.plane.program(hook).fd, packets)
            judge(packets, verdicts, out, world, hook, met)
    print(f"{hook}: {met}")
    assert all(met.values()), met


def judge(packets: Frames, verdicts: np.ndarray, out: Frames, world: World, hook: str, met: dict[str, int]) -> None:
    passed, sent, dropped = (verdicts == meaning[hook] for meaning in (PASSED, SENT, DROPPED))
    without_room = dropped & oracle.addressed(oracle.heads(packets), NAT)
    demand(passed | sent | without_room, "neither passed nor sent", packets, out)
    untouched = (packets.lengths == out.lengths) & ((packets.rows == out.rows) | ~out.within()).all(axis=1)
    demand(untouched | ~passed, "passed, but not as it came", packets, out)
    packets, out = packets[sent], out[sent]
    came, went = oracle.heads(packets), oracle.heads(out)
    demand(oracle.addressed(came, list(world.addresses)), "sent, though it is to none of ours", packets, out)
    demand(oracle.well_formed(out, went), "malformed", packets, out)
    answered = np.isin(went.protocol, oracle.ICMPS) & (went.destination == came.source).all(axis=1)
    translated = oracle.addressed(came, NAT) & ~answered
    in_tunnel = (out.lengths > packets.lengths) & ~answered
    forwarded = ~(answered | translated | in_tunnel)
    for kind, rows, law in (
        ("too big", answered, fresh),
        ("in a tunnel", in_tunnel, enclosed),
        ("forwarded", forwarded, enclosed),
        ("translated", translated, rewritten),
    ):
        met[kind] += int(rows.sum())
        if rows.any():
            law(packets[rows], out[rows])
    met["passed"] += int(passed.sum())


def fresh(packets: Frames, out: Frames) -> None:
    """A packet of the gateway's own."""
    head = oracle.heads(out)
    old = head.version == 4
    demand(oracle.head_sum(out, head) == 0, "IP checksum", packets, out)
    demand(~old | (oracle.transport_sum(out, head) == 0), "ICMP checksum", packets, out)
    for number in np.nonzero(~old)[0][:LOOKED_AT]:
        assert checksums_hold(Ether(out.frame(number))), out.frame(number).hex()


def enclosed(packets: Frames, out: Frames) -> None:
    """As it came but for a hop less, inside new headers or none."""
    grown = out.lengths - packets.lengths
    sums = oracle.head_sum(out, oracle.heads(out))
    demand((grown == 0) | (sums == 0), "outer IP checksum", packets, out)
    demand(oracle.carried_unchanged(packets, oracle.heads(packets), out, grown), "changed on its way", packets, out)


def rewritten(packets: Frames, out: Frames) -> None:
    """Other addresses and ports, and every checksum as right as it came."""
    came, went = oracle.heads(packets), oracle.heads(out)
    demand(packets.lengths == out.lengths, "longer or shorter", packets, out)
    demand(oracle.head_sum(packets, came) == oracle.head_sum(out, went), "IP checksum", packets, out)
    bare = oracle.without_checksum(packets, came)
    demand(bare == oracle.without_checksum(out, went), "a UDP checksum that was not there, or is no more", packets, out)
    plain = np.isin(came.protocol, (oracle.TCP, oracle.UDP, oracle.ICMP)) & ~bare
    same = oracle.transport_sum(packets, came) == oracle.transport_sum(out, went)
    demand(same | ~plain, "transport checksum", packets, out)


def demand(truths: np.ndarray, what: str, packets: Frames, out: Frames) -> None:
    for number in np.nonzero(~truths)[0][:1]:
        pytest.fail(f"{what}: {packets.frame(number).hex()} -> {out.frame(number).hex()}")


def in_transition(world: World, method: Method) -> None:
    for family in (4, 6):
        if family == 4 or method is not IP4_IN_IP6:
            current = [world.number(method, s % 2, family) for s in range(SLOTS)]
            previous = [world.number(method, 1 - s % 2, family) | abi.SLOT_TRACKED for s in range(SLOTS)]
            world.set_table(method, family, current, previous)


def _outside() -> Ether:
    return Ether(src=CLIENT_MAC, dst=GATEWAY_MAC)


def test_the_oracle_sums_as_scapy_does(plane: Dataplane) -> None:
    """Right checksums make 0, and any wrong byte does not."""
    packets = frames(seeds())
    found = oracle.heads(packets)
    right = np.array([checksums_hold(Ether(packets.frame(number))) for number in range(len(found.start))])
    whole = oracle.well_formed(packets, found) & np.isin(found.protocol, (oracle.TCP, oracle.UDP)) & right
    assert (oracle.head_sum(packets, found) == 0).all()
    assert (oracle.transport_sum(packets, found)[whole] == 0).all()
    assert whole.sum() > len(whole) // 2
    broken = Frames(packets.rows.copy(), packets.lengths)
    broken.rows[np.arange(len(whole)), packets.lengths - 1] ^= 1
    assert (oracle.transport_sum(broken, found)[whole] != 0).all()
