"""What is measured: a hundred servers behind IPIP and full NAT, and the packets that meet them."""

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import numpy as np

from kernlb.engines import abi
from kernlb.engines.bcc_loader import Compilation
from kernlb.engines.dataplane import TC, XDP, Dataplane, Sizes
from kernlb.engines.libbpf import Object

BALANCER = Path(__file__).parents[2] / "bpf" / "balancer.bpf.o"
SLOTS, SERVERS = 65_537, 100
SETTINGS = abi.Settings(secret=0x5EED, memory_buckets=1 << 17, flow_buckets=1 << 16)
SIZES = Sizes(services=8)
PROGRAMS = (XDP, TC)
TCP, UDP, SYN, ACK = 6, 17, 2, 16
VIP4, VIP6, OTHER = ip_address("10.200.1.1"), ip_address("fc00:1::1"), ip_address("10.99.0.1")
NAT4, SOURCE4 = ip_address("10.200.2.1"), ip_address("10.0.0.254")
_MACS = bytes.fromhex("020000000001020000000002")
_CLIENT4, _CLIENT6 = ip_address("192.168.1.1"), ip_address("fc00:2::1")


def packet(destination: abi.Address, protocol: int, flags: int = 0) -> bytes:
    transport = (
        struct.pack("!HHIIBBHHH", 31337, 80, 1, 1, 0x50, flags, 8192, 0, 0)
        if protocol == TCP
        else struct.pack("!HHHH", 31337, 80, 26, 0) + bytes(18)
    )
    if isinstance(destination, IPv6Address):
        head = struct.pack("!IHBB", 6 << 28, len(transport), protocol, 64) + _CLIENT6.packed + destination.packed
        return _MACS + b"\x86\xdd" + head + transport
    transport += bytes(6 if protocol == TCP else 0)
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(transport), 1, 0, 64, protocol, 0, _CLIENT4.packed, destination.packed
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return _MACS + b"\x08\x00" + head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + transport


def balancer(*, moved: bool) -> Dataplane:
    """A hundred servers behind IPIP, full NAT on an address of its own. `moved`: every slot is in transition."""
    plane = Dataplane.load(BALANCER, settings=SETTINGS, sizes=SIZES, programs=PROGRAMS)
    nat = abi.Filter.SERVICE | abi.Filter.NAT
    plane.set_filter({VIP4: abi.Filter.SERVICE, VIP6: abi.Filter.SERVICE, NAT4: nat, SOURCE4: abi.Filter.NAT})
    hop = abi.Hop(destination=bytes(6), source=bytes(6), method=abi.HopMethod.ADDRESSES)
    for id_ in range(SERVERS):
        inside: tuple[tuple[abi.Address, abi.Address, abi.Forward, int], ...] = (
            (IPv4Address(f"10.0.1.{id_}"), SOURCE4, abi.Forward.IPIP, 0),
            (IPv6Address(f"fc00:3::{id_:x}"), IPv6Address("fc00:3::ffff"), abi.Forward.IPIP, SERVERS),
            (IPv4Address(f"10.0.2.{id_}"), SOURCE4, abi.Forward.FULLNAT, 2 * SERVERS),
        )
        for address, source, forward, base in inside:
            plane.set_server(
                base + id_,
                abi.Server(address=address, source=source, forward=forward, hop=hop, port=80, source_count=1),
            )
    plane.set_source(0, abi.Source(address=SOURCE4, first_port=1024, port_count=31744))
    random = np.random.default_rng(1)
    spread = random.permutation(np.arange(SLOTS) % SERVERS)
    for service, (address, base) in enumerate(((VIP4, 0), (VIP6, SERVERS), (NAT4, 2 * SERVERS))):
        current, previous = (((spread + step) % SERVERS + base).astype(np.uint16) for step in (0, moved))
        plane.table(service, SLOTS).write(current, previous)
        for protocol in (TCP, UDP):
            plane.set_service(
                abi.ServiceKey(address=address, port=80, protocol=protocol),
                abi.Service(id=service, slots=SLOTS, idle=900),
            )
    return plane


def specialised(plane: Dataplane, **features: bool) -> Dataplane:
    """What BCC makes for these features, over the maps of a program that is loaded."""
    off = dict.fromkeys(("ipv6", "fullnat", "tunnel", "transition", "limits"), False)
    settings = replace(SETTINGS, **{**off, **features})
    with Object(BALANCER) as opened:
        maps = opened.map_names()
    code = Compilation(BALANCER.parent, settings, programs=PROGRAMS, maps=maps).result()
    return Dataplane.load(BALANCER, settings=settings, sizes=SIZES, programs=PROGRAMS, reuse=plane.maps, code=code)
