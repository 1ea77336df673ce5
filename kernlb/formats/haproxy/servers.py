"""The lines that name servers: server, server-template, default-server. What their words mean, not who serves what."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from math import ceil
from typing import Any

from kernlb.formats.haproxy.keywords import SERVER_FLAGS, SERVER_VALUES
from kernlb.formats.haproxy.settings import Proxy, ServerLine, ServerOptions
from kernlb.formats.haproxy.values import PortKind, count, duration, place
from kernlb.formats.report import EXACT, Refused, Remark, approximated, dropped, exact
from kernlb.model import IPAddress

_TLS = dropped("TLS towards the server is not made, so it is left out: let clients speak TLS to it through the service")
_PROXY = dropped(
    'no PROXY header is sent, so the server is left out: with forwarding = "nat" it sees the client\'s address'
)
_THRESHOLD = approximated("past it the kernel gives the server no new connections; nothing queues")
_MAX_SLOTS = 65536


def server(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    """server NAME ADDRESS [word ...]"""
    if len(words) < 3:
        raise Refused("server expects a name and an address", hint="server web1 10.0.0.1:80 check")
    where = place(words[2])
    if where.port is PortKind.RANGE and where.first != where.last:
        raise Refused(f"a port range is not permitted in {words[2]!r}")
    if any(known.name == words[1] for known in proxy.servers):
        raise Refused(f"another server named {words[1]!r} stands in {proxy.kind} {proxy.name!r}", hint="rename one")
    options, remarks = _options(proxy.options, words[3:], named=True)
    proxy.servers.append(ServerLine(line=line, name=words[1], place=where, options=options))
    return remarks


def server_template(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    """server-template PREFIX N|FIRST-LAST NAME[:PORT] [word ...]"""
    if len(words) < 4:
        raise Refused("server-template expects a prefix, a number and an address", hint="server-template web 3 web:80")
    first, dash, last = words[2].partition("-")
    low = count(first, what="the first number", lowest=1) if dash else 1
    high = count(last if dash else first, what="the number of servers", lowest=low, highest=_MAX_SLOTS)
    where = place(words[3])
    options, remarks = _options(proxy.options, words[4:], named=True)
    proxy.servers += [
        ServerLine(line=line, name=f"{words[1]}{number}", place=where, options=options, slot=number - low)
        for number in range(low, high + 1)
    ]
    if isinstance(where.host, str):
        remarks.append(approximated("one server for each address that the name has when the file is read"))
    return remarks


def default_server(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    if len(words) < 2:
        raise Refused("default-server expects words of a server line", hint="default-server inter 2s fall 3")
    proxy.options, remarks = _options(proxy.options, words[1:], named=False)
    return remarks


def _options(options: ServerOptions, words: Sequence[str], *, named: bool) -> tuple[ServerOptions, list[Remark]]:
    """What the words after the address make of the defaults. `named`: on a server line, not default-server."""
    remarks: list[Remark] = []
    at = 0
    while at < len(words):
        word = words[at]
        if not named and word == "id":
            raise Refused("'id' is not supported by default-server")
        if word in _FLAGS:
            change, remark = _FLAGS[word]
            options = replace(options, **change)
            at += 1
        elif word in SERVER_FLAGS:
            remark, at = SERVER_FLAGS[word], at + 1
        elif word == "source":
            remark, at = _source(words, at)
        elif word in _VALUES or word in SERVER_VALUES or word in ("namespace", "socks4"):
            if at + 1 >= len(words):
                raise Refused(f"server option {word!r} expects a value")
            options, remark = _valued(options, word, words[at + 1])
            at += 2
        else:
            raise Refused(f"unknown keyword {word!r} on a server line")
        remarks.append(remark)
    if options.track and options.check:
        raise Refused("a server cannot be checked and track another at once", hint="leave out `check` or `track`")
    return options, remarks


def _source(words: Sequence[str], at: int) -> tuple[Remark, int]:
    if at + 1 >= len(words):
        raise Refused("server option 'source' expects an address")
    at += 2
    while at + 1 < len(words) and words[at] in ("usesrc", "interface"):
        at += 2
    return dropped("sources are set for a whole backend: use a `source` line of its own"), at


def _valued(options: ServerOptions, word: str, value: str) -> tuple[ServerOptions, Remark]:
    if word in SERVER_VALUES and word not in _VALUES:
        return options, SERVER_VALUES[word]
    if word == "namespace":
        return replace(options, unreachable=word), dropped("a server in another namespace is left out")
    if word == "socks4":
        return replace(options, unreachable=word), dropped("no SOCKS proxy is spoken to, so the server is left out")
    field, read, remark = _VALUES[word]
    return replace(options, **{field: read(value, word)}), remark


def _interval(value: str, word: str) -> float:
    seconds = duration(value, what=word)
    if seconds <= 0:
        raise Refused(f"invalid value {value!r} for {word!r}", hint="longer than 0")
    return seconds


def _number(lowest: int, highest: int) -> Callable[[str, str], int]:
    return lambda value, word: count(value, what=word, lowest=lowest, highest=highest)


def _address(value: str, word: str) -> IPAddress | str:
    host = value.removeprefix("ipv4@").removeprefix("ipv6@")
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        if not host:
            raise Refused(f"{word!r} expects an address") from None
        return host


def _slow_start(value: str, word: str) -> float:
    # HAProxy keeps it in whole seconds, rounded up.
    return float(ceil(duration(value, what=word)))


def _verify(value: str, word: str) -> bool:
    if value not in ("none", "required"):
        raise Refused(f"unknown {word} method {value!r}", hint="none or required")
    return value == "required"


def _protocols(value: str, word: str) -> tuple[str, ...]:
    return tuple(part for part in value.split(",") if part)


def _sni(value: str, word: str) -> str:
    return value


def _agent_string(value: str, word: str) -> str:
    return value


_FLAGS: dict[str, tuple[dict[str, Any], Remark]] = {
    "check": ({"check": True}, EXACT),
    "no-check": ({"check": False}, EXACT),
    "backup": ({"backup": True}, EXACT),
    "no-backup": ({"backup": False}, EXACT),
    "disabled": ({"disabled": True}, EXACT),
    "enabled": ({"disabled": False}, EXACT),
    "agent-check": ({"agent": True}, EXACT),
    "no-agent-check": ({"agent": False}, EXACT),
    "check-ssl": ({"check_tls": True}, EXACT),
    "no-check-ssl": ({"check_tls": False}, EXACT),
    "ssl": ({"tls": True}, _TLS),
    "no-ssl": ({"tls": False}, EXACT),
    "no-verifyhost": ({"verifyhost": None}, EXACT),
    **{
        word: ({"unreachable": word}, _PROXY)
        for word in ("send-proxy", "send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2-ssl-cn")
    },
}

_VALUES: dict[str, tuple[str, Callable[[str, str], Any], Remark]] = {
    "weight": ("weight", _number(0, 256), EXACT),
    "inter": ("inter", _interval, EXACT),
    "fastinter": ("fastinter", _interval, EXACT),
    "downinter": ("downinter", _interval, EXACT),
    "rise": ("rise", _number(1, 2**31 - 1), EXACT),
    "fall": ("fall", _number(1, 2**31 - 1), EXACT),
    "port": ("port", _number(0, 65535), EXACT),
    "addr": ("addr", _address, EXACT),
    "maxconn": ("maxconn", _number(0, 2**31 - 1), _THRESHOLD),
    "slowstart": ("slowstart", _slow_start, EXACT),
    "agent-inter": ("agent_inter", _interval, EXACT),
    "agent-port": ("agent_port", _number(1, 65535), EXACT),
    "agent-addr": ("agent_addr", _address, EXACT),
    "agent-send": ("agent_send", _agent_string, EXACT),
    "check-sni": ("check_sni", _sni, EXACT),
    "check-alpn": ("check_alpn", _protocols, EXACT),
    "verify": ("verify", _verify, exact("of the check")),
    "verifyhost": ("verifyhost", _sni, exact("of the check")),
    "ca-file": ("ca_file", _sni, exact("of the check")),
    "track": ("track", _sni, EXACT),
}
