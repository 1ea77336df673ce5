"""What a check does, as values: the kind of probe, and how often, how patiently and over which path. Opens nothing.

Defaults are HAProxy's: every 2 s, rise 2, fall 3, the interval itself as the timeout. Durations are seconds.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

PRIORITY = 0x4B4C0000
"""SO_PRIORITY of probes, by which conntrack's rules know them: a traffic class that no queue has."""

HEAVIEST = 65535
"""What a weight may be, in configured units."""


class CheckKind(StrEnum):
    """The names that a configuration uses; https is http with `tls`."""

    TCP = "tcp"
    HTTP = "http"
    HTTPS = "https"
    TLS = "tls"
    DNS = "dns"
    UDP = "udp"
    PING = "ping"
    SMTP = "smtp"
    GRPC = "grpc"
    COMMAND = "command"
    AGENT = "agent"
    FILE = "file"
    BFD = "bfd"


class Start(StrEnum):
    """What a server counts as before its first verdict."""

    UP = "up"  # serves; its first failure takes it down
    DOWN = "down"  # does not serve; its first success brings it up
    LAST = "last"  # as it was before the restart; where that is unknown, as UP


class Transport(StrEnum):
    UDP = "udp"
    TCP = "tcp"


class Exit(StrEnum):
    """How a command's exit code is read."""

    STATUS = "status"  # 0 is up, everything else is down
    WEIGHT = "weight"  # keepalived's misc_dynamic: 0 up, 1 down, 2..255 up with weight = code - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """How a probe speaks TLS. `server_name` is the SNI and the name that the certificate must carry."""

    server_name: str | None = None
    verify: bool = True
    ca_file: str | None = None  # None: the system's authorities
    certificate_days: int | None = None  # the certificate must stay valid for so many days more
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What received bytes must hold: `text` literally, or the regular expression `pattern`; `negate` turns it."""

    text: bytes | None = None
    pattern: str | None = None
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    match: Match
    min_bytes: int = 0  # HAProxy's min-recv: judge no sooner


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRange:
    """Inclusive at both ends."""

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpProbe:
    """A connect; with steps or TLS a dialogue, as HAProxy's tcp-check."""

    steps: tuple[Send | Expect, ...] = ()
    tls: TlsOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpProbe:
    """One HTTP/1.1 request. Without `host` the Host header is the target's address."""

    method: str = "GET"
    path: str = "/"
    host: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    status: tuple[StatusRange, ...] = (StatusRange(first=200, last=399),)
    match: Match | None = None  # against at most `body_limit` bytes of the response's body
    body_limit: int = 65536
    tls: TlsOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsProbe:
    """A handshake and nothing more."""

    tls: TlsOptions = field(default_factory=TlsOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsProbe:
    """One query; keepalived's default question."""

    name: str = "."
    record_type: str = "SOA"
    transport: Transport = Transport.UDP
    rcodes: tuple[str, ...] = ("NOERROR",)
    match: Match | None = None  # against the answer section in presentation format


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpProbe:
    """A datagram. Without `require_reply` silence until the timeout is up: only ICMP unreachable is down."""

    payload: bytes = b""
    require_reply: bool = False
    match: Match | None = None  # implies require_reply


@dataclass(frozen=True, slots=True, kw_only=True)
class PingProbe:
    """One ICMP echo."""

    payload_bytes: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpProbe:
    """Greeting, EHLO (HELO where refused), QUIT; with `starttls` the session is upgraded first."""

    helo: str = "localhost"
    starttls: bool = False
    tls: TlsOptions | None = None  # TLS from the first byte, or the options for STARTTLS


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcProbe:
    """grpc.health.v1.Health/Check; an empty service asks for the server as a whole."""

    service: str = ""
    authority: str | None = None
    tls: TlsOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandProbe:
    """A program, never a shell. `{address}` and `{port}` in arguments stand for the target's."""

    argv: tuple[str, ...]
    exit: Exit = Exit.STATUS
    user: str | None = None
    output_limit: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProbe:
    """HAProxy's agent-check: one line of orders from the server. An agent that cannot be reached orders nothing."""

    send: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProbe:
    """A file on the director: a weight (`70`), or what an agent may say (`50%`, `drain`, `down #upgrade`). With
    `adjust` it is keepalived's track file: the number in it (0 where there is none), times `adjust`, is added to the
    configured weight; -2**31 or less is down. With `adjust` 0 every number but 0 is."""

    path: str
    adjust: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BfdProbe:
    """A BFD session with the server (RFC 5880, RFC 5881; RFC 5883 with `multihop`): up while the session is. Packets
    whose TTL is below `min_ttl` are not heeded; None: 255, or any over several hops."""

    min_tx: float = 0.3
    min_rx: float = 0.3
    multiplier: int = 3
    passive: bool = False
    multihop: bool = False
    min_ttl: int | None = None

    @property
    def lowest_ttl(self) -> int:
        return self.min_ttl or (1 if self.multihop else 255)


Probe = (
    TcpProbe
    | HttpProbe
    | TlsProbe
    | DnsProbe
    | UdpProbe
    | PingProbe
    | SmtpProbe
    | GrpcProbe
    | CommandProbe
    | AgentProbe
    | FileProbe
    | BfdProbe
)


def gives_orders(probe: Probe) -> bool:
    """Whether its verdicts may ask for a weight, a drain and the like, or take such wishes back."""
    return isinstance(probe, AgentProbe | FileProbe) or (isinstance(probe, CommandProbe) and probe.exit is Exit.WEIGHT)


def measures(probe: Probe) -> bool:
    """Whether its verdicts say how long the server took to answer."""
    if isinstance(probe, UdpProbe):
        return probe.require_reply or probe.match is not None
    return not isinstance(probe, AgentProbe | FileProbe | BfdProbe)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of one server. Equal specs of one address and port are one probe, however many services share it."""

    probe: Probe = field(default_factory=TcpProbe)
    interval: float = 2.0
    timeout: float | None = None  # None: the interval
    rise: int = 2  # successes in a row that bring a server up, >= 1
    fall: int = 3  # failures in a row that take it down, >= 1
    fast_interval: float | None = None  # while changing its mind; None: interval
    down_interval: float | None = None  # while down; None: interval
    start: Start = Start.LAST
    port: int | None = None  # None: the server's
    address: Address | None = None  # None: the server's
    bind_address: Address | None = None
    mark: int | None = None
    interface: str | None = None
    via_vip: bool = False  # take the path of the traffic, to the VIP at the server
    toward: Address | None = None  # whose route says where probes come from; None: the target's

    @property
    def patience(self) -> float:
        """Seconds after which a probe without an answer has failed."""
        return self.interval if self.timeout is None else self.timeout


def usual(probe: Probe) -> Check:
    """What a check of this kind is where nothing is said of its timing. BFD counts lost packets itself."""
    return Check(probe=probe, rise=1, fall=1) if isinstance(probe, BfdProbe) else Check(probe=probe)
