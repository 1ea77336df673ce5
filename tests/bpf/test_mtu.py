"""What is too big for the link that it would leave by is answered, whatever the forwarding; what just fits is sent."""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kernlb.engines import abi
from kernlb.engines.dataplane import TC, XDP
from tests.bpf.conftest import FAMILIES, HOOKS, LOADERS
from tests.bpf.world import (
    CLIENT4,
    CLIENT6,
    CLIENT_MAC,
    DIRECT,
    FULLNAT,
    GATEWAY_MAC,
    SENT,
    SERVER_MAC,
    SOURCE4,
    SOURCE6,
    Method,
    World,
    checksums_hold,
    frame,
    icmp_error,
    ip_of,
    tcp,
    udp,
    vip_of,
)

pytestmark = [pytest.mark.bpf, LOADERS]
MTU, CLIENT_MTU = 1500, 1400
HERE = 1
"""The interface of a test run: loopback."""
HEADS = {4: 20, 6: 40}
METHODS = pytest.mark.parametrize("method", [DIRECT, FULLNAT], ids=lambda method: method.name)


@pytest.fixture
def world(world: World) -> World:
    back = abi.Hop(interface=HERE, mtu=CLIENT_MTU, method=abi.HopMethod.ADDRESSES)
    world.plane.set_link(HERE, back)
    return world


def question(method: Method, family: int, transport: str, length: int, **fields: object) -> Packet:
    """A client's IP packet of so many bytes."""
    head = HEADS[family] + (20 if transport == "tcp" else 8)
    payload = bytes(n % 251 for n in range(length - head))
    return frame(method, family, tcp("A", payload=payload) if transport == "tcp" else udp(payload=payload), **fields)


def is_answer(hook: str, sent: Packet, got: Packet, mtu: int) -> bool:
    """Whether it says to who sent a packet, in his own terms, how much fits."""
    asked, told = ip_of(Ether(bytes(sent))), ip_of(got)
    assert (got.dst, got.src) == (sent.src, sent.dst)
    assert (told.src, told.dst) == (asked.dst, asked.src)
    if asked.version == 4:
        error = got[ICMP]
        assert (error.type, error.code, error.nexthopmtu) == (3, 4, mtu)
    else:
        error = got[ICMPv6PacketTooBig]
        assert error.mtu == mtu
    quoted = bytes(error.payload)
    at = HEADS[asked.version] + (16 if TCP in sent else 6)
    said = bytes(asked)[: len(quoted)]
    again = got.copy()
    del again[error.__class__].fields["chksum" if asked.version == 4 else "cksum"]
    assert bytes(again.__class__(bytes(again))) == bytes(got)
    # At tc the quoted checksum is one that a NIC may make again.
    return quoted[:at] == said[:at] and quoted[at + 2 :] == said[at + 2 :] and (hook == TC or quoted == said)


@HOOKS
@FAMILIES
@METHODS
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_what_just_fits_goes_to_the_server_and_a_byte_more_is_answered(
    world: World, hook: str, family: int, method: Method, transport: str
) -> None:
    if transport == "tcp":
        world.send(frame(method, family, tcp("S")), hook)
    for flags in ("DF", "") if family == 4 else (None,):
        fields = {"flags": flags} if family == 4 else {}
        large = question(method, family, transport, MTU + 1, **fields)
        run = world.send(large, hook)
        assert run.verdict == SENT[hook]
        assert is_answer(hook, large, Ether(run.packet), MTU)
    fits = question(method, family, transport, MTU)
    run = world.send(fits, hook)
    assert run.verdict == SENT[hook]
    out = Ether(run.packet)
    assert (len(run.packet), out.dst) == (len(bytes(fits)), SERVER_MAC)
    assert checksums_hold(ip_of(out))
    assert world.plane.causes()[abi.Cause.TOO_BIG] == (2 if family == 4 else 1)
    # Who asks for too much opens nothing, and is no traffic of the server's.
    counted = [world.plane.traffic(world.number(method, which, family)) for which in (0, 1)]
    assert sum(each.packets_in for each in counted) == (2 if transport == "tcp" else 1)


