"""What kernlb wants of a kernel, as values that compare with ==. No kernel, no files, no names of people's choosing.

A Table maps keys to values. A key says which thing; a value says how it is configured. Desired and observed state
are both Tables, whole and canonical, so that one diff serves every engine and every dry run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from kernlb.ports import PortRange

IPAddress = IPv4Address | IPv6Address


class Family(StrEnum):
    """An address family; as the address of a bind it means every local address of that family."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class EngineName(StrEnum):
    IPVS = "ipvs"
    XDP = "xdp"


class Forwarding(StrEnum):
    """How a packet reaches its real server. IPVS itself knows no fullnat: there it is nat plus a SourceNat."""

    NAT = "nat"
    FULLNAT = "fullnat"
    DIRECT = "direct"
    TUNNEL = "tunnel"


class Scheduler(StrEnum):
    """The kernel's schedulers, linux/net/netfilter/ipvs/Kconfig; MAGLEV is the eBPF program's."""

    RR = "rr"
    WRR = "wrr"
    LC = "lc"
    WLC = "wlc"
    FO = "fo"
    OVF = "ovf"
    LBLC = "lblc"
    LBLCR = "lblcr"
    DH = "dh"
    SH = "sh"
    MH = "mh"
    SED = "sed"
    NQ = "nq"
    TWOS = "twos"
    MAGLEV = "maglev"


class SchedulerFlag(StrEnum):
    """IP_VS_SVC_F_SCHED1..3 of linux/ip_vs.h, under the names they have for sh and mh."""

    FALLBACK = "fallback"
    PORT = "port"
    FLAG_3 = "flag-3"


class TunnelKind(StrEnum):
    IPIP = "ipip"
    GUE = "gue"
    GRE = "gre"


class TunnelChecksum(StrEnum):
    NONE = "none"
    CHECKSUM = "checksum"
    REMOTE = "remote-checksum"


class SyncRole(StrEnum):
    MASTER = "master"
    BACKUP = "backup"


# --- keys: which thing


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A virtual service by address. `address` is a Family only where the engine takes every local address."""

    engine: EngineName
    protocol: Protocol
    address: IPAddress | Family
    port: int

    def __hash__(self) -> int:
        # Tables of ten thousand keys are hashed again and again; an address as such hashes a text of itself.
        return hash((self.port, 0 if isinstance(self.address, Family) else int(self.address)))

    @property
    def family(self) -> Family:
        return self.address if isinstance(self.address, Family) else family_of(self.address)


@dataclass(frozen=True, slots=True)
class Fwmark:
    """A virtual service of IPVS by firewall mark, 1..2**32-1."""

    family: Family
    mark: int
    engine: EngineName = EngineName.IPVS


ServiceKey = Endpoint | Fwmark


@dataclass(frozen=True, slots=True)
class ServerKey:
    """A real server of one virtual service. Port 0 keeps the port the client asked for."""

    service: ServiceKey
    address: IPAddress
    port: int

    def __hash__(self) -> int:
        return hash((self.service, int(self.address), self.port))


@dataclass(frozen=True, slots=True)
class SysctlKey:
    """By dotted name, e.g. net.ipv4.vs.conntrack. Holds for the whole network namespace."""

    name: str


@dataclass(frozen=True, slots=True)
class TimersKey:
    """The idle timers of IPVS, one set for the whole network namespace."""


@dataclass(frozen=True, slots=True)
class SyncKey:
    """A connection synchronisation daemon of IPVS; a namespace may have one of each role."""

    role: SyncRole


@dataclass(frozen=True, slots=True)
class RulesetKey:
    """The fixed part of kernlb's nftables table: its chains, sets and static rules."""


@dataclass(frozen=True, slots=True)
class CheckTimeoutsKey:
    """How long conntrack keeps the connections of kernlb's own checks: an nftables table of its own."""


@dataclass(frozen=True, slots=True)
class MarkKey:
    """Packets to `address` (a Family: any local address but loopback), protocol and ports first..last."""

    address: IPAddress | Family
    protocol: Protocol
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ExemptKey:
    """A specific destination that no wildcard may take, because a virtual service of its own serves it."""

    address: IPAddress
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class LimitKey:
    """The connections of one mark, or, with None, of all kernlb's marks together."""

    mark: int | None


@dataclass(frozen=True, slots=True)
class SourceKey:
    """Connections of one mark to one real server; port 0 means any."""

    mark: int
    address: IPAddress
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class VipKey:
    interface: str
    address: IPAddress


Key = (
    SysctlKey
    | TimersKey
    | SyncKey
    | Endpoint
    | Fwmark
    | ServerKey
    | RulesetKey
    | CheckTimeoutsKey
    | MarkKey
    | ExemptKey
    | LimitKey
    | SourceKey
    | VipKey
)


# --- values: how it is configured

