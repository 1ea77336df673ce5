"""What a section of haproxy.cfg has said so far, before it becomes a Config. Filled line by line, hence mutable."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from kernlb.checks.spec import Expect, HttpProbe, Send
from kernlb.formats.haproxy.values import Place
from kernlb.model import Family, IPAddress


class Kind(StrEnum):
    """The sections that describe proxies."""

    DEFAULTS = "defaults"
    FRONTEND = "frontend"
    BACKEND = "backend"
    LISTEN = "listen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """One address of a bind line. `both` asks for IPv4 too where the address is `::`."""

    line: int
    word: str
    place: Place
    both: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The words after a server's address; those that kernlb acts upon. Durations are seconds."""

    weight: int = 1
    check: bool = False
    inter: float = 2.0
    fastinter: float | None = None
    downinter: float | None = None
    rise: int = 2
    fall: int = 3
    port: int | None = None
    addr: IPAddress | str | None = None
    maxconn: int = 0
    slowstart: float = 0.0
    backup: bool = False
    disabled: bool = False
    agent: bool = False
    agent_inter: float | None = None
    agent_port: int | None = None
    agent_addr: IPAddress | str | None = None
    agent_send: str = ""
    tls: bool = False
    check_tls: bool = False
    check_sni: str | None = None
    verify: bool | None = None
    verifyhost: str | None = None
    ca_file: str | None = None
    check_alpn: tuple[str, ...] = ()
    track: str | None = None
    unreachable: str = ""  # why this server cannot be served by packets alone


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLine:
    line: int
    name: str
    place: Place
    options: ServerOptions
    slot: int | None = None  # of a server-template: which of the name's addresses, from 0


class CheckKind(StrEnum):
    """Which `option ...chk` a backend has chosen; the last one counts."""

    CONNECT = "connect"
    HTTP = "http"
    TCP = "tcp"
    TLS = "ssl-hello"
    SMTP = "smtp"
    REDIS = "redis"
    COMMAND = "command"


@dataclass(slots=True)
class CheckRules:
    """`rules_of` is the line of the section whose http-check or tcp-check rules these are: a section's first rule
    replaces what it inherited."""

    kind: CheckKind = CheckKind.CONNECT
    http: HttpProbe = field(default_factory=lambda: HttpProbe(method="OPTIONS"))
    http_rules: int | None = None
    sent: bool = False
    steps: tuple[Send | Expect, ...] = ()
    steps_rules: int | None = None
    helo: str = "localhost"
    command: str = ""
    port: int | None = None
    address: IPAddress | str | None = None
    tls: bool = False
    sni: str | None = None


@dataclass(slots=True)
class Proxy:
    """A defaults, frontend, backend or listen section. A new one starts as a copy of its defaults."""

    kind: Kind
    name: str
    line: int
    mode: str = "tcp"
    disabled: bool = False
    maxconn: int | None = None
    binds: list[Bind] = field(default_factory=list)
    default_backend: tuple[int, str] | None = None
    fixed_backend: tuple[int, str] | None = None
    conditional_backends: list[str] = field(default_factory=list)
    balance: str = "roundrobin"
    balance_line: int | None = None
    consistent: bool = False
    timeouts: dict[str, tuple[int, float]] = field(default_factory=dict)
    servers: list[ServerLine] = field(default_factory=list)
    options: ServerOptions = field(default_factory=ServerOptions)
    sticky: float | None = None  # seconds; of a stick-table by address
    stick_on: int | None = None
    checks: CheckRules = field(default_factory=CheckRules)
    allbackups: bool = False
    source: tuple[int, IPAddress] | None = None
    transparent: bool = False

    @property
    def front(self) -> bool:
        return self.kind in (Kind.FRONTEND, Kind.LISTEN, Kind.DEFAULTS)

    @property
    def back(self) -> bool:
        return self.kind in (Kind.BACKEND, Kind.LISTEN, Kind.DEFAULTS)

    def child(self, kind: Kind, name: str, line: int) -> "Proxy":
        return replace(
            self,
            kind=kind,
            name=name,
            line=line,
            binds=[],
            servers=[],
            conditional_backends=[],
            timeouts=dict(self.timeouts),
            checks=replace(self.checks),
            disabled=self.disabled,
        )


@dataclass(slots=True)
class GlobalSettings:
    maxconn: int | None = None
    maxconn_line: int | None = None
    verify_servers: bool = True
    families: frozenset[Family] = frozenset()
