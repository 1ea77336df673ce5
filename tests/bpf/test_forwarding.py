"""What the program does with each kind of packet, at XDP and at tc: output and checksums judged by scapy."""

import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
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
    GUE,
    HOP,
    IP4_IN_IP6,
    IPIP,
    PASSED,
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
    passes,
    tcp,
    ttl_of,
    udp,
    vip_of,
)

pytestmark = [pytest.mark.bpf, LOADERS]


@HOOKS
@FAMILIES
@pytest.mark.parametrize("transport", [tcp("S"), tcp("A", payload=b"x" * 99), udp()], ids=["syn", "ack", "udp"])
def test_direct_writes_mac_addresses_and_ttl_and_nothing_else(
    world: World, hook: str, family: int, transport: Packet
) -> None:
    packet = frame(DIRECT, family, transport)
    run = world.send(packet, hook)
    out = Ether(run.packet)
    assert run.verdict == SENT[hook]
    assert (out.dst, out.src) == (SERVER_MAC, GATEWAY_MAC)
    assert ttl_of(ip_of(out)) == 63
    assert checksums_hold(out)
    assert bytes(ip_of(out).payload) == bytes(ip_of(Ether(bytes(packet))).payload)


@HOOKS
@pytest.mark.parametrize(
    ("method", "family"),
    [(IPIP, 4), (IPIP, 6), (GUE, 4), (GUE, 6), (IP4_IN_IP6, 4)],
    ids=lambda parameter: getattr(parameter, "name", str(parameter)),
)
def test_a_tunnel_carries_the_packet_whole(world: World, hook: str, family: int, method: Method) -> None:
    inner = Ether(
        bytes(
            frame(method, family, tcp("S", payload=b"hello"), tos=0x28)
            if family == 4
            else frame(method, family, tcp("S"))
        )
    )
    run = world.send(inner, hook)
    out = Ether(run.packet)
    assert run.verdict == SENT[hook]
    assert out.dst == SERVER_MAC
    outer_family = method.outer or family
    outer = out[IP] if outer_family == 4 else out[IPv6]
    servers = {str(method.server(which, family)) for which in (0, 1)}
    assert outer.dst in servers
    assert outer.src == str(SOURCE4 if outer_family == 4 else SOURCE6)
    body = bytes(outer.payload)
    if method is GUE:
        assert outer.payload.dport == 6080
        assert outer.payload.sport >= 0xC000
        assert outer.payload.len == len(body)
        assert body[8:12] == bytes([0, 4 if family == 4 else 41, 0, 0])
        body = body[12:]
    if outer_family == 4:
        assert outer.len == len(bytes(outer)) == len(run.packet) - 14
        assert (
            IP(bytes(outer)[:20]).chksum == IP(bytes(IP(**{**outer.fields, "chksum": None, "options": []}))[:20]).chksum
        )
        assert outer.tos == 0x28
    else:
        assert outer.plen == len(run.packet) - 14 - 40
    carried = (IP if family == 4 else IPv6)(body)
    assert ttl_of(carried) == 63
    assert checksums_hold(carried)
    assert bytes(carried.payload) == bytes(ip_of(inner).payload)


@FAMILIES
@pytest.mark.parametrize("tags", [1, 2])
@pytest.mark.parametrize("method", [DIRECT, IPIP, FULLNAT], ids=lambda method: method.name)
def test_vlan_tags_stay_on(world: World, family: int, tags: int, method: Method) -> None:
    # At tc the outer tag is not in the packet: the kernel refuses room behind tags, and the stack has those.
    packet = frame(method, family, tcp("S"))
    tagged: Packet = Ether(src=CLIENT_MAC, dst=GATEWAY_MAC)
    for tag in range(tags):
        tagged /= Dot1Q(vlan=100 + tag)
    tagged /= ip_of(packet)
    run = world.send(tagged, XDP)
    out = Ether(run.packet)
    assert run.verdict == SENT[XDP]
    assert [layer.vlan for layer in out.iterpayloads() if isinstance(layer, Dot1Q)] == [
        100 + tag for tag in range(tags)
    ]
    assert out.dst == SERVER_MAC
    innermost = IP if method.forward != abi.Forward.IPIP and family == 4 else None
    assert innermost is None or innermost in out
    assert ip_of(out).dst in {str(method.server(which, family)) for which in (0, 1)} | {vip_of(method, family)}


@HOOKS
@pytest.mark.parametrize("method", [DIRECT, IPIP, FULLNAT], ids=lambda method: method.name)
def test_ipv4_options_are_carried(world: World, hook: str, method: Method) -> None:
    packet = frame(method, 4, tcp("S"), options=b"\x01\x01\x01\x01\x94\x04\x00\x00")
    out = Ether(world.send(packet, hook).packet)
    inner = out[IP].payload if method is IPIP else out[IP]
    assert inner.ihl == 7
    assert checksums_hold(inner)


@HOOKS
@pytest.mark.parametrize("method", [DIRECT, IPIP, FULLNAT], ids=lambda method: method.name)
def test_ipv6_extension_headers_are_carried(world: World, hook: str, method: Method) -> None:
    packet = frame(method, 6, IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / tcp("S"))
    run = world.send(packet, hook)
    assert run.verdict == SENT[hook]
    if method is not IPIP:
        assert checksums_hold(Ether(run.packet))


