"""The keys of kernlb.toml, for pydantic: what each is for and which values it takes. The JSON Schema is made of them.

None means not written: what is then meant is decided by `build`, where inheritance is.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from kernlb.checks.spec import HEAVIEST
from kernlb.config.check_keys import AgentEntry, CheckEntry
from kernlb.config.fields import (
    DAY,
    MONTH,
    BindText,
    Count,
    FirewallMark,
    Fraction,
    Interface,
    Keys,
    Line,
    Listen,
    Multicast,
    Name,
    Port,
    Socket,
    SourcePorts,
    Unicast,
    choice,
    seconds,
)
from kernlb.config.values import Announce, EngineChoice, Loader, OnFailure, Policy
from kernlb.model import Forwarding, Protocol, Scheduler, SchedulerFlag, TunnelChecksum, TunnelKind

ForwardingWord = Annotated[Forwarding, *choice(Forwarding)]
SchedulerWord = Annotated[Scheduler | Policy, *choice(Scheduler, Policy)]
FlagWord = Annotated[SchedulerFlag, *choice(SchedulerFlag)]
EngineWord = Annotated[EngineChoice, *choice(EngineChoice)]
OnFailureWord = Annotated[OnFailure, *choice(OnFailure)]
Weight = Annotated[int, Field(ge=0, le=HEAVIEST)]
SlowStart = Annotated[float, *seconds(0, DAY)]
Idle = Annotated[int, *seconds(1, MONTH, whole=True)]


class PersistenceEngine(StrEnum):
    """linux/net/netfilter/ipvs/ip_vs_pe_*.c"""

    SIP = "sip"


class TunnelKeys(Keys):
    """How packets are wrapped on their way to the server."""

    type: Annotated[TunnelKind, *choice(TunnelKind)] = Field(default=TunnelKind.IPIP, description="The encapsulation.")
    port: Port | None = Field(default=None, description="UDP port of gue, where it is required.", examples=[6080])
    checksum: Annotated[TunnelChecksum, *choice(TunnelChecksum)] = Field(
        default=TunnelChecksum.NONE,
        description="Checksum of the outer header: gue and gre; remote-checksum with gue only.",
    )


class PersistenceKeys(Keys):
    """Clients stay on their server while they keep coming back."""

    timeout: Idle = Field(
        default=360, description="How long after its last connection a client is remembered. Default: 6m."
    )
    prefix: int | None = Field(
        default=None, ge=1, le=128, description="Clients within one network of so many bits go together.", examples=[24]
    )
    mask: Line | None = Field(default=None, description="The same as an IPv4 netmask.", examples=["255.255.255.0"])
    engine: Annotated[PersistenceEngine, *choice(PersistenceEngine)] | None = Field(
        default=None, description="Persistence engine of the kernel: sip keeps the packets of a call together."
    )


def _tunnel(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, str):
        kind, colon, port = value.partition(":")
        return handler({"type": kind} | ({"port": int(port)} if colon and port.isdecimal() and port.isascii() else {}))
    return handler(value)


def _persistence(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    match value:
        case False:
            return None
        case True:
            return handler({})
        case str() | int() | float():
            return handler({"timeout": value})
        case _:
            return handler(value)


def _host(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    return handler({"address": value} if isinstance(value, str) else value)


def _binds(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    return handler([value] if isinstance(value, str) else value)


TunnelEntry = Annotated[TunnelKeys, WrapValidator(_tunnel, json_schema_input_type=str | TunnelKeys)]
PersistenceEntry = Annotated[
    PersistenceKeys | None, WrapValidator(_persistence, json_schema_input_type=bool | Idle | PersistenceKeys)
]
BindList = Annotated[
    Annotated[list[BindText], Field(min_length=1)],
    WrapValidator(_binds, json_schema_input_type=BindText | Annotated[list[BindText], Field(min_length=1)]),
]


class HostKeys(Keys):
    """What every real server may say of itself."""

    address: Socket = Field(description="Address and port. Without a port the client's own is kept.")
    port: Port | None = Field(default=None, description="The port, where it is not in the address.")
    weight: Weight | None = Field(
        default=None, description="Share of the traffic; 0 gives no new connections. Default: 1."
    )
    forwarding: ForwardingWord | None = Field(default=None, description="How packets reach this server.")
    tunnel: TunnelEntry | None = Field(default=None, description="The encapsulation, with forwarding tunnel.")
    max_connections: Count | None = Field(default=None, description="Past so many, the server gets no new ones.")
    min_connections: Count | None = Field(
        default=None, description="It gets new ones again below this many. Default: three quarters of the maximum."
    )
    check: CheckEntry = Field(
        default=None, description="How this server is checked, if not like the others; false: not at all."
    )
    agent: AgentEntry = Field(
        default=None, description="An agent on the server that sets its weight: a port, or a table."
    )


class ServerKeys(HostKeys):
    """A real server."""

    backup: bool = Field(default=False, description="Serves only when no other server is up.")
    disabled: bool = Field(default=False, description="Kept at weight 0 until enabled.")
    slow_start: SlowStart | None = Field(
        default=None, description="After it comes up, its weight grows over this time."
    )


class SorryKeys(HostKeys):
    """The server that answers when the service has lost its quorum."""

    name: Name = Field(default="sorry", description="What status, metrics and logs call it.")


ServerEntry = Annotated[ServerKeys, WrapValidator(_host, json_schema_input_type=Socket | ServerKeys)]
SorryEntry = Annotated[SorryKeys, WrapValidator(_host, json_schema_input_type=Socket | SorryKeys)]


class DefaultKeys(Keys):
    """What services and servers inherit where they say nothing themselves."""

    scheduler: SchedulerWord | None = Field(default=None, description="How a server is chosen. Default: wrr.")
    flags: list[FlagWord] | None = Field(default=None, description="Flags of the scheduler: for sh and mh.")
    forwarding: ForwardingWord | None = Field(
        default=None,
        description="How packets reach a server. nat: its replies must come back through the director; fullnat: works "
        "with any gateway, the server sees the director's address; direct: same network, the VIP on the server's "
        "loopback; tunnel: the same across networks. Default: nat.",
    )
    tunnel: TunnelEntry | None = Field(
        default=None, description="The encapsulation, with forwarding tunnel. Default: ipip."
    )
    persistence: PersistenceEntry = Field(
        default=None, description="Clients stay on their server: true, a time, or a table."
    )
    check: CheckEntry = Field(
        default=None,
        description="How servers are checked; without it they always count as up. An array of checks, which must all "
        "succeed, takes the place of what is said further out; each of them inherits as a single one would.",
        examples=["tcp", ["tcp", {"type": "http", "path": "/healthz"}]],
    )
    agent: AgentEntry = Field(
        default=None, description="An agent on the servers that sets their weight: a port, or a table."
    )
    slow_start: SlowStart | None = Field(
        default=None, description="After it comes up, a server's weight grows over this time."
    )
    quorum: Count | None = Field(default=None, description="Weight of live servers that the service needs. Default: 1.")
    hysteresis: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = Field(
        default=None,
        description="Quorum is reached at quorum + hysteresis, lost below quorum - hysteresis. Default: 0.",
    )
    panic: Fraction | None = Field(
        default=None,
        description="When fewer than this share of the servers are up, backups help, or else the dead are kept too. "
        "Default: 0, never.",
    )
    on_failure: OnFailureWord | None = Field(
        default=None, description="A dead server is removed from the kernel, or kept at weight 0. Default: remove."
    )
    all_backups: bool | None = Field(
        default=None, description="When no server is up, all backup servers serve, not only the first. Default: false."
    )


class ServiceKeys(DefaultKeys):
    """A virtual service: what clients connect to, and the real servers behind it."""

    bind: BindList = Field(description="One or more of address:port, *:port, [::]:port, ranges of ports, fwmark:N.")
    engine: EngineWord | None = Field(default=None, description="What carries the service. Default: that of [engine].")
    protocol: Annotated[Protocol, *choice(Protocol)] = Field(default=Protocol.TCP, description="tcp, udp or sctp.")
    one_packet: bool = Field(default=False, description="UDP: each datagram is scheduled anew.")
    max_connections: Count | None = Field(default=None, description="The kernel refuses new connections past so many.")
    sorry_server: SorryEntry | None = Field(default=None, description="Answers when the service has lost its quorum.")
    pool: Name | None = Field(
        default=None, description="What to call the servers together, where it is not the service's name."
    )
    servers: dict[Name, ServerEntry] = Field(
        default_factory=dict, description="The real servers by name: an address, or a table."
    )


class EngineKeys(Keys):
    """What carries the services, and how."""

    default: EngineWord | None = Field(default=None, description="auto: ipvs where the kernel has it, else xdp.")
    interfaces: list[Interface] = Field(
        default_factory=list, description="Where the eBPF program attaches.", examples=[["eth0"]]
    )
    loader: Annotated[Loader, *choice(Loader)] = Field(
        default=Loader.AUTO,
        description="Where the eBPF program comes from: the shipped object, or BCC on this machine.",
    )
    mark_base: FirewallMark | None = Field(
        default=None, description="First of the 65,536 firewall marks that are kernlb's own. Default: 0x4b4c0000."
    )
    idle_timeout: Annotated[float, *seconds(1, MONTH)] = Field(
        default=900.0, description="xdp: a flow silent for longer may move when servers change."
    )


class AddressKeys(Keys):
    """The VIPs, and the addresses that fullnat connections come from."""

    manage: bool = Field(default=False, description="Whether kernlb puts the VIPs on the interface.")
    interface: Interface = Field(default="lo", description="Where managed VIPs go.")
    announce: Annotated[Announce, *choice(Announce)] = Field(
        default=Announce.ALWAYS, description="quorum: a VIP is taken away while its services lack quorum."
    )
    source: list[Unicast] = Field(
        default_factory=list,
        description="Where fullnat connections come from. Default: the address of the route out.",
        examples=[["10.0.0.254"]],
    )
    source_ports: SourcePorts | None = Field(
        default=None,
        description="The ports that they take: this gateway's share, where another has the same address. Default: any.",
    )


class TimerKeys(Keys):
    """Idle timers of IPVS; they hold for the whole network namespace."""

    tcp: Idle = Field(default=900, description="Established TCP. Default: 15m.")
    tcp_fin: Idle = Field(default=120, description="TCP after a FIN. Default: 2m.")
    udp: Idle = Field(default=300, description="UDP. Default: 5m.")


class SyncDaemonKeys(Keys):
    """A daemon of IPVS that shares connections with other directors."""

    interface: Interface = Field(description="The interface to the other directors.")
    id: int = Field(default=0, ge=0, le=255, description="Only daemons of one id speak to each other.")
    group: Multicast | None = Field(default=None, description="Multicast group. Default: 224.0.0.81.")
    port: Port = Field(default=8848, description="UDP port.")
    ttl: int = Field(default=1, ge=1, le=255, description="Time to live of the messages.")
    max_length: int = Field(default=0, ge=0, le=65507, description="Bytes of a message; 0: what fits the interface.")


class SyncKeys(Keys):
    """Connection synchronisation; a namespace may have both daemons."""

    master: SyncDaemonKeys | None = Field(default=None, description="Sends connections to other directors.")
    backup: SyncDaemonKeys | None = Field(default=None, description="Receives the connections of other directors.")


class MetricsKeys(Keys):
    """What Prometheus may scrape of the daemon."""

    listen: Listen = Field(description="Where GET /metrics is answered, to whoever may reach it.")


class Document(Keys):
    """kernlb.toml: the services of a director, and what carries them."""

    max_connections: Count | None = Field(default=None, description="Bounds all services together.", examples=[4096])
    engine: EngineKeys = Field(default_factory=EngineKeys, description="What carries the services.")
    addresses: AddressKeys = Field(default_factory=AddressKeys, description="VIPs and source addresses.")
    timers: TimerKeys | None = Field(default=None, description="Idle timers of IPVS.")
    sync: SyncKeys = Field(default_factory=SyncKeys, description="Connection synchronisation between directors.")
    metrics: MetricsKeys | None = Field(default=None, description="The daemon's metrics. Default: off.")
    defaults: DefaultKeys = Field(default_factory=DefaultKeys, description="What services and servers inherit.")
    service: dict[Name, ServiceKeys] = Field(default_factory=dict, description="The services by name.")
