"""The keys of a check as a file writes them, for pydantic. What they mean together is `check_build`'s."""

import re
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidatorFunctionWrapHandler, WrapValidator

from kernlb.checks.spec import CheckKind, Exit, Start, Transport
from kernlb.config.fields import (
    DAY,
    Address,
    FilePath,
    FirewallMark,
    Interface,
    Keys,
    Line,
    Many,
    Octets,
    Pattern,
    Port,
    Statuses,
    Unicast,
    choice,
    plain,
    seconds,
    text,
)
from kernlb.config.notation import Wrong

Kind = Annotated[CheckKind, *choice(CheckKind)]
Interval = Annotated[float, *seconds(0.01, DAY)]
Pace = Annotated[float, *seconds(0.001, 4294.967)]
Token = Annotated[str, *text(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", "a word without spaces")]
Target = Annotated[str, *text(r"(/|\*$)[^\x00-\x1f\x7f]{0,4095}", "a path that begins with /")]
OneLine = Annotated[str, *text(r"[^\x00-\x1f\x7f]{0,4096}", "text of one line")]

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([^\x00-\x1f\x7f]{0,4096})")


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    match value:
        case dict():
            written = [f"{name}: {content}" if isinstance(content, str) else "" for name, content in value.items()]
        case list():
            written = [line if isinstance(line, str) else "" for line in value]
        case _:
            written = [""]
    found = [_HEADER.fullmatch(line) for line in written]
    if not all(found):
        raise Wrong("these are not headers", hint='write { User-Agent = "kernlb" } or ["User-Agent: kernlb"]')
    return tuple((header[1], header[2].strip(" \t")) for header in found if header)


Headers = Annotated[
    tuple[tuple[str, str], ...],
    *plain(
        _headers,
        {
            "anyOf": [
                {"type": "object", "additionalProperties": {"type": "string"}},
                {"type": "array", "items": {"type": "string", "pattern": "^[^: ]+:"}},
            ]
        },
    ),
]


class TlsKeys(Keys):
    """How a check speaks TLS."""

    server_name: Line | None = Field(default=None, description="Name sent as SNI, which the certificate must carry.")
    verify: bool | None = Field(default=None, description="Whether the certificate must be valid. Default: true.")
    ca_file: FilePath | None = Field(default=None, description="Authorities to trust. Default: the system's.")
    certificate_days: int | None = Field(
        default=None, ge=0, le=3650, description="Days for which the certificate must stay valid.", examples=[14]
    )
    alpn: list[Line] | None = Field(default=None, description="Protocols to offer.", examples=[["h2", "http/1.1"]])


class MatchKeys(Keys):
    """What an answer must hold: a text, or a regular expression."""

    text: Octets | None = Field(default=None, description="Bytes that must occur.")
    pattern: Pattern | None = Field(default=None, description="Regular expression that must match somewhere.")
    negate: bool = Field(default=False, description="Turn it round: must not occur.")


def _match(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    return handler({"text": value} if isinstance(value, str) else value)


def _tls(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    return None if value is False else handler({} if value is True else value)


MatchEntry = Annotated[MatchKeys | None, WrapValidator(_match, json_schema_input_type=str | MatchKeys)]
TlsEntry = Annotated[TlsKeys | None, WrapValidator(_tls, json_schema_input_type=bool | TlsKeys)]


class StepKeys(Keys):
    """One step of a dialogue: exactly one of send and expect."""

    send: Octets | None = Field(default=None, description="Bytes to send.", examples=["PING\r\n"])
    expect: MatchEntry = Field(default=None, description="What must come back.", examples=["+PONG"])
    min_bytes: int | None = Field(
        default=None, ge=0, le=65536, description="With expect: judge no sooner than this many."
    )


class CheckKeys(Keys):
    """How a server is probed. What is not written is inherited: server, service, [defaults], HAProxy's defaults."""

    type: Kind | None = Field(default=None, description="The kind of probe. Default: tcp.")
    interval: Interval | None = Field(default=None, description="Time between checks. Default: 2s.")
    timeout: Interval | None = Field(
        default=None, description="A check without an answer fails. Default: the interval."
    )
    rise: Many | None = Field(
        default=None, description="Successes in a row that bring a server up. Default: 2; of bfd, 1."
    )
    fall: Many | None = Field(
        default=None, description="Failures in a row that take a server down. Default: 3; of bfd, 1."
    )
    fast_interval: Interval | None = Field(
        default=None, description="Interval between up and down. Default: the interval."
    )
    down_interval: Interval | None = Field(default=None, description="Interval while down. Default: the interval.")
    start: Annotated[Start, *choice(Start)] | None = Field(
        default=None, description="What a server counts as before its first verdict. Default: last."
    )
    port: Port | None = Field(default=None, description="Port to check. Default: the server's.")
    address: Unicast | None = Field(default=None, description="Address to check. Default: the server's.")
    bind_address: Address | None = Field(default=None, description="Address that checks come from.")
    mark: FirewallMark | None = Field(
        default=None,
        description="Firewall mark on the packets of checks; by it the gateway's firewall may leave them untracked.",
    )
    interface: Interface | None = Field(default=None, description="Interface that checks leave by.")
    via_vip: bool | None = Field(
        default=None,
        description="Probe the VIP at the server, on the path of the traffic; for direct and tunnel servers. "
        "Answers come in from the VIP, which strict reverse path filtering (rp_filter = 1) would refuse.",
    )

    tls: TlsEntry = Field(default=None, description="https, tls, tcp, smtp, grpc: speak TLS; true, or its options.")
    steps: list[StepKeys] | None = Field(default=None, description="tcp: a dialogue, step by step.")
    method: Token | None = Field(default=None, description="http: the method. Default: GET.", examples=["HEAD"])
    path: Target | None = Field(
        default=None, description="http: the path. Default: /. file: the file.", examples=["/healthz"]
    )
    host: Line | None = Field(default=None, description="http: the Host header. Default: the server's address.")
    headers: Headers | None = Field(
        default=None,
        description="http: further headers, as a table or as lines.",
        examples=[{"User-Agent": "kernlb"}],
    )
    body: Octets | None = Field(default=None, description="http: body of the request.")
    status: Statuses | None = Field(
        default=None, description="http: statuses that count as up. Default: 200-399.", examples=["200-399", [200, 204]]
    )
    match: MatchEntry = Field(default=None, description="http, dns, udp: what the answer must hold.")
    body_limit: int | None = Field(
        default=None, ge=1, le=1 << 24, description="http: bytes of the body that are looked at. Default: 65536."
    )
    name: Annotated[str, *text(r"[^\x00-\x20\x7f]{1,253}", "a domain name")] | None = Field(
        default=None, description="dns: the name to ask for. Default: the root."
    )
    record_type: Annotated[str, *text(r"[A-Z][A-Z0-9]{0,15}", "a record type, such as A")] | None = Field(
        default=None, description="dns: the record type. Default: SOA."
    )
    transport: Annotated[Transport, *choice(Transport)] | None = Field(default=None, description="dns: udp or tcp.")
    rcodes: list[Annotated[str, *text(r"[A-Z]{1,16}", "a response code, such as NOERROR")]] | None = Field(
        default=None, min_length=1, description="dns: response codes that count as up. Default: NOERROR."
    )
    payload: Octets | None = Field(default=None, description="udp: the datagram to send.")
    require_reply: bool | None = Field(default=None, description="udp: silence is down. Default: only ICMP errors are.")
    payload_bytes: int | None = Field(
        default=None, ge=0, le=65507, description="ping: size of the payload. Default: 32."
    )
    helo: Line | None = Field(default=None, description="smtp: how to introduce oneself. Default: localhost.")
    starttls: bool | None = Field(default=None, description="smtp: upgrade the session by STARTTLS.")
    service: OneLine | None = Field(
        default=None, description="grpc: the service to ask about. Default: the whole server."
    )
    authority: Line | None = Field(default=None, description="grpc: the :authority header.")
    argv: list[Annotated[str, *text(r"[^\x00]{0,4096}", "an argument")]] | None = Field(
        default=None,
        min_length=1,
        description="command: program and arguments, no shell; {address} and {port} stand for the server's.",
        examples=[["/usr/lib/kernlb/check-ldap", "{address}", "{port}"]],
    )
    exit: Annotated[Exit, *choice(Exit)] | None = Field(default=None, description="command: how the exit code is read.")
    user: Line | None = Field(default=None, description="command: the user to run as.")
    output_limit: int | None = Field(
        default=None, ge=1, le=1 << 20, description="command: bytes of output that are read. Default: 4096."
    )
    send: Octets | None = Field(default=None, description="agent: bytes to send first.")
    adjust: int | None = Field(
        default=None,
        ge=1 - 2**31,
        le=2**31 - 1,
        description="file: its number times this is added to the configured weight; no file or number counts as 0. "
        "With 0, every number but 0 is down. Default: the number takes the place of the weight.",
    )
    min_tx: Pace | None = Field(
        default=None, description="bfd: the shortest time between packets sent. Default: 300ms.", examples=["50ms"]
    )
    min_rx: Pace | None = Field(
        default=None, description="bfd: the shortest time between packets asked for. Default: 300ms."
    )
    multiplier: int | None = Field(
        default=None,
        ge=1,
        le=255,
        description="bfd: packets that the server may miss before it takes the session down. Default: 3.",
    )
    passive: bool | None = Field(default=None, description="bfd: say nothing until the server has spoken.")
    multihop: bool | None = Field(default=None, description="bfd: over routers, on port 4784 (RFC 5883).")
    min_ttl: int | None = Field(
        default=None,
        ge=1,
        le=255,
        description="bfd: the TTL or hop limit that packets must come with. Default: 255, with multihop 1.",
    )


def _check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    match value:
        case False:
            return None
        case True:
            return handler({})
        case _:
            return _one(value, handler)


def _one(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    return handler({"type": value} if isinstance(value, str) else value)


def _shape(value: object) -> str:
    return "array" if isinstance(value, list) else "table"


def _agent(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if value is False:
        return None
    return handler({"port": value} if isinstance(value, int) and value is not True else value)


_Several = Annotated[
    list[Annotated[CheckKeys, WrapValidator(_one, json_schema_input_type=Kind | CheckKeys)]], Field(min_length=1)
]
CheckEntry = Annotated[
    Annotated[Annotated[CheckKeys, Tag("table")] | Annotated[_Several, Tag("array")], Discriminator(_shape)] | None,
    WrapValidator(_check, json_schema_input_type=bool | Kind | CheckKeys | _Several),
]
AgentEntry = Annotated[CheckKeys | None, WrapValidator(_agent, json_schema_input_type=bool | Port | CheckKeys)]
