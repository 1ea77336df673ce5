"""A small world for the program: services with two servers each by forwarding method, and packets to them.

client 198.51.100.7 -- gateway 203.0.113.1 -- servers 10.0.<method>.1, .2 and fd00:<method>::1, ::2
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

import numpy as np
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kernlb.engines import abi
from kernlb.engines.dataplane import TC, XDP, Dataplane
from kernlb.engines.libbpf import Run

SLOTS = 251
CLIENT_MAC, GATEWAY_MAC, SERVER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
CLIENT4, CLIENT6 = "198.51.100.7", "2001:db8:1::7"
SOURCE4, SOURCE6 = ip_address("203.0.113.1"), ip_address("2001:db8::1")
PASSED = {XDP: 2, TC: 0xFFFFFFFF}
SENT = {XDP: 3, TC: 7}
DROPPED = {XDP: 1, TC: 2}
IDLE = 900
_SK_BUFF, _GSO_SIZE = 192, 176
"""Of struct __sk_buff (linux/bpf.h): its size, and where gso_size lies."""
SEEN, FLOW_SIZE = 116, abi.FLOW_BUCKET_SIZE // abi.FLOWS_PER_BUCKET


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


HOP = abi.Hop(destination=mac(SERVER_MAC), source=mac(GATEWAY_MAC), mtu=1500, method=abi.HopMethod.ADDRESSES)


@dataclass(frozen=True, slots=True)
class Method:
    """A way of forwarding, and the VIPs that use it."""

    name: str
    number: int
    forward: abi.Forward
    outer: int = 0  # family of the outer header; 0: that of the packet

    @property
    def vip4(self) -> str:
        return f"192.0.2.{self.number}"

    @property
    def vip6(self) -> str:
        return f"2001:db8:2::{self.number:x}"

    def server(self, which: int, family: int) -> abi.Address:
        if (self.outer or family) == 6:
            return IPv6Address(f"fd00:{self.number:x}::{which + 1}")
        return IPv4Address(f"10.0.{self.number}.{which + 1}")


DIRECT = Method("direct", 1, abi.Forward.DIRECT)
IPIP = Method("ipip", 2, abi.Forward.IPIP)
IP4_IN_IP6 = Method("ip4-in-ip6", 3, abi.Forward.IPIP, outer=6)
GUE = Method("gue", 4, abi.Forward.GUE)
FULLNAT = Method("fullnat", 5, abi.Forward.FULLNAT)
METHODS = (DIRECT, IPIP, IP4_IN_IP6, GUE, FULLNAT)


class World:
    """Programs the maps. Server numbers: 4 a method, two of IPv4 and two of IPv6."""

    def __init__(self, plane: Dataplane, *, ports: int = 31744) -> None:
        self.plane = plane
        self.addresses: dict[abi.Address, abi.Filter] = {SOURCE4: abi.Filter.NAT, SOURCE6: abi.Filter.NAT}
        plane.set_source(0, abi.Source(address=SOURCE4, first_port=1024, port_count=ports))
        plane.set_source(1, abi.Source(address=SOURCE6, first_port=1024, port_count=ports))
        for method in METHODS:
            for family, vip in ((4, ip_address(method.vip4)), (6, ip_address(method.vip6))):
                if family == 6 and method is IP4_IN_IP6:
                    continue
                nat = abi.Filter.NAT if method is FULLNAT else abi.Filter(0)
                self.addresses[vip] = abi.Filter.SERVICE | nat
                for which in (0, 1):
                    self.set_server(method, which, family)
                self.set_table(method, family, [self.number(method, s % 2, family) for s in range(SLOTS)])
                for protocol, port in ((6, 80), (17, 53), (6, 0)):
                    if port == 0 and method is not DIRECT:
                        continue
                    plane.set_service(
                        abi.ServiceKey(address=vip, port=port, protocol=protocol),
                        abi.Service(
                            id=self.service(method, family),
                            limit=self.service(method, family),
                            slots=SLOTS,
                            idle=IDLE,
                        ),
                    )
        plane.set_filter(self.addresses)

    @staticmethod
    def service(method: Method, family: int) -> int:
        return method.number * 2 + (family == 6)

    @staticmethod
    def number(method: Method, which: int, family: int) -> int:
        return method.number * 32 + (family == 6) * 16 + which

    def set_server(
        self,
        method: Method,
        which: int,
        family: int,
        *,
        hop: abi.Hop = HOP,
        flags: abi.ServerFlag = abi.NO_SERVER_FLAG,
        connections: int = 0,
        resume: int = 0,
        weight: int = 0,
    ) -> None:
        address = method.server(which, family)
        self.plane.set_server(
            self.number(method, which, family),
            abi.Server(
                address=address,
                forward=method.forward,
                hop=hop,
                flags=flags,
                port=8080 if method is FULLNAT else 0,
                tunnel_port=6080 if method is GUE else 0,
                source=SOURCE4 if address.version == 4 else SOURCE6,
                first_source=0 if address.version == 4 else 1,
                source_count=1,
                connections=connections,
                resume=resume,
                weight=weight,
            ),
        )

    def set_table(self, method: Method, family: int, current: list[int], previous: list[int] | None = None) -> None:
        words = np.array(current, dtype=np.uint16), np.array(previous or current, dtype=np.uint16)
        self.plane.table(self.service(method, family), SLOTS).write(*words)

    def send(self, packet: Packet | bytes, hook: str = XDP) -> Run:
        return self.plane.program(hook).run(bytes(packet))

    def send_large(self, packet: Packet, segment: int) -> Run:
        """At tc, as a packet that will be cut into segments of so many bytes."""
        context = bytearray(_SK_BUFF)
        struct.pack_into("=I", context, _GSO_SIZE, segment)
        return self.plane.program(TC).run(bytes(packet), context=bytes(context))


def network(family: int, vip: str, **fields: object) -> Packet:
    return IP(src=CLIENT4, dst=vip, **fields) if family == 4 else IPv6(src=CLIENT6, dst=vip, **fields)


def vip_of(method: Method, family: int) -> str:
    return method.vip4 if family == 4 else method.vip6


def frame(method: Method, family: int, transport: Packet, **fields: object) -> Packet:
    """A client's packet to a service."""
    return Ether(src=CLIENT_MAC, dst=GATEWAY_MAC) / network(family, vip_of(method, family), **fields) / transport