@HOOKS
@FAMILIES
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_an_answer_that_is_too_big_for_the_way_to_the_client_is_answered_to_the_server(
    world: World, hook: str, family: int, transport: str
) -> None:
    opened = world.send(frame(FULLNAT, family, tcp("S") if transport == "tcp" else udp()), hook)
    out = ip_of(Ether(opened.packet))

    def answer(length: int) -> Packet:
        head = HEADS[family] + (20 if transport == "tcp" else 8)
        inner = (TCP if transport == "tcp" else UDP)(sport=8080, dport=out.payload.sport)
        network = (IP if family == 4 else IPv6)(src=out.dst, dst=str(SOURCE4 if family == 4 else SOURCE6))
        return Ether(src=SERVER_MAC, dst=GATEWAY_MAC) / network / inner / Raw(bytes(length - head))

    large = answer(CLIENT_MTU + 1)
    run = world.send(large, hook)
    assert run.verdict == SENT[hook]
    assert is_answer(hook, large, Ether(run.packet), CLIENT_MTU)
    fits = Ether(world.send(answer(CLIENT_MTU), hook).packet)
    assert fits.dst == CLIENT_MAC
    assert (ip_of(fits).src, ip_of(fits).dst) == (vip_of(FULLNAT, family), CLIENT4 if family == 4 else CLIENT6)
    assert checksums_hold(ip_of(fits))


@FAMILIES
@METHODS
@pytest.mark.parametrize("options", [0, 12, 40])
def test_of_a_large_packet_one_segment_has_to_fit(world: World, family: int, method: Method, options: int) -> None:
    """With all options that its header has. A test run makes no room for such a packet: what fits was counted."""
    world.send(frame(method, family, tcp("S")), TC)
    room = MTU - HEADS[family] - 20 - options
    for segment, fits in ((room, 1), (room + 1, 0)):
        transport = TCP(sport=40000, dport=80, flags="A", options=[("NOP", None)] * options) / Raw(bytes(2 * room))
        before = sum(world.plane.traffic(world.number(method, which, family)).packets_in for which in (0, 1))
        run = world.send_large(frame(method, family, transport), segment)
        after = sum(world.plane.traffic(world.number(method, which, family)).packets_in for which in (0, 1))
        assert (after - before, run.verdict == SENT[TC]) == (fits, bool(fits))


@HOOKS
def test_an_icmp_error_is_answered_with_none(world: World, hook: str) -> None:
    """Whatever its size (RFC 1122, 3.2.2)."""
    small = abi.Hop(destination=bytes(6), source=bytes(6), mtu=68, method=abi.HopMethod.ADDRESSES)
    out = Ether(world.send(frame(FULLNAT, 4, tcp("S")), hook).packet)[IP]
    for which in (0, 1):
        world.set_server(FULLNAT, which, 4, hop=small)
    quoted = IP(src=FULLNAT.vip4, dst=CLIENT4) / TCP(sport=80, dport=40000) / Raw(bytes(400))
    told = Ether(world.send(icmp_error(FULLNAT, quoted=quoted, destination=FULLNAT.vip4), hook).packet)
    assert told[IP].dst == out.dst
    assert abi.Cause.TOO_BIG not in {cause for cause, number in world.plane.causes().items() if number}


@pytest.mark.parametrize("mtu", [0, 65535])
def test_without_a_limit_everything_fits(world: World, mtu: int) -> None:
    hop = abi.Hop(destination=bytes(6), source=bytes(6), mtu=mtu, method=abi.HopMethod.ADDRESSES)
    for which in (0, 1):
        world.set_server(DIRECT, which, 4, hop=hop)
    assert len(world.send(question(DIRECT, 4, "tcp", 3000), XDP).packet) == 3014
