"""One line of a defaults, frontend, backend or listen section: what it changes in the proxy, and how faithfully."""

from collections.abc import Callable, Sequence
from ipaddress import ip_address

from kernlb.formats.haproxy import checks
from kernlb.formats.haproxy.binds import bind
from kernlb.formats.haproxy.keywords import (
    BACK_ONLY,
    FRONT_ONLY,
    NAMED_DEFAULTS_ONLY,
    NEGATABLE_OPTIONS,
    NOT_IN_DEFAULTS,
    OPTIONS,
    OPTIONS_TRANSLATED,
    PROXY,
)
from kernlb.formats.haproxy.servers import default_server, server, server_template
from kernlb.formats.haproxy.settings import Kind, Proxy, ServerLine
from kernlb.formats.haproxy.values import PortKind, count, duration, place
from kernlb.formats.report import EXACT, Refused, Remark, approximated, dropped, exact
from kernlb.model import Family

_TIMEOUTS: dict[str, Remark] = {
    "connect": approximated("the kernel connects nothing itself: limits a check's connect, with `timeout check`"),
    "client": approximated("the kernel's idle timer, one for all services: the longest counts"),
    "server": approximated("the kernel's idle timer, one for all services: the longest counts"),
    "tunnel": approximated("the kernel's idle timer, one for all services: the longest counts"),
    "client-fin": approximated("the kernel's timer after FIN, one for all services: the longest counts"),
    "server-fin": approximated("the kernel's timer after FIN, one for all services: the longest counts"),
    "check": approximated("one limit holds for a check's connect and its answer together"),
    "queue": exact("nothing queues in the kernel"),
    "http-request": dropped("requests are not read: set the limit on the servers"),
    "http-keep-alive": dropped("requests are not read: set the limit on the servers"),
    "tarpit": exact("no request is tarpitted here"),
}
_OLD_TIMEOUTS = {"clitimeout": "client", "srvtimeout": "server", "contimeout": "connect"}

_HASH = "the choice of server depends on the client's address alone, by the kernel's hash"
_CONTENT = dropped("packets are not read: `balance source` is the nearest; connections go round robin meanwhile")
BALANCE: dict[str, Remark] = {
    "roundrobin": EXACT,
    "static-rr": EXACT,
    "leastconn": approximated("connections being closed count a little too"),
    "source": approximated(_HASH),
    "first": approximated("weights are replaced by the order of the servers; full means the server's maxconn"),
    "random": approximated("the server with the fewest connections for its weight"),
}