def tcp(flags: str = "S", *, sport: int = 40000, dport: int = 80, payload: bytes = b"") -> Packet:
    return TCP(sport=sport, dport=dport, flags=flags, seq=1000, ack=2000) / Raw(payload)


def udp(*, sport: int = 40000, payload: bytes = b"question") -> Packet:
    return UDP(sport=sport, dport=53) / Raw(payload)


def checksums_hold(packet: Packet) -> bool:
    """Whether every checksum of a packet is what scapy computes for it; UDP without one counts as right."""
    again = packet.copy()
    layer: Packet | None = again
    while layer:
        for field in ("chksum", "cksum"):
            if field in layer.fields and not (isinstance(layer, UDP) and layer.fields[field] == 0):
                del layer.fields[field]
        layer = layer.payload or None
    return bytes(again.__class__(bytes(again))) == bytes(packet)


def icmp_error(method: Method, *, quoted: Packet, destination: str, code: int = 4) -> Packet:
    error = ICMP(type=3, code=code, nexthopmtu=1400) / quoted
    return Ether(src=CLIENT_MAC, dst=GATEWAY_MAC) / IP(src="198.51.100.1", dst=destination) / error


def ip_of(packet: Packet) -> Packet:
    return packet[IP] if IP in packet else packet[IPv6]


def ttl_of(packet: Packet) -> int:
    return packet.ttl if isinstance(packet, IP) else packet.hlim


def passes(world: World, packet: Packet | bytes, hook: str, cause: abi.Cause | None) -> bool:
    """Unchanged to the stack, and counted under this cause alone."""
    before = world.plane.causes()
    run = world.send(packet, hook)
    counted = {key: number - before[key] for key, number in world.plane.causes().items() if number != before[key]}
    return (
        run.verdict == PASSED[hook] and run.packet == bytes(packet) and counted == ({} if cause is None else {cause: 1})
    )


def grow_old(world: World, ticks: int) -> None:
    """Time passes for all flows and limits: what they know of the clock moves back. Whole steps of limits only."""
    flows, limits = world.plane.maps["flows"], world.plane.maps["limits"]
    entries = np.frombuffer(bytearray(flows.first(flows.max_entries)), dtype=np.uint32).copy()
    entries[SEEN // 4 :: FLOW_SIZE // 4] -= np.uint32(ticks)
    flows.update_packed(b"".join(map(abi.index, range(flows.max_entries))), entries.tobytes(), flows.max_entries)
    steps, rest = divmod(ticks, 1 << abi.step_shift(abi.Settings(secret=0).timeouts))
    assert not rest
    for key in list(limits.keys()):
        words = np.frombuffer(limits[key], dtype=np.uint32).copy()
        words[2:3] -= np.uint32(steps)
        words[4:] = np.roll(words[4:], -steps)
        limits[key] = words.tobytes()
