"""A Check as the inline table of a kernlb.toml. Writes only what differs from the defaults."""

from dataclasses import fields
from typing import Any

from kernlb.checks.spec import (
    AgentProbe,
    BfdProbe,
    Check,
    CheckKind,
    CommandProbe,
    DnsProbe,
    Expect,
    FileProbe,
    GrpcProbe,
    HttpProbe,
    Match,
    PingProbe,
    Send,
    SmtpProbe,
    StatusRange,
    TcpProbe,
    TlsOptions,
    TlsProbe,
    UdpProbe,
    usual,
)
from kernlb.config.notation import write_duration, write_statuses

_DURATIONS = frozenset({"interval", "timeout", "fast_interval", "down_interval", "min_tx", "min_rx"})
_KIND_OF = {
    TcpProbe: CheckKind.TCP,
    TlsProbe: CheckKind.TLS,
    DnsProbe: CheckKind.DNS,
    UdpProbe: CheckKind.UDP,
    PingProbe: CheckKind.PING,
    SmtpProbe: CheckKind.SMTP,
    GrpcProbe: CheckKind.GRPC,
    CommandProbe: CheckKind.COMMAND,
    AgentProbe: CheckKind.AGENT,
    FileProbe: CheckKind.FILE,
    BfdProbe: CheckKind.BFD,
}


def check_value(check: Check) -> Any:
    """A word where the kind says it all, else a table."""
    table = {"type": str(_kind(check))} | _probe(check) | _timing(check)
    return table["type"] if len(table) == 1 else table


def agent_value(check: Check) -> Any:
    """A port where that says it all, else a table."""
    table = _probe(check) | _timing(check)
    return table["port"] if list(table) == ["port"] else table


def _kind(check: Check) -> CheckKind:
    match check.probe:
        case HttpProbe(tls=None):
            return CheckKind.HTTP
        case HttpProbe():
            return CheckKind.HTTPS
        case probe:
            return _KIND_OF[type(probe)]


def _timing(check: Check) -> dict[str, Any]:
    bare = usual(check.probe)
    names = [field.name for field in fields(check) if field.name != "probe"]
    given = {name: getattr(check, name) for name in names if getattr(check, name) != getattr(bare, name)}
    return {name: _named(name, value) for name, value in given.items()}


def _probe(check: Check) -> dict[str, Any]:
    probe = check.probe
    given = {}
    for field in fields(probe):
        value = getattr(probe, field.name)
        if value != field.default and not (field.name == "tls" and _kind(check) in _TLS and value == TlsOptions()):
            given[field.name] = value
    return {name: _named(name, value) for name, value in given.items()}


_TLS = frozenset({CheckKind.HTTPS, CheckKind.TLS})


def _named(name: str, value: Any) -> Any:
    if name == "headers":
        return _headers(value)
    if name in _DURATIONS:
        return write_duration(value)
    return _value(value)


def _headers(headers: tuple[tuple[str, str], ...]) -> Any:
    """A table, unless a name comes twice."""
    if len({name for name, _ in headers}) == len(headers):
        return dict(headers)
    return [f"{name}: {content}" for name, content in headers]


def _value(value: Any) -> Any:
    match value:
        case TlsOptions():
            table = {
                field.name: _value(getattr(value, field.name))
                for field in fields(value)
                if getattr(value, field.name) != field.default
            }
            return table or True
        case Match(text=bytes() as text, negate=False) if isinstance(written := _octets(text), str):
            return written
        case Match(text=text, pattern=pattern, negate=negate):
            words: dict[str, Any] = {"pattern": pattern} if text is None else {"text": _octets(text)}
            return words | ({"negate": True} if negate else {})
        case Send(data=data):
            return {"send": _octets(data)}
        case Expect(match=match, min_bytes=least):
            return {"expect": _value(match)} | ({"min_bytes": least} if least else {})
        case (StatusRange(), *_):
            statuses = write_statuses(value)
            return statuses[0] if len(statuses) == 1 else statuses
        case bytes():
            return _octets(value)
        case tuple():
            return [_value(item) for item in value]
        case bool() | int() | float():
            return value
        case _:
            return str(value)


def _octets(data: bytes) -> Any:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"hex": data.hex(" ")}
