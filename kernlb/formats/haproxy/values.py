"""The values that haproxy.cfg is made of: durations, counts, sizes, addresses with ports. Resolves no name itself."""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

from kernlb.formats.report import Refused
from kernlb.model import Family, IPAddress

_MICROSECONDS = {"us": 1, "ms": 1_000, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_LONGEST_MS = 2**31 - 1


def duration(word: str, *, what: str, unit: str = "ms") -> float:
    """Seconds. `unit` holds where the word has none."""
    match = re.match(r"([0-9]+)(us|ms|s|m|h|d)?", word)
    if not match or match.end() != len(word):
        odd = word[match.end() if match else 0 :][:1]
        raise Refused(f"unexpected character {odd!r} in {what} {word!r}", hint="a number with us, ms, s, m, h or d")
    microseconds = int(match[1]) * _MICROSECONDS[match[2] or unit]
    if microseconds > _LONGEST_MS * 1000:
        raise Refused(f"{what} {word!r} is longer than HAProxy counts", hint=f"at most {_LONGEST_MS} ms, about 24 days")
    return microseconds / 10**6


def count(word: str, *, what: str, lowest: int = 0, highest: int = 2**31 - 1) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", word) or not lowest <= int(word) <= highest:
        raise Refused(f"{what} must be a number from {lowest} to {highest}, not {word!r}")
    return int(word)


class PortKind(StrEnum):
    NONE = "none"
    RANGE = "range"  # first..last; a single port is a range of one
    OFFSET = "offset"  # relative to the port of the client's connection


@dataclass(frozen=True, slots=True)
class Place:
    """An address as HAProxy writes them. `host` is an address, a Family for any local one, or a name to resolve;
    None where the place is no network address but `other` (a UNIX socket, a descriptor)."""

    host: IPAddress | Family | str | None
    port: PortKind = PortKind.NONE
    first: int = 0
    last: int = 0
    family: Family | None = None  # demanded by ipv4@ or ipv6@
    other: str = ""


_PREFIXES = {"ipv4@": Family.IPV4, "ipv6@": Family.IPV6, "stream+ipv4@": Family.IPV4, "stream+ipv6@": Family.IPV6}
_NEUTRAL = ("tcp@", "stream@", "tcp4@", "tcp6@")
_DATAGRAM = ("udp@", "udp4@", "udp6@", "dgram@", "dgram+ipv4@", "dgram+ipv6@", "quic4@", "quic6@")
_SOCKETS = ("unix@", "abns@", "fd@", "sockpair@", "uxst@", "uxdg@", "stream+unix@", "stream+abns@", "rhttp@", "abnsz@")


def place(word: str) -> Place:
    """One address of a bind or server line, per section 11 of HAProxy's manual."""
    if word.startswith("/") or word.startswith(_SOCKETS):
        return Place(None, other=word)
    if word.startswith(_DATAGRAM):
        raise Refused(f"{word!r} is a datagram address; bind and server lines take streams only")
    family = None
    for prefix, prefixed in _PREFIXES.items():
        if word.startswith(prefix):
            family, word = prefixed, word.removeprefix(prefix)
    for prefix in _NEUTRAL:
        word = word.removeprefix(prefix)
    host, separator, port = _divided(word)
    kind, first, last = _ports(port) if separator and port else (PortKind.NONE, 0, 0)
    return Place(_host(host, family), kind, first, last, family)


def _divided(word: str) -> tuple[str, str, str]:
    if word.startswith("["):
        host, _, rest = word[1:].partition("]")
        return host, rest[:1], rest.removeprefix(":")
    # The last colon divides, so that ::1:80 is port 80 of ::1; an address without port is never guessed at.
    host, separator, port = word.rpartition(":")
    return (host, separator, port) if separator else (word, "", "")


def _ports(text: str) -> tuple[PortKind, int, int]:
    if offset := re.fullmatch(r"[+-][0-9]{1,5}", text):
        return PortKind.OFFSET, int(offset[0]), int(offset[0])
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if not match or int(match[1]) > 65535 or int(match[2] or 0) > 65535:
        raise Refused(f"invalid port {text!r}", hint="1 to 65535, or a range such as 8000-8010")
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    if last < first:
        raise Refused(f"invalid port range {text!r}", hint="write the lower port first")
    return PortKind.RANGE, first, last


def _host(host: str, family: Family | None) -> IPAddress | Family | str:
    if host in ("", "*"):
        return family or Family.IPV4
    try:
        address = ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", host):
            raise Refused(f"{host!r} is neither an address nor a host name") from None
        return host
    if family is not None and (address.version == 4) != (family is Family.IPV4):
        raise Refused(f"{host!r} is not an {family} address")
    if address in (IPv4Address(0), IPv6Address(0)):
        return Family.IPV4 if address.version == 4 else Family.IPV6
    return address
