"""bpf/abi.h in Python: the bytes of every key and value of the program's maps. Pure; sizes are tested against BTF."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

ABI_VERSION = 3
FILTER_SIZE = 16384
SLOT_TRACKED = 0x8000
SLOTS_PER_GROUP = 16
FLOWS_PER_BUCKET = 4
FLOW_BUCKET_SIZE = 512
MEMORIES_PER_BUCKET = 8
TICK_MASK = (1 << 14) - 1
FLOW_STATES = 6
LIMIT_STEPS = 256
SERVERS = SLOT_TRACKED
NO_ADDRESS = IPv6Address(0)

_MAPPED = bytes(10) + b"\xff\xff"


class Filter(IntFlag):
    SERVICE = 1
    NAT = 2


class ServiceFlag(IntFlag):
    SOURCE_HASH = 1
    TWO_CHOICES = 2


class HopMethod(IntEnum):
    UNRESOLVED = 0
    ADDRESSES = 1
    NEIGHBOUR = 2
    PEER = 3


class Forward(IntEnum):
    NOWHERE = 0
    DIRECT = 1
    IPIP = 2
    GUE = 3
    FULLNAT = 4


class ServerFlag(IntFlag):
    DEAD = 1
    QUIESCED = 2
    IPV6 = 4
    COUNTED = 8


class FlowState(IntEnum):
    FREE = 0
    OPENING = 1
    ESTABLISHED = 2
    CLOSING = 3
    CLOSED = 4
    DATAGRAM = 5


class Cause(IntEnum):
    """Why a packet to one of our addresses was not forwarded."""

    MALFORMED = 0
    EXTENSIONS = 1
    FRAGMENT = 2
    PROTOCOL = 3
    ICMP = 4
    NO_SERVICE = 5
    NO_SERVER = 6
    NO_FLOW = 7
    NO_PORT = 8
    NO_ROOM = 9
    NO_HOP = 10
    TTL = 11
    FAMILY = 12
    TOO_BIG = 13
    ROOM = 14
    LIMIT = 15


CAUSES = len(Cause)
NO_SERVICE_FLAG = ServiceFlag(0)
NO_SERVER_FLAG = ServerFlag(0)


class LimitKind(IntEnum):
    """What a limit counts; with the number of a service's limit, or of a server, it is the key."""

    TOGETHER = 0
    SERVICE = 1 << 16
    SERVER = 2 << 16


class Reason(IntEnum):
    """Why a flow has its server."""

    NONE = 0
    STEADY = 1
    REMEMBERED = 2
    NEW = 3
    BEFORE = 4
    FLOW = 5
    FEWER = 6


def pack_address(address: Address) -> bytes:
    """Sixteen bytes; IPv4 as ::ffff:a.b.c.d."""
    return address.packed if isinstance(address, IPv6Address) else _MAPPED + address.packed


def unpack_address(packed: bytes) -> Address:
    return IPv4Address(packed[12:]) if packed.startswith(_MAPPED) else IPv6Address(packed)


def index(number: int) -> bytes:
    """The key of an array map."""
    return struct.pack("=I", number)