@HOOKS
def test_too_many_extension_headers_belong_to_the_stack(world: World, hook: str) -> None:
    headers: Packet = IPv6ExtHdrDestOpt()
    for _ in range(7):
        headers /= IPv6ExtHdrDestOpt()
    assert passes(world, frame(DIRECT, 6, headers / tcp("S")), hook, abi.Cause.EXTENSIONS)


@HOOKS
@FAMILIES
def test_a_port_that_no_service_has_belongs_to_the_stack(world: World, hook: str, family: int) -> None:
    assert passes(world, frame(IPIP, family, tcp("S", dport=81)), hook, abi.Cause.NO_SERVICE)


@HOOKS
@FAMILIES
def test_a_service_without_a_port_takes_every_port_that_no_other_has(world: World, hook: str, family: int) -> None:
    assert world.send(frame(DIRECT, family, tcp("S", dport=4711)), hook).verdict == SENT[hook]


@HOOKS
@FAMILIES
def test_what_is_not_for_a_vip_is_not_touched_nor_counted(world: World, hook: str, family: int) -> None:
    packet = frame(DIRECT, family, tcp("S"))
    ip_of(packet).dst = "192.0.2.250" if family == 4 else "2001:db8:2::fa"
    assert passes(world, packet, hook, None)
    assert passes(world, Ether() / ARP(pdst="192.0.2.1"), hook, None)


@HOOKS
@FAMILIES
@pytest.mark.parametrize("method", [DIRECT, IPIP, FULLNAT], ids=lambda method: method.name)
def test_a_packet_that_would_die_here_belongs_to_the_stack(
    world: World, hook: str, family: int, method: Method
) -> None:
    fields = {"ttl": 1} if family == 4 else {"hlim": 1}
    assert passes(world, frame(method, family, tcp("S"), **fields), hook, abi.Cause.TTL)


@HOOKS
@FAMILIES
@pytest.mark.parametrize("method", [DIRECT, FULLNAT], ids=lambda method: method.name)
def test_without_a_neighbour_the_stack_has_the_packet(world: World, hook: str, family: int, method: Method) -> None:
    for which in (0, 1):
        world.set_server(method, which, family, hop=abi.Hop())
    assert passes(world, frame(method, family, tcp("S")), hook, abi.Cause.NO_HOP)


@HOOKS
def test_other_protocols_and_echo_belong_to_the_stack(world: World, hook: str) -> None:
    assert passes(world, frame(DIRECT, 4, Raw(bytes(30)), proto=47), hook, abi.Cause.PROTOCOL)
    assert passes(world, frame(DIRECT, 6, Raw(bytes(30)), nh=47), hook, abi.Cause.PROTOCOL)
    assert passes(world, frame(DIRECT, 4, ICMP()), hook, abi.Cause.ICMP)


@HOOKS
@FAMILIES
def test_a_packet_cut_short_belongs_to_the_stack(world: World, hook: str, family: int) -> None:
    whole = bytes(frame(DIRECT, family, tcp("S")))
    head = 14 + (20 if family == 4 else 40)
    for length in range(head, len(whole)):
        assert passes(world, whole[:length], hook, abi.Cause.MALFORMED) or (hook == TC and length >= head + 20)


@HOOKS
def test_later_fragments_follow_the_first(world: World, hook: str) -> None:
    first = frame(IPIP, 4, udp(payload=bytes(64)), id=77, flags="MF")
    later = (
        Ether(src=CLIENT_MAC, dst=GATEWAY_MAC)
        / IP(src=CLIENT4, dst=IPIP.vip4, id=77, frag=9, proto=17)
        / Raw(bytes(64))
    )
    assert passes(world, later, hook, abi.Cause.FRAGMENT)
    went = Ether(world.send(first, hook).packet)[IP].dst
    assert Ether(world.send(later, hook).packet)[IP].dst == went
    start = frame(IPIP, 6, IPv6ExtHdrFragment(id=5, m=1, nh=17) / udp(payload=bytes(64)))
    rest = frame(IPIP, 6, IPv6ExtHdrFragment(id=5, offset=9, nh=17) / Raw(bytes(64)))
    assert passes(world, rest, hook, abi.Cause.FRAGMENT)
    went = Ether(world.send(start, hook).packet)[IPv6].dst
    assert Ether(world.send(rest, hook).packet)[IPv6].dst == went


