"""How keepalived.conf writes forwarding methods, netmasks and ranges of addresses."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_network, summarize_address_range

from kernlb.formats.keepalived.syntax import Statement
from kernlb.formats.keepalived.values import address, number
from kernlb.formats.report import Refused
from kernlb.model import (
    Forwarding,
    IPAddress,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
)

_FORWARDING = {"NAT": Forwarding.NAT, "DR": Forwarding.DIRECT, "TUN": Forwarding.TUNNEL}
_CHECKSUMS = {"nocsum": TunnelChecksum.NONE, "csum": TunnelChecksum.CHECKSUM, "remcsum": TunnelChecksum.REMOTE}
_MOST_BINDS = 4096


class Method:
    """How packets reach a server: keepalived's default is NAT."""

    def __init__(self, forwarding: Forwarding = Forwarding.NAT, tunnel: Tunnel | None = None) -> None:
        self.forwarding = forwarding
        self.tunnel = tunnel


def method_of(statement: Statement) -> Method:
    word = statement.argument().upper()
    if word not in _FORWARDING:
        raise Refused(f"unknown forwarding method {word!r}", hint="NAT, DR or TUN")
    if word != "TUN":
        return Method(_FORWARDING[word])
    tunnel, rest = Tunnel(), statement.words[2:]
    at = 0
    while at < len(rest):
        if rest[at] == "type" and rest[at + 1 : at + 2] and rest[at + 1] in set(TunnelKind):
            tunnel = replace(tunnel, kind=TunnelKind(rest[at + 1]))
            at += 2
        elif rest[at] == "port":
            tunnel = replace(tunnel, port=number(statement, lowest=1, highest=65535, at=at + 3))
            at += 2
        elif rest[at] in _CHECKSUMS:
            tunnel = replace(tunnel, checksum=_CHECKSUMS[rest[at]])
            at += 1
        else:
            raise Refused(f"unknown word {rest[at]!r} of a tunnel", hint="type gue port 6080 csum")
    if (tunnel.kind is TunnelKind.GUE) != bool(tunnel.port):
        raise Refused("a port belongs to type gue, and gue needs it")
    return Method(Forwarding.TUNNEL, tunnel)


def prefix_of(statement: Statement) -> int:
    word = statement.argument()
    if word.isdecimal() and 1 <= int(word[:4]) <= 128:
        return int(word)
    try:
        return IPv4Network(f"0.0.0.0/{IPv4Address(word)}").prefixlen
    except ValueError:
        raise Refused(f"{word!r} is no netmask") from None


def addresses_in(word: str) -> Iterator[IPAddress]:
    """An address, 10.0.0.1-9, 10.0.0.1-10.0.1.9 or 10.0.0.0/29."""
    try:
        if "/" in word:
            network = ip_network(word, strict=False)
            if network.num_addresses > _MOST_BINDS:
                raise Refused(f"{word!r} has more than {_MOST_BINDS} addresses", hint="use a firewall mark")
            yield from network
            return
    except ValueError:
        raise Refused(f"{word!r} is no address or range") from None
    low, dash, high = word.partition("-")
    first = address(low)
    if not dash:
        yield first
        return
    base = 16 if first.version == 6 else 10
    if ":" in high or "." in high:
        last = address(high)
    else:
        try:
            end = int(high, base)
            last = type(first)(int(first) // (65536 if base == 16 else 256) * (65536 if base == 16 else 256) + end)
        except ValueError:
            raise Refused(f"{word!r} is no range of addresses") from None
    if last.version != first.version or not 0 <= int(last) - int(first) < _MOST_BINDS:
        raise Refused(f"{word!r} is no range, or one of more than {_MOST_BINDS} addresses", hint="use a firewall mark")
    for network in summarize_address_range(first, last):
        yield from network
