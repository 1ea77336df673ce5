"""How a configuration writes addresses, binds, durations and ranges: text to values and back. No keys, no files.

Every reader raises Wrong, which says what would be right.
"""

import math
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from kernlb.checks.spec import StatusRange
from kernlb.config.values import AddressBind, Bind, MarkBind
from kernlb.model import Family, IPAddress
from kernlb.ports import LOWEST, PortRange

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = r"(\d+(\.\d+)?(us|ms|s|m|h|d))+"
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_DURATION = re.compile(DURATION)
_ANY_PORT = frozenset({"0", "*"})
_EVERYBODY = IPv4Address("255.255.255.255")
MAX_MARK = 2**32 - 1


class Wrong(ValueError):
    """A value that cannot be read, and what to write instead."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class BareMark:
    """`fwmark:N` that leaves its family to the servers."""

    mark: int


def shown(value: object) -> str:
    """A value of the user's for a message: short, on one line."""
    text = f'"{value}"' if isinstance(value, str) else "true" if value is True else "false" if value is False else ""
    text = text or type(value).__name__.replace("dict", "a table").replace("list", "an array")
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = repr(value) if abs(value) < 1e18 else "a huge number"
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 60 else text[:56] + '..."'


def read_duration(value: object) -> float:
    """Seconds, from "500ms", "2s", "1m30s" or a number of seconds."""
    match value:
        case bool():
            pass
        case int() | float():
            try:
                seconds = float(value)
            except OverflowError:
                seconds = math.inf
            if math.isfinite(seconds) and seconds >= 0:
                return seconds
        case str() if len(value) <= 64 and _DURATION.fullmatch(value):
            return math.fsum(float(number) * UNITS[unit] for number, unit in _PART.findall(value))
        case str() if value.strip().isdecimal():
            raise Wrong(f"{shown(value)} has no unit", hint=f'write "{value.strip()}s", or "{value.strip()}ms"')
    raise Wrong(f"{shown(value)} is not a duration", hint='write "500ms", "2s", "5m", or a number of seconds')


def write_duration(seconds: float) -> str | float | int:
    """What read_duration turns back into exactly the same seconds."""
    for unit in ("h", "m", "s", "ms", "us"):
        count = round(seconds / UNITS[unit])
        if count and count * UNITS[unit] == seconds:
            return f"{count}{unit}"
    return int(seconds) if seconds == int(seconds) else seconds


def read_address(value: object) -> IPAddress:
    if isinstance(value, str):
        try:
            address = ip_address(value.removeprefix("[").removesuffix("]") if ":" in value else value)
        except ValueError:
            pass
        else:
            if isinstance(address, IPv6Address) and address.scope_id is not None:
                raise Wrong(f"{shown(value)} is bound to an interface", hint="the kernel takes no zone: leave out %...")
            return address
    raise Wrong(
        f"{shown(value)} is not an IP address",
        hint='write an address, such as "10.0.0.1" or "2001:db8::1"; names are not resolved',
    )


def read_unicast(value: object) -> IPAddress:
    """An address that one host can have."""
    address = read_address(value)
    if address.is_multicast or address.is_unspecified or address == _EVERYBODY:
        raise Wrong(f"{shown(value)} is not the address of one host", hint="write a unicast address")
    return address


def read_multicast(value: object) -> IPAddress:
    address = read_address(value)
    if not address.is_multicast:
        raise Wrong(f"{shown(value)} is not a multicast group", hint='write one such as "224.0.0.81"')
    return address


def read_socket(value: object) -> tuple[IPAddress, int | None]:
    """A real server's address, and its port where one is written."""
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not an address", hint='write "10.0.0.1:80" or "[2001:db8::1]:80"')
    host, port = _split(value)
    return read_unicast(host), None if port is None else _port(value, port, lowest=0)


def read_listen(value: object) -> tuple[IPAddress, int]:
    """Where to listen: an address of this machine, 0.0.0.0 or [::] for all of them, and a port."""
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not an address", hint='write "127.0.0.1:9100" or "[::1]:9100"')
    host, port = _split(value)
    if port is None:
        raise Wrong(f"{shown(value)} names no port", hint=f'write "{_bracketed(host)}:9100"')
    address = read_address(host)
    return address if address.is_unspecified else read_unicast(host), _port(value, port, lowest=1)


def write_socket(address: IPAddress, port: int) -> str:
    """A real server; port 0 is not written."""
    if not port:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def read_source_ports(value: object) -> PortRange:
    """The ports that connections of a gateway come from: none of those that only root may have."""
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not a range of ports", hint='write "1024-16383"')
    return PortRange(*_ports(value, value, lowest=LOWEST))