@HOOKS
@FAMILIES
@pytest.mark.parametrize("transport", [TCP, UDP])
def test_what_an_outer_header_makes_too_big_is_answered(
    world: World, hook: str, family: int, transport: type[Packet]
) -> None:
    payload = bytes(range(1, 210)) * (7 if family == 4 else 6) + bytes(200)
    packet = frame(IPIP, family, tcp("A", payload=payload) if transport is TCP else udp(payload=payload))
    run = world.send(packet, hook)
    out = Ether(run.packet)
    assert run.verdict == SENT[hook]
    assert (out.dst, out.src) == (CLIENT_MAC, GATEWAY_MAC)
    assert (ip_of(out).src, ip_of(out).dst) == (vip_of(IPIP, family), CLIENT4 if family == 4 else CLIENT6)
    if family == 4:
        error = out[ICMP]
        assert (error.type, error.code, error.nexthopmtu) == (3, 4, 1480)
        quoted = bytes(error.payload)
        zeroed = out.copy()
        assert len(quoted) == 68
        del zeroed[ICMP].chksum
        assert Ether(bytes(zeroed))[ICMP].chksum == error.chksum
        assert checksums_hold(IP(bytes(out[IP])[:20]))
    else:
        error = out[ICMPv6PacketTooBig]
        assert error.mtu == 1460
        zeroed = out.copy()
        del zeroed[ICMPv6PacketTooBig].cksum
        assert Ether(bytes(zeroed))[ICMPv6PacketTooBig].cksum == error.cksum
        quoted = bytes(error.payload)
    head = 20 if family == 4 else 40
    check = head + (16 if transport is TCP else 6)
    sent = bytes(ip_of(Ether(bytes(packet))))[: len(quoted)]
    assert quoted[:check] + quoted[check + 2 :] == sent[:check] + sent[check + 2 :]
    if hook == TC:
        # A NIC that makes the checksum of what is quoted, because the packet came without, changes nothing.
        words = struct.unpack(f"!{(len(quoted) - head) // 2}H", quoted[head:])
        assert (sum(words) + words[(check - head) // 2]) % 0xFFFF == 0
    else:
        assert quoted == sent
    fits = frame(IPIP, family, tcp("A", payload=bytes(1440 if family == 4 else 1400)))
    assert len(world.send(fits, hook).packet) == 1514


@FAMILIES
@pytest.mark.parametrize("options", [0, 12, 40])
def test_of_a_large_packet_one_segment_has_to_fit(world: World, family: int, options: int) -> None:
    """With all options that its header has. A test run makes no room for such a packet: what fits was counted."""
    room = 1500 - (20 + 20 if family == 4 else 40 + 40) - 20 - options
    for segment, fits in ((room, 1), (room + 1, 0)):
        transport = TCP(sport=40000, dport=80, flags="A", options=[("NOP", None)] * options) / Raw(bytes(2 * room))
        before = sum(world.plane.traffic(world.number(IPIP, which, family)).packets_in for which in (0, 1))
        assert world.send_large(frame(IPIP, family, transport), segment).verdict == PASSED[TC]
        after = sum(world.plane.traffic(world.number(IPIP, which, family)).packets_in for which in (0, 1))
        assert after - before == fits


@HOOKS
@pytest.mark.parametrize("method", [DIRECT, IPIP], ids=lambda method: method.name)
def test_an_icmp_error_goes_to_the_server_of_its_flow(world: World, hook: str, method: Method) -> None:
    for sport in range(40000, 40016):
        flow = Ether(world.send(frame(method, 4, tcp("A", sport=sport)), hook).packet)
        quoted = IP(src=method.vip4, dst=CLIENT4) / TCP(sport=80, dport=sport)
        error = icmp_error(method, quoted=quoted, destination=method.vip4)
        run = world.send(error, hook)
        assert run.verdict == SENT[hook]
        assert Ether(run.packet).dst == flow.dst
        assert method is DIRECT or Ether(run.packet)[IP].dst == flow[IP].dst


@HOOKS
@FAMILIES
def test_packets_and_bytes_are_counted_by_server(world: World, hook: str, family: int) -> None:
    syn, ack = frame(IPIP, family, tcp("S")), frame(IPIP, family, tcp("A", payload=bytes(100)))
    world.send(syn, hook)
    world.send(ack, hook)
    totals = [world.plane.traffic(world.number(IPIP, which, family)) for which in (0, 1)]
    assert sorted(total.flows for total in totals) == [0, 1]
    assert sum(total.packets_in for total in totals) == 2
    assert sum(total.bytes_in for total in totals) == len(bytes(syn)) + len(bytes(ack)) - 28


def test_a_server_of_the_other_family_is_refused(world: World) -> None:
    world.plane.set_server(
        world.number(IPIP, 0, 6),
        abi.Server(address=IPIP.server(0, 4), source=SOURCE4, forward=abi.Forward.IPIP, hop=HOP),
    )
    world.set_table(IPIP, 6, [world.number(IPIP, 0, 6)] * 251)
    assert passes(world, frame(IPIP, 6, tcp("S")), XDP, abi.Cause.FAMILY)


def test_explain_tells_what_the_program_would_do_and_changes_nothing(world: World) -> None:
    packet = frame(IPIP, 4, tcp("S"))
    told = world.plane.explain(bytes(packet))
    assert told.reason is abi.Reason.STEADY
    assert told.cause is None
    assert told.service == world.service(IPIP, 4)
    server = IPIP.server(told.server - world.number(IPIP, 0, 4), 4)
    assert Ether(world.send(packet).packet)[IP].dst == str(server)
    assert world.plane.explain(bytes(frame(IPIP, 4, tcp("S", dport=81)))).cause is abi.Cause.NO_SERVICE