def filter_index(address: Address) -> int:
    """Where in `filter` an address has its flags. Several addresses may share one place: their flags are or-ed."""
    a, b, c, d = struct.unpack("=4I", pack_address(address) if address.version == 6 else bytes(12) + address.packed)
    mixed: int = d ^ (a ^ b * 3 ^ c * 5)
    return (mixed * 0x9E3779B1 & 0xFFFFFFFF) >> 18


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceKey:
    """Port 0 is any port that no other service of the address has."""

    address: Address
    port: int
    protocol: int

    LAYOUT = struct.Struct("=16s2sBx")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(pack_address(self.address), self.port.to_bytes(2, "big"), self.protocol)

    @classmethod
    def unpack(cls, packed: bytes) -> "ServiceKey":
        address, port, protocol = cls.LAYOUT.unpack(packed)
        return cls(address=unpack_address(address), port=int.from_bytes(port, "big"), protocol=protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """`idle` in ticks, at most half of TICK_MASK. Of full NAT there are at most `connections` at a time, and of all
    services with such a limit `together`; 0 is any number. Services of the same `limit` share theirs."""

    id: int
    slots: int
    idle: int
    flags: ServiceFlag = NO_SERVICE_FLAG
    connections: int = 0
    together: int = 0
    limit: int = 0

    LAYOUT = struct.Struct("=IIHHIIH2x")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.id, self.slots, self.flags, self.idle, self.connections, self.together, self.limit)

    @classmethod
    def unpack(cls, packed: bytes) -> "Service":
        id_, slots, flags, idle, connections, together, limit = cls.LAYOUT.unpack(packed)
        return cls(
            id=id_,
            slots=slots,
            flags=ServiceFlag(flags),
            idle=idle,
            connections=connections,
            together=together,
            limit=limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """Interface 0 is the one that the packet came from; mtu 0 is unlimited."""

    interface: int = 0
    destination: bytes = bytes(6)
    source: bytes = bytes(6)
    mtu: int = 0
    method: HopMethod = HopMethod.UNRESOLVED

    LAYOUT = struct.Struct("=I6s6sHBx")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.interface, self.destination, self.source, self.mtu, self.method)

    @classmethod
    def unpack(cls, packed: bytes) -> "Hop":
        interface, destination, source, mtu, method = cls.LAYOUT.unpack(packed)
        return cls(interface=interface, destination=destination, source=source, mtu=mtu, method=HopMethod(method))


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Port 0 keeps the client's. `source`: outer source of a tunnel. `next`: for HopMethod.NEIGHBOUR. Connections of
    full NAT come from `source_count` sources from `first_source` on; at `connections` of them (0: never) the server is
    passed over until it has fewer than `resume`. By `weight` they are compared with another server's."""

    address: Address
    forward: Forward
    hop: Hop
    port: int = 0
    flags: ServerFlag = NO_SERVER_FLAG
    tunnel_port: int = 0
    source: Address = NO_ADDRESS
    next: Address = NO_ADDRESS
    first_source: int = 0
    source_count: int = 0
    connections: int = 0
    resume: int = 0
    weight: int = 0

    LAYOUT = struct.Struct("=20s2sBB2sHH2x16s16s16sIII36x")

    def pack(self) -> bytes:
        family = ServerFlag.IPV6 if self.address.version == 6 else ServerFlag(0)
        return self.LAYOUT.pack(
            self.hop.pack(),
            self.port.to_bytes(2, "big"),
            self.forward,
            (self.flags & ~ServerFlag.IPV6) | family,
            self.tunnel_port.to_bytes(2, "big"),
            self.first_source,
            self.source_count,
            pack_address(self.address),
            pack_address(self.source),
            pack_address(self.next),
            self.connections,
            self.resume,
            self.weight,
        )

    @classmethod
    def unpack(cls, packed: bytes) -> "Server":
        (
            hop, port, forward, flags, tunnel_port, first, count, address, source, next_, connections, resume, weight,
        ) = cls.LAYOUT.unpack(packed)  # fmt: skip
        return cls(
            address=unpack_address(address),
            forward=Forward(forward),
            hop=Hop.unpack(hop),
            port=int.from_bytes(port, "big"),
            flags=ServerFlag(flags) & ~ServerFlag.IPV6,
            tunnel_port=int.from_bytes(tunnel_port, "big"),
            source=unpack_address(source),
            next=unpack_address(next_),
            first_source=first,
            source_count=count,
            connections=connections,
            resume=resume,
            weight=weight,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where full NAT connections come from: the address and its ports from first_port on."""

    address: Address
    first_port: int
    port_count: int

    LAYOUT = struct.Struct("=16sHH")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(pack_address(self.address), self.first_port, self.port_count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Counters of one server, summed over the CPUs."""

    flows: int = 0
    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    refused: int = 0

    LAYOUT = struct.Struct("=6Q")

    @classmethod
    def unpack(cls, packed: bytes) -> "Traffic":
        flows, packets_in, bytes_in, packets_out, bytes_out, refused = map(
            sum, zip(*cls.LAYOUT.iter_unpack(packed), strict=True)
        )
        return cls(
            flows=flows,
            packets_in=packets_in,
            bytes_in=bytes_in,
            packets_out=packets_out,
            bytes_out=bytes_out,
            refused=refused,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What the loaded program would do with a packet; cause is None where it would forward it."""

    service: int
    slot: int
    hash: int
    current: int
    previous: int
    server: int
    reason: Reason
    cause: Cause | None

    LAYOUT = struct.Struct("=IIIHHHBB")

    @classmethod
    def unpack(cls, packed: bytes) -> "Explanation":
        service, slot, hash_, current, previous, server, reason, cause = cls.LAYOUT.unpack(packed[: cls.LAYOUT.size])
        return cls(
            service=service,
            slot=slot,
            hash=hash_,
            current=current,
            previous=previous,
            server=server,
            reason=Reason(reason),
            cause=Cause(cause) if cause < CAUSES else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The constants of a loaded program. Times in ticks of 2^tick_shift jiffies; buckets are powers of two."""

    secret: int
    memory_buckets: int = 1
    flow_buckets: int = 1
    tick_shift: int = 8
    timeouts: tuple[int, ...] = field(default=(0, 30, 900, 120, 60, 300))
    ipv6: bool = True
    fullnat: bool = True
    tunnel: bool = True
    transition: bool = True
    limits: bool = False

    LAYOUT = struct.Struct("=IIIIQ6I5?B2x")

    def pack(self) -> bytes:
        for buckets in (self.memory_buckets, self.flow_buckets):
            if buckets & (buckets - 1) or buckets < 1:
                raise ValueError(f"{buckets} buckets: not a power of two")
        return self.LAYOUT.pack(
            ABI_VERSION,
            self.tick_shift,
            self.memory_buckets - 1,
            self.flow_buckets - 1,
            self.secret,
            *self.timeouts,
            self.ipv6,
            self.fullnat,
            self.tunnel,
            self.transition,
            self.limits,
            self.step_shift,
        )

    @property
    def step_shift(self) -> int:
        return step_shift(self.timeouts)


def step_shift(timeouts: Sequence[int]) -> int:
    """A step of a limit is so many ticks, as a power of two, that the longest timeout fits into its steps."""
    return ((max(timeouts) + 2) // (LIMIT_STEPS - 2)).bit_length()


def table_elements(slots: int) -> int:
    """How many groups the inner map of a service has: its slots, then when each last used another server."""
    return 2 * -(-slots // SLOTS_PER_GROUP)