SYNC_GROUP = IPv4Address("224.0.0.81")


@dataclass(frozen=True, slots=True)
class Persistence:
    """Clients within one network of `prefix` bits stay on their server for `timeout` seconds after the last
    connection. `engine` names a persistence engine of the kernel ("sip")."""

    timeout: int
    prefix: int
    engine: str | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Connections at a time: of all virtual services with this number (1..65535), and of all that have bounds. 0 is any
    number."""

    number: int
    connections: int = 0
    together: int = 0


@dataclass(frozen=True, slots=True)
class VirtualService:
    """`scheduler` is a plain str where a foreign service uses one that kernlb does not know. `bounds` are the eBPF
    program's; for IPVS a Limit stands beside its mark."""

    scheduler: Scheduler | str
    flags: frozenset[SchedulerFlag] = frozenset()
    persistence: Persistence | None = None
    one_packet: bool = False
    bounds: Bounds | None = None


@dataclass(frozen=True, slots=True)
class Tunnel:
    """IP_VS_CONN_F_TUNNEL_TYPE_* of linux/ip_vs.h. `port` is GUE's UDP port and 0 elsewhere."""

    kind: TunnelKind = TunnelKind.IPIP
    port: int = 0
    checksum: TunnelChecksum = TunnelChecksum.NONE


@dataclass(frozen=True, slots=True)
class RealServer:
    """Weight 0..2**31-1 as the kernel counts, 0 means quiesced. Thresholds count connections; 0 means none.
    `tunnel` is None unless forwarding is TUNNEL."""

    forwarding: Forwarding
    weight: int
    upper_threshold: int = 0
    lower_threshold: int = 0
    tunnel: Tunnel | None = None


@dataclass(frozen=True, slots=True)
class Sysctl:
    value: str


@dataclass(frozen=True, slots=True)
class Timers:
    """Seconds until an idle connection is forgotten: established TCP, TCP after FIN, UDP."""

    tcp: int
    tcp_fin: int
    udp: int


@dataclass(frozen=True, slots=True)
class SyncDaemon:
    """`port` and `ttl` are of the multicast group; `max_length` bounds a message in bytes (0: the MTU decides)."""

    interface: str
    sync_id: int
    group: IPAddress = SYNC_GROUP
    port: int = 8848
    ttl: int = 1
    max_length: int = 0


@dataclass(frozen=True, slots=True)
class Ruleset:
    """`digest` identifies the static rules; it changes only when a version of kernlb changes them."""

    digest: str


@dataclass(frozen=True, slots=True)
class CheckTimeouts:
    """`syn_sent` is in seconds, for a SYN that nothing answers; a connection that has closed is forgotten at once."""

    syn_sent: int


@dataclass(frozen=True, slots=True)
class Mark:
    mark: int


@dataclass(frozen=True, slots=True)
class Exempt:
    """Nothing to configure: being there is all."""


@dataclass(frozen=True, slots=True)
class Limit:
    """New connections beyond this many are refused with a reset (TCP) or an ICMP error."""

    connections: int


@dataclass(frozen=True, slots=True)
class SourceNat:
    """Where the connections come from as the real server sees it. Empty: the address of the route out; None: any."""

    sources: tuple[IPAddress, ...] = ()
    ports: PortRange | None = None


@dataclass(frozen=True, slots=True)
class Vip:
    prefix: int


Filtering = Ruleset | Mark | Exempt | Limit | SourceNat
"""What nftables holds."""

Value = Sysctl | Timers | CheckTimeouts | SyncDaemon | VirtualService | RealServer | Vip | Filtering

Table = Mapping[Key, Value]


# --- questions a Table answers


def family_of(address: IPAddress) -> Family:
    return Family.IPV4 if address.version == 4 else Family.IPV6


def services(table: Table) -> Iterator[tuple[ServiceKey, VirtualService]]:
    for key, value in table.items():
        if isinstance(key, Endpoint | Fwmark) and isinstance(value, VirtualService):
            yield key, value


def servers(table: Table) -> Iterator[tuple[ServerKey, RealServer]]:
    for key, value in table.items():
        if isinstance(key, ServerKey) and isinstance(value, RealServer):
            yield key, value


def servers_by_service(table: Table) -> dict[ServiceKey, list[tuple[ServerKey, RealServer]]]:
    """The real servers of each virtual service; a service without any is there with an empty list."""
    found: dict[ServiceKey, list[tuple[ServerKey, RealServer]]] = {key: [] for key, _ in services(table)}
    for key, server in servers(table):
        found.setdefault(key.service, []).append((key, server))
    return found


def service_of(key: Key) -> ServiceKey | None:
    """The virtual service a key is, or belongs to."""
    match key:
        case Endpoint() | Fwmark():
            return key
        case ServerKey():
            return key.service
        case _:
            return None
