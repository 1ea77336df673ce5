"""A configuration as values: what the user asked for, every default filled in. Where it came from is not known here."""

from dataclasses import dataclass, field
from enum import StrEnum

from kernlb.checks.spec import Check, measures
from kernlb.model import (
    EngineName,
    Family,
    Forwarding,
    IPAddress,
    Persistence,
    Protocol,
    Scheduler,
    SchedulerFlag,
    SyncDaemon,
    SyncKey,
    Timers,
    Tunnel,
)
from kernlb.ports import PortRange

MARK_BASE = 0x4B4C0000


class EngineChoice(StrEnum):
    """AUTO is ipvs where the kernel has it, else xdp."""

    AUTO = "auto"
    IPVS = "ipvs"
    XDP = "xdp"


class Loader(StrEnum):
    """Where the eBPF program comes from: the shipped object, or compiled on this machine by BCC."""

    AUTO = "auto"
    OBJECT = "object"
    BCC = "bcc"


class Announce(StrEnum):
    """ALWAYS keeps a managed VIP on its interface; QUORUM takes it away while its services lack quorum."""

    ALWAYS = "always"
    QUORUM = "quorum"


class Policy(StrEnum):
    """Schedulers beyond the kernel's, carried out by moving weights."""

    LEAST_RESPONSE_TIME = "least-response-time"


class OnFailure(StrEnum):
    """What becomes of a real server whose check fails: taken out of the kernel, or kept there at weight 0."""

    REMOVE = "remove"
    QUIESCE = "quiesce"


@dataclass(frozen=True, slots=True)
class AddressBind:
    """`address` is a Family for every local address of it. Ports first..last, 0..0 for any."""

    address: IPAddress | Family
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class MarkBind:
    """Packets that carry a firewall mark which somebody else sets (`fwmark:N`)."""

    family: Family
    mark: int


Bind = AddressBind | MarkBind


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """`port` 0 keeps the port the client asked for. `max_connections` 0 is no limit; past it the kernel gives the
    server no new connections until it is below `min_connections` (0: three quarters of the maximum).
    `weight` 0..65535 in configured units. `slow_start` in seconds. It is up while all of its `checks` are."""

    name: str
    address: IPAddress
    port: int
    weight: int = 1
    forwarding: Forwarding = Forwarding.NAT
    tunnel: Tunnel | None = None
    max_connections: int = 0
    min_connections: int = 0
    backup: bool = False
    disabled: bool = False
    slow_start: float = 0.0
    checks: tuple[Check, ...] = ()
    agent: Check | None = None

    @property
    def probed(self) -> tuple[Check, ...]:
        """Its checks, and its agent."""
        return self.checks if self.agent is None else (*self.checks, self.agent)

    @property
    def timed(self) -> Check | None:
        """The first of its checks that measures how long an answer takes."""
        return next((check for check in self.checks if measures(check.probe)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """`quorum` and `hysteresis` count the configured weight of live servers; quorum 1 is "any server up".
    `panic` is the fraction of servers up below which backups help, or else all are kept serving (0: never)."""

    name: str
    binds: tuple[Bind, ...]
    protocol: Protocol = Protocol.TCP
    engine: EngineChoice = EngineChoice.AUTO
    scheduler: Scheduler | Policy = Scheduler.WRR
    flags: frozenset[SchedulerFlag] = frozenset()
    persistence: Persistence | None = None
    one_packet: bool = False
    max_connections: int | None = None
    servers: tuple[Server, ...] = ()
    sorry_server: Server | None = None
    quorum: int = 1
    hysteresis: int = 0
    panic: float = 0.0
    on_failure: OnFailure = OnFailure.REMOVE
    all_backups: bool = False
    pool: str | None = None  # the name of the servers together, where it is not the service's (a backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """`interfaces` is where the eBPF program attaches; empty: every interface with a route that matters."""

    default: EngineChoice = EngineChoice.AUTO
    interfaces: tuple[str, ...] = ()
    loader: Loader = Loader.AUTO
    mark_base: int = MARK_BASE
    idle_timeout: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """`source` is where fullnat connections come from; empty: the address of the route out. `source_ports` are all that
    this gateway takes for them; None: any."""

    manage: bool = False
    interface: str = "lo"
    announce: Announce = Announce.ALWAYS
    source: tuple[IPAddress, ...] = ()
    source_ports: PortRange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Where the daemon serves them to Prometheus; an unspecified address is every local one of its family."""

    address: IPAddress
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`max_connections` bounds all services together. `timers` are wished of the kernel; `sync` lists the
    connection synchronisation daemons to run. `metrics` None: nobody may scrape."""

    services: tuple[Service, ...] = ()
    engine: Engine = field(default_factory=Engine)
    addresses: Addresses = field(default_factory=Addresses)
    max_connections: int | None = None
    timers: Timers | None = None
    sync: tuple[tuple[SyncKey, SyncDaemon], ...] = ()
    metrics: Metrics | None = None


def chosen_engine(service: Service, config: Config, *, ipvs_available: bool) -> EngineName:
    """The engine that carries a service, where nothing is loaded yet."""
    choice = service.engine if service.engine is not EngineChoice.AUTO else config.engine.default
    if choice is EngineChoice.AUTO:
        return EngineName.IPVS if ipvs_available else EngineName.XDP
    return EngineName(choice)
