"""The kinds of value that keys take, for pydantic: how each is read, and how the JSON Schema describes it."""

import re
from collections.abc import Callable
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema

from kernlb.checks.spec import StatusRange
from kernlb.config.notation import (
    DURATION,
    MAX_MARK,
    BareMark,
    Wrong,
    read_address,
    read_bind,
    read_duration,
    read_fraction,
    read_listen,
    read_multicast,
    read_socket,
    read_source_ports,
    read_statuses,
    read_unicast,
    shown,
    write_duration,
)
from kernlb.config.values import Bind
from kernlb.model import IPAddress
from kernlb.ports import PortRange

DAY = 86400.0
MONTH = 31 * DAY
NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

OTHER_WORDS = {
    "roundrobin": "wrr", "round-robin": "rr", "static-rr": "wrr", "leastconn": "wlc", "least-connections": "wlc",
    "source": "mh", "first": "fo", "consistent": "maglev", "lrt": "least-response-time", "dr": "direct",
    "dsr": "direct", "gate": "direct", "masq": "nat", "masquerade": "nat", "full-nat": "fullnat", "snat": "fullnat",
    "ip": "ipip", "icmp": "ping", "script": "command", "connect": "tcp", "ssl": "tls", "ebpf": "xdp", "bpf": "xdp",
}  # fmt: skip
"""Other tools' words for what a configuration chooses."""