def read(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    """Takes one line into the proxy. Raises Refused where HAProxy would."""
    keyword, negated = words[0], False
    if keyword in ("no", "default") and len(words) > 1:
        if words[1] not in ("option", "log"):
            raise Refused(f"{keyword!r} stands before options and log only", hint=f"no option {words[1]}")
        negated, words = True, words[1:]
        keyword = words[0]
    if keyword == "option":
        return [_option(proxy, words, negated=negated)]
    if negated:
        return [exact("nothing is logged here")]
    if misplaced := _misplaced(proxy, keyword):
        return [misplaced]
    if keyword in _HANDLERS:
        return _HANDLERS[keyword](proxy, line, words)
    if keyword in PROXY:
        return [PROXY[keyword]]
    raise Refused(f"unknown keyword {keyword!r} in {proxy.kind} section", hint="a misspelling, or a newer HAProxy's")


def _misplaced(proxy: Proxy, keyword: str) -> Remark | None:
    if proxy.kind is Kind.DEFAULTS and keyword in NOT_IN_DEFAULTS:
        raise Refused(f"{keyword!r} is not allowed in a defaults section")
    if proxy.kind is Kind.DEFAULTS and keyword in NAMED_DEFAULTS_ONLY and not proxy.name:
        raise Refused(f"{keyword!r} is not allowed in a defaults section without a name")
    if keyword in BACK_ONLY and not proxy.back:
        if keyword in ("server", "server-template", "default-server"):
            raise Refused(f"{keyword!r} is not allowed in a frontend", hint="make it a listen section")
        return exact("no effect in a frontend")
    if keyword in FRONT_ONLY and not proxy.front:
        return exact("no effect in a backend")
    return None


def _option(proxy: Proxy, words: Sequence[str], *, negated: bool) -> Remark:
    if len(words) < 2:
        raise Refused("option expects a name", hint="option redispatch")
    name = words[1]
    if name not in OPTIONS and name not in OPTIONS_TRANSLATED:
        raise Refused(f"unknown option {name!r}", hint="a misspelling, or a newer HAProxy's")
    if negated and name not in NEGATABLE_OPTIONS:
        raise Refused(f"option {name!r} cannot be negated")
    if name == "allbackups":
        proxy.allbackups = not negated
        return EXACT
    if negated:
        return exact("off here anyway")
    if name in OPTIONS_TRANSLATED:
        return checks.option(proxy, words) if proxy.back else exact("no effect in a frontend")
    return OPTIONS[name]


def _mode(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    match _one(words):
        case "tcp":
            proxy.mode = "tcp"
            return [EXACT]
        case "http":
            proxy.mode = "http"
            return [approximated("each connection is balanced, not each request on it")]
        case "health":
            raise Refused("mode health is no more", hint="http-request return status 200")
        case mode:
            raise Refused(f"unknown mode {mode!r}", hint="tcp or http")


def _one(words: Sequence[str]) -> str:
    if len(words) < 2:
        raise Refused(f"{words[0]!r} expects an argument")
    return words[1]


def _maxconn(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    proxy.maxconn = count(_one(words), what="maxconn")
    return [approximated("the kernel refuses new connections past it; none waits in a queue")]


def _timeout(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    name = _OLD_TIMEOUTS.get(words[0])
    rest = list(words[1:]) if name else list(words[2:])
    name = name or _one(words)
    if name not in _TIMEOUTS:
        raise Refused(f"unknown timeout {name!r}", hint=", ".join(_TIMEOUTS))
    if not rest:
        raise Refused(f"timeout {name} expects a time", hint=f"timeout {name} 30s")
    if len(rest) > 1:
        raise Refused(f"timeout {name} takes one time, not also {rest[1]!r}")
    proxy.timeouts[name] = (line, duration(rest[0], what=f"timeout {name}"))
    return [_TIMEOUTS[name]]


def _balance(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    proxy.balance_line = line
    word = words[1] if len(words) > 1 else "roundrobin"
    algorithm, _, argument = word.partition("(")
    if algorithm == "hash" and words[2:3] == ["src"]:
        algorithm, word = "source", "source"
    if algorithm in BALANCE and (not argument or algorithm == "random"):
        proxy.balance = algorithm
        return [BALANCE[algorithm]]
    if algorithm in ("uri", "url_param", "hdr", "rdp-cookie", "hash"):
        proxy.balance = "roundrobin"
        return [_CONTENT]
    raise Refused(f"unknown balance algorithm {word!r}", hint=", ".join(BALANCE))


def _hash_type(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    method = _one(words)
    if method not in ("consistent", "map-based"):
        raise Refused(f"unknown hash-type {method!r}", hint="consistent or map-based")
    proxy.consistent = method == "consistent"
    return [approximated("consistent is the kernel's mh, map-based its sh; the hash function is the kernel's")]


def _default_backend(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    proxy.default_backend = (line, _one(words))
    return [EXACT]


def _use_backend(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    name = _one(words)
    if len(words) > 2 and words[2] not in ("if", "unless"):
        raise Refused(f"use_backend expects `if` or `unless`, not {words[2]!r}")
    if len(words) == 2 and "%" not in name and proxy.fixed_backend is None:
        proxy.fixed_backend = (line, name)
        return [exact("always taken: the same as default_backend")]
    proxy.conditional_backends.append(name)
    return [dropped("the kernel knows address and port only: give that backend a bind (address or port) of its own")]


def _disabled(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    proxy.disabled = words[0] == "disabled"
    return [EXACT]


def _dispatch(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    where = place(_one(words))
    if where.port is not PortKind.RANGE or where.first != where.last:
        raise Refused("dispatch expects one address and port", hint="dispatch 10.0.0.1:80")
    proxy.servers.append(ServerLine(line=line, name="dispatch", place=where, options=type(proxy.options)()))
    return [EXACT]


def _source(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    where = place(_one(words))
    proxy.source, proxy.transparent = None, False
    match list(words[2:]):
        case []:
            pass
        case ["usesrc", "client" | "clientip", *_]:
            proxy.transparent = True
            return [approximated("forwarding is nat: the servers' route back must lead through this gateway")]
        case ["usesrc", _, *_]:
            return [dropped("the kernel takes the client's own address or the gateway's, no other")]
        case ["interface", _]:
            return [dropped("the route decides the interface")]
        case [word, *_]:
            raise Refused(f"unknown word {word!r} after source", hint="usesrc, interface")
    if isinstance(where.host, Family):
        return [exact("the address of the route out")]
    try:
        proxy.source = (line, ip_address(str(where.host)))
    except ValueError:
        return [dropped("write the source as an address")]
    return [approximated("one source for the connections of all services, and for checks of this backend")]


def _stick_table(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    if "type" not in words or "size" not in words:
        raise Refused("stick-table expects a type and a size", hint="stick-table type ip size 100k expire 30m")
    kind = _after(words, "type")
    if "expire" in words:
        proxy.sticky = duration(_after(words, "expire"), what="expire")
    else:
        proxy.sticky = _FOREVER
    if kind not in ("ip", "ipv6"):
        proxy.sticky = None
        return [dropped("only `type ip` or `ipv6` is kept, as persistence by the client's address")]
    if "store" in words:
        return [dropped("nothing is counted by client: use nftables meters")]
    return [approximated("persistence of the kernel, one entry a client; it ages after the last connection")]


# The longest that ipvsadm grants a persistence.
_FOREVER = 31 * 86400.0


def _after(words: Sequence[str], word: str) -> str:
    at = list(words).index(word) + 1
    if at >= len(words):
        raise Refused(f"stick-table {word!r} expects a value")
    return words[at]


def _stick(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    match list(words[1:]):
        case ["on", "src"]:
            proxy.stick_on = line
            return [EXACT]
        case ["on" | "match" | "store-request" | "store-response", _, *_]:
            return [dropped("only `stick on src` with the backend's own table is kept, as persistence")]
    raise Refused("stick expects a rule", hint="stick on src")


def _http_check(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    return [checks.http_check(proxy, line, words)]


def _tcp_check(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    return [checks.tcp_check(proxy, line, words)]


def _external_check(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    return [checks.external(proxy, words)]


Handler = Callable[[Proxy, int, Sequence[str]], list[Remark]]

_HANDLERS: dict[str, Handler] = {
    "mode": _mode,
    "bind": bind,
    "server": server,
    "server-template": server_template,
    "default-server": default_server,
    "maxconn": _maxconn,
    "timeout": _timeout,
    **dict.fromkeys(_OLD_TIMEOUTS, _timeout),
    "balance": _balance,
    "hash-type": _hash_type,
    "default_backend": _default_backend,
    "use_backend": _use_backend,
    "disabled": _disabled,
    "enabled": _disabled,
    "dispatch": _dispatch,
    "source": _source,
    "stick-table": _stick_table,
    "stick": _stick,
    "http-check": _http_check,
    "tcp-check": _tcp_check,
    "external-check": _external_check,
}
