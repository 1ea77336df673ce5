"""The bind lines of haproxy.cfg: which addresses and ports, and which of their words the kernel can honour."""

from collections.abc import Sequence

from kernlb.formats.haproxy.keywords import BIND_FLAGS, BIND_VALUES
from kernlb.formats.haproxy.settings import Bind, Proxy
from kernlb.formats.haproxy.values import PortKind, place
from kernlb.formats.report import EXACT, Refused, Remark, approximated, dropped
from kernlb.model import Family

_TLS = dropped(
    "TLS is not ended here, so this bind is left out: without `ssl` it passes TLS through to servers that hold the "
    "certificate; or keep an HAProxy for TLS behind this gateway"
)
_PROXY = dropped("PROXY headers are not read, so this bind is left out")
_WILDCARD = approximated(
    "every local address of that family, later ones included, but not loopback; the gateway's own clients are not "
    "balanced"
)


def bind(proxy: Proxy, line: int, words: Sequence[str]) -> list[Remark]:
    """bind [ADDRESS]:PORTS[,...] [word ...]"""
    if len(words) < 2:
        raise Refused("bind expects an address and a port", hint="bind *:80")
    both, tls, remarks = _words(words[2:])
    left_out = _TLS in remarks or _PROXY in remarks
    if tls and "crt" not in words and "crt-list" not in words:
        raise Refused(f"no certificate is given for bind {words[1]!r}", hint="add `crt FILE`, or leave out `ssl`")
    for word in words[1].split(","):
        remarks.append(_one(proxy, line, word, both=both, left_out=left_out))
    return remarks


def _one(proxy: Proxy, line: int, word: str, *, both: bool, left_out: bool) -> Remark:
    where = place(word)
    if where.host is None:
        return dropped("clients of a UNIX socket or an inherited descriptor never reach the kernel's balancing")
    if where.port is PortKind.NONE:
        raise Refused(f"missing port in {word!r}", hint="bind *:80")
    if where.port is PortKind.OFFSET or where.first == 0:
        raise Refused(f"invalid port in {word!r}", hint="1 to 65535, or a range such as 8000-8010")
    if not left_out:
        proxy.binds.append(Bind(line=line, word=word, place=where, both=both))
    return _WILDCARD if isinstance(where.host, Family) and not left_out else EXACT


def _words(words: Sequence[str]) -> tuple[bool, bool, list[Remark]]:
    both = tls = False
    remarks: list[Remark] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word in BIND_VALUES:
            if at + 1 >= len(words):
                raise Refused(f"bind option {word!r} expects a value")
            remarks.append(BIND_VALUES[word])
            at += 1
        elif word in BIND_FLAGS:
            remarks.append(BIND_FLAGS[word])
        elif word in ("v4v6", "v6only"):
            both = word == "v4v6"
        elif word == "ssl":
            tls = True
            remarks.append(_TLS)
        elif word == "accept-proxy":
            remarks.append(_PROXY)
        elif word == "accept-netscaler-cip":
            remarks.append(_PROXY)
            at += 1
        else:
            raise Refused(f"unknown keyword {word!r} on a bind line")
        at += 1
    return both, tls, remarks