class Keys(BaseModel):
    """What every table of a configuration has in common."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def likely(word: str, known: list[str]) -> str | None:
    """The one of `known` that was probably meant."""
    folded = word.lower().replace("-", "_") if any("_" in item for item in known) else word.lower()
    close = get_close_matches(folded[:64], known, n=1, cutoff=0.6)
    return close[0] if close else None


def choice(*enums: type[StrEnum]) -> tuple[PlainValidator, PlainSerializer, WithJsonSchema]:
    """One word out of the enumerations."""
    members = {str(member): member for enum in enums for member in enum}

    def read(value: object) -> StrEnum:
        if isinstance(value, str) and value in members:
            return members[value]
        meant = likely(value, list(members)) if isinstance(value, str) else None
        if isinstance(value, str) and OTHER_WORDS.get(value.lower()) in members:
            meant = OTHER_WORDS[value.lower()]
        known = ", ".join(members)
        raise Wrong(
            f"{shown(value)} is not one of {known}" if len(members) < 20 else f"{shown(value)} is not known",
            hint=f'did you mean "{meant}"?' if meant else f'write "{next(iter(members))}", for example',
        )

    return PlainValidator(read), PlainSerializer(str), WithJsonSchema({"enum": list(members)})


def seconds(low: float, high: float, *, whole: bool = False) -> tuple[PlainValidator, WithJsonSchema]:
    """A duration within bounds; `whole` where the kernel counts seconds."""

    def read(value: object) -> float:
        duration = read_duration(value)
        if not low <= duration <= high:
            raise Wrong(
                f"{shown(value)} is out of range",
                hint=f"write a duration from {write_duration(low)} to {write_duration(high)}",
            )
        if whole and duration != int(duration):
            raise Wrong(f"{shown(value)} is not a whole number of seconds", hint="the kernel counts seconds here")
        return int(duration) if whole else duration

    number = {"type": "number", "minimum": low, "maximum": high}
    text = {"type": "string", "pattern": f"^{DURATION}$"}
    return PlainValidator(read), WithJsonSchema({"anyOf": [text, number], "examples": ["500ms", "2s", "5m"]})


def text(pattern: str, what: str) -> tuple[PlainValidator, WithJsonSchema]:
    """A string that matches as a whole; `what` ends the sentence "... is not"."""
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise Wrong(f"{shown(value)} is not {what}", hint=f"write {what}")
        return value

    return PlainValidator(read), WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})


def plain(read: Callable[[object], Any], schema: dict[str, Any]) -> tuple[PlainValidator, WithJsonSchema]:
    return PlainValidator(read), WithJsonSchema(schema)


def _octets(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and list(value) == ["hex"] and isinstance(value["hex"], str):
        try:
            return bytes.fromhex(value["hex"])
        except ValueError:
            pass
    raise Wrong(f"{shown(value)} is neither text nor bytes", hint='write "PING\\r\\n" or { hex = "00 ff" }')


def _pattern(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not a regular expression", hint="write it as a string in single quotes")
    try:
        re.compile(value.encode())
    except (re.error, RecursionError, OverflowError) as error:
        raise Wrong(f"{shown(value)} is not a regular expression: {error}", hint="Python's syntax holds") from None
    return value


def _named(value: object) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise Wrong(f"{shown(value)} cannot be a name", hint="names are letters, digits and _ . : -, at most 128")
    return value


_ADDRESS: dict[str, Any] = {"type": "string", "pattern": r"^[0-9A-Fa-f:.]+$"}
_SOCKET: dict[str, Any] = {
    "type": "string",
    "pattern": r"^(\d{1,3}(\.\d{1,3}){3}(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?|[0-9A-Fa-f:.]+)$",
    "examples": ["10.0.0.1:80", "[2001:db8::1]:80", "10.0.0.1"],
}
_LISTEN: dict[str, Any] = {
    "type": "string",
    "pattern": r"^(\d{1,3}(\.\d{1,3}){3}|\[[0-9A-Fa-f:.]+\]):\d{1,5}$",
    "examples": ["127.0.0.1:9100", "[::]:9100"],
}
_BIND: dict[str, Any] = {
    "type": "string",
    "pattern": r"^(fwmark:(0x[0-9A-Fa-f]{1,8}|\d{1,10})(/(ipv4|ipv6))?"
    r"|(\*|\d{1,3}(\.\d{1,3}){3}|\[[0-9A-Fa-f:.]+\]):(\d{1,5}(-\d{1,5})?|\*))$",
    "examples": ["203.0.113.10:80", "[2001:db8::10]:80", "*:80", "10.0.0.1:8000-8010", "fwmark:7"],
}
_SOURCE_PORTS: dict[str, Any] = {
    "type": "string",
    "pattern": r"^\d{4,5}(-\d{4,5})?$",
    "examples": ["1024-16383", "16384-32767"],
}
_STATUS: dict[str, Any] = {
    "anyOf": [{"type": "integer", "minimum": 100, "maximum": 599}, {"type": "string", "pattern": r"^[-0-9, ]+$"}]
}
_STATUSES: dict[str, Any] = {"anyOf": [*_STATUS["anyOf"], {"type": "array", "items": _STATUS, "minItems": 1}]}
_OCTETS: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"hex": {"type": "string", "pattern": "^[0-9A-Fa-f ]*$"}},
            "required": ["hex"],
            "additionalProperties": False,
        },
    ]
}
_FRACTION: dict[str, Any] = {
    "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": r"^\d{1,3}(\.\d+)?\s*%$"}]
}

Name = Annotated[str, *plain(_named, {"type": "string", "pattern": f"^{NAME.pattern}$"})]
Address = Annotated[IPAddress, *plain(read_address, _ADDRESS)]
Unicast = Annotated[IPAddress, *plain(read_unicast, _ADDRESS)]
Multicast = Annotated[IPAddress, *plain(read_multicast, _ADDRESS)]
Socket = Annotated[tuple[IPAddress, int | None], *plain(read_socket, _SOCKET)]
Listen = Annotated[tuple[IPAddress, int], *plain(read_listen, _LISTEN)]
SourcePorts = Annotated[PortRange, *plain(read_source_ports, _SOURCE_PORTS)]
BindText = Annotated[Bind | BareMark, *plain(read_bind, _BIND)]
Statuses = Annotated[tuple[StatusRange, ...], *plain(read_statuses, _STATUSES)]
Fraction = Annotated[float, *plain(read_fraction, _FRACTION)]
Octets = Annotated[bytes, *plain(_octets, _OCTETS)]
Pattern = Annotated[str, *plain(_pattern, {"type": "string", "format": "regex"})]
Interface = Annotated[str, *text(r"[^\s/\x00-\x1f\x7f]{1,15}", "the name of a network interface, such as eth0")]
Line = Annotated[str, *text(r"[^\x00-\x1f\x7f]{1,4096}", "text of one line")]
FilePath = Annotated[str, *text(r"/[^\x00-\x1f\x7f]{0,4095}", "an absolute path")]
Port = Annotated[int, Field(ge=1, le=65535)]
FirewallMark = Annotated[int, Field(ge=1, le=MAX_MARK)]
Count = Annotated[int, Field(ge=1, le=2**32 - 1)]
Many = Annotated[int, Field(ge=1, le=65535)]
