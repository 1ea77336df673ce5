"""What the program does with full NAT: both directions, errors about them, ports, and servers that leave."""

import errno

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from kernlb.engines import abi
from kernlb.engines.dataplane import TC
from kernlb.errors import KernelError
from tests.bpf.conftest import FAMILIES, HOOKS, LOADERS
from tests.bpf.world import (
    CLIENT4,
    CLIENT6,
    CLIENT_MAC,
    FULLNAT,
    GATEWAY_MAC,
    SENT,
    SERVER_MAC,
    SOURCE4,
    SOURCE6,
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
SUMMED_UP = 1 << 2  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE


@HOOKS
@FAMILIES
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_fullnat_translates_both_directions_and_back(world: World, hook: str, family: int, transport: str) -> None:
    first = tcp("S", payload=b"abc") if transport == "tcp" else udp()
    run = world.send(frame(FULLNAT, family, first), hook)
    assert run.verdict == SENT[hook]
    out = ip_of(Ether(run.packet))
    source = str(SOURCE4 if family == 4 else SOURCE6)
    assert out.src == source
    assert out.dst in {str(FULLNAT.server(which, family)) for which in (0, 1)}
    assert out.payload.dport == 8080
    assert 1024 <= out.payload.sport < 32768
    assert ttl_of(out) == 63
    assert checksums_hold(out)
    layer = IP if family == 4 else IPv6
    reply = TCP if transport == "tcp" else UDP
    fields = {"flags": "SA"} if transport == "tcp" else {}
    answer = (
        Ether(src=SERVER_MAC, dst=GATEWAY_MAC)
        / layer(src=out.dst, dst=source)
        / reply(sport=8080, dport=out.payload.sport, **fields)
        / Raw(b"answer")
    )
    back = world.send(answer, hook)
    assert back.verdict == SENT[hook]
    told = Ether(back.packet)
    assert told.dst == CLIENT_MAC
    assert (ip_of(told).src, ip_of(told).dst) == (vip_of(FULLNAT, family), CLIENT4 if family == 4 else CLIENT6)
    assert (ip_of(told).payload.sport, ip_of(told).payload.dport) == (first.dport, first.sport)
    assert checksums_hold(told)
    again = world.send(frame(FULLNAT, family, tcp("A") if transport == "tcp" else udp()), hook)
    assert ip_of(Ether(again.packet)).payload.sport == out.payload.sport


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_what_a_device_summed_up_is_still_the_sum_of_what_leaves(world: World, transport: str) -> None:
    """The kernel itself compares (BPF_F_TEST_SKB_CHECKSUM_COMPLETE, 6.10)."""
    for packet in (tcp("S"), tcp("A")) if transport == "tcp" else (udp(), udp()):
        try:
            run = world.plane.program(TC).run(bytes(frame(FULLNAT, 4, packet)), flags=SUMMED_UP)
        except KernelError as error:
            if error.errno != errno.EINVAL:
                raise
            pytest.skip("this kernel cannot test with a checksum of the device")
        assert run.verdict == SENT[TC]


@HOOKS
def test_udp_without_a_checksum_keeps_none(world: World, hook: str) -> None:
    packet = frame(FULLNAT, 4, udp())
    packet[UDP].chksum = 0
    assert Ether(world.send(packet, hook).packet)[UDP].chksum == 0


@HOOKS
@FAMILIES
def test_a_connection_that_was_never_opened_belongs_to_the_stack(world: World, hook: str, family: int) -> None:
    assert passes(world, frame(FULLNAT, family, tcp("A")), hook, abi.Cause.NO_FLOW)


@HOOKS
def test_fragments_of_full_nat_belong_to_the_stack(world: World, hook: str) -> None:
    assert passes(world, frame(FULLNAT, 4, udp(), flags="MF"), hook, abi.Cause.FRAGMENT)


@HOOKS
def test_an_icmp_error_about_full_nat_speaks_the_terms_of_whom_it_reaches(world: World, hook: str) -> None:
    out = Ether(world.send(frame(FULLNAT, 4, tcp("S")), hook).packet)[IP]
    quoted = IP(src=FULLNAT.vip4, dst=CLIENT4) / TCP(sport=80, dport=40000)
    told = Ether(world.send(icmp_error(FULLNAT, quoted=quoted, destination=FULLNAT.vip4), hook).packet)
    assert told[IP].dst == out.dst
    inner = told[ICMP].payload
    assert (inner.src, inner.dst) == (out.dst, str(SOURCE4))
    assert (inner.payload.sport, inner.payload.dport) == (8080, out.payload.sport)
    check = told.copy()
    del check[ICMP].chksum, check[IP].chksum
    assert Ether(bytes(check))[ICMP].chksum == told[ICMP].chksum
    assert Ether(bytes(check))[IP].chksum == told[IP].chksum
    quoted = IP(src=str(SOURCE4), dst=out.dst) / TCP(sport=out.payload.sport, dport=8080)
    back = Ether(world.send(icmp_error(FULLNAT, quoted=quoted, destination=str(SOURCE4)), hook).packet)
    assert back[IP].dst == CLIENT4
    assert (back[ICMP].payload.src, back[ICMP].payload.dst) == (CLIENT4, FULLNAT.vip4)
    assert (back[ICMP].payload.payload.sport, back[ICMP].payload.payload.dport) == (40000, 80)


@HOOKS
def test_an_icmpv6_error_about_full_nat_is_translated(world: World, hook: str) -> None:
    out = Ether(world.send(frame(FULLNAT, 6, tcp("S")), hook).packet)[IPv6]
    quoted = IPv6(src=FULLNAT.vip6, dst=CLIENT6) / TCP(sport=80, dport=40000)
    error = (
        Ether(src=CLIENT_MAC, dst=GATEWAY_MAC)
        / IPv6(src="2001:db8:1::1", dst=FULLNAT.vip6)
        / ICMPv6DestUnreach()
        / quoted
    )
    told = Ether(world.send(error, hook).packet)
    assert told[IPv6].dst == out.dst
    check = told.copy()
    del check[ICMPv6DestUnreach].cksum
    assert Ether(bytes(check))[ICMPv6DestUnreach].cksum == told[ICMPv6DestUnreach].cksum


@HOOKS
@FAMILIES
def test_a_dead_server_loses_its_flows_and_a_quiesced_one_keeps_them(world: World, hook: str, family: int) -> None:
    out = ip_of(Ether(world.send(frame(FULLNAT, family, tcp("S")), hook).packet))
    which = [str(FULLNAT.server(n, family)) for n in (0, 1)].index(out.dst)
    world.set_server(FULLNAT, which, family, flags=abi.ServerFlag.QUIESCED)
    assert world.send(frame(FULLNAT, family, tcp("A")), hook).verdict == SENT[hook]
    world.set_server(FULLNAT, which, family, flags=abi.ServerFlag.DEAD)
    assert passes(world, frame(FULLNAT, family, tcp("A")), hook, abi.Cause.NO_SERVER)
    world.set_table(FULLNAT, family, [world.number(FULLNAT, 1 - which, family)] * 251)
    elsewhere = ip_of(Ether(world.send(frame(FULLNAT, family, tcp("S")), hook).packet))
    assert elsewhere.dst == str(FULLNAT.server(1 - which, family))