def read_bind(value: object) -> Bind | BareMark:
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not a bind", hint='write "203.0.113.10:80", "*:80" or "fwmark:7"')
    if value.startswith("fwmark:"):
        return _mark(value)
    host, port = _split(value)
    if port is None:
        raise Wrong(f"{shown(value)} names no port", hint=f'write "{_bracketed(host)}:80"; ":0" is any port')
    first, last = (0, 0) if port in _ANY_PORT else _ports(value, port, lowest=1)
    if host == "*":
        return AddressBind(Family.IPV4, first, last)
    address = read_address(host)
    if address.is_unspecified:
        return AddressBind(Family.IPV4 if address.version == 4 else Family.IPV6, first, last)
    return AddressBind(read_unicast(host), first, last)


def write_bind(bind: Bind, *, derived: Family = Family.IPV4) -> str:
    """`derived` is the family that a mark has without being told."""
    match bind:
        case MarkBind(family=family, mark=mark):
            return f"fwmark:{mark}" + (f"/{family}" if family is not derived else "")
        case AddressBind(address=address, first=first, last=last):
            ports = f"{first}" if first == last else f"{first}-{last}"
            match address:
                case Family.IPV4:
                    return f"*:{ports}"
                case Family.IPV6:
                    return f"[::]:{ports}"
                case _:
                    return f"{_bracketed(str(address))}:{ports}"


def read_statuses(value: object) -> tuple[StatusRange, ...]:
    """200, "200-399", "200,300-399" or an array of these."""
    if isinstance(value, list) and value:
        return tuple(status for item in value for status in read_statuses(item))
    hint = 'write 200, "200-399" or "200,301-302"; statuses lie between 100 and 599'
    if isinstance(value, bool) or not isinstance(value, int | str) or len(text := shown(value).strip('"')) > 50:
        raise Wrong(f"{shown(value)} is not a range of HTTP statuses", hint=hint)
    ranges = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([1-5]\d\d)(?:-([1-5]\d\d))?\s*", part, re.ASCII)
        if not found or int(found[1]) > int(found[2] or found[1]):
            raise Wrong(f"{shown(value)} is not a range of HTTP statuses", hint=hint)
        ranges.append(StatusRange(first=int(found[1]), last=int(found[2] or found[1])))
    return tuple(ranges)


def write_statuses(ranges: tuple[StatusRange, ...]) -> list[int | str]:
    return [r.first if r.first == r.last else f"{r.first}-{r.last}" for r in ranges]


def read_fraction(value: object) -> float:
    """0.5 or "50%"."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    if isinstance(value, str) and (found := re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%", value, re.ASCII)):
        fraction = float(found[1]) / 100
        if fraction <= 1:
            return fraction
    raise Wrong(f"{shown(value)} is not a fraction", hint='write a number from 0 to 1, or "50%"')


def _mark(value: str) -> MarkBind | BareMark:
    found = re.fullmatch(r"fwmark:(0x[0-9a-fA-F]{1,8}|\d{1,10})(?:/(ipv4|ipv6))?", value, re.ASCII)
    if not found or not 1 <= (mark := int(found[1], 0 if found[1].startswith("0x") else 10)) <= MAX_MARK:
        raise Wrong(f"{shown(value)} is not a firewall mark", hint='write "fwmark:7" or "fwmark:7/ipv6", 1 to 2**32-1')
    return MarkBind(Family(found[2]), mark) if found[2] else BareMark(mark)


def _split(value: str) -> tuple[str, str | None]:
    if value.startswith("["):
        host, bracket, rest = value[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise Wrong(f"{shown(value)} is not an address", hint='write "[2001:db8::1]:80"')
        return host, rest[1:] if rest else None
    if value.count(":") > 1:
        return value, None
    host, colon, port = value.partition(":")
    return host, port if colon else None


def _ports(value: str, text: str, *, lowest: int) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    start = _port(value, first, lowest=lowest)
    end = _port(value, last, lowest=lowest) if dash else start
    if start > end:
        raise Wrong(f"{shown(value)}: the range of ports runs backwards", hint=f"write {end}-{start}")
    return start, end


def _port(value: str, text: str, *, lowest: int) -> int:
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not lowest <= int(text) <= 65535:
        raise Wrong(f"{shown(value)}: {shown(text)} is not a port", hint=f"write a number from {lowest} to 65535")
    return int(text)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
