"""A check as a checker of keepalived.conf, and the quoting of its words. Knows no virtual server."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kernlb.checks.spec import (
    BfdProbe,
    Check,
    CommandProbe,
    DnsProbe,
    Exit,
    FileProbe,
    HttpProbe,
    PingProbe,
    SmtpProbe,
    Start,
    TcpProbe,
    TlsProbe,
    UdpProbe,
)
from kernlb.formats.keepalived.sessions import Session, session_of
from kernlb.model import IPAddress

_UNREADABLE = b"\xff"
"""keepalived 2.2.7 takes the digits ff for an error of its own."""


def quoted(word: str) -> str:
    """A word in double quotes; keepalived has no escape for these or line ends, so they are left out."""
    return '"' + word.replace('"', "").replace("\n", "").replace("\r", "") + '"'


def number(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def track_files(checks: Iterable[Check]) -> dict[str, str]:
    """The files whose number adjusts a weight, by path, each with a name for keepalived."""
    paths = [c.probe.path for c in checks if isinstance(c.probe, FileProbe) and c.probe.adjust is not None]
    sayable = dict.fromkeys(path for path in paths if quoted(path) == f'"{path}"')
    return {path: f"file{number}" for number, path in enumerate(sayable, 1)}


@dataclass(frozen=True, slots=True)
class Names:
    """Of what checkers refer to: track files by path, BFD sessions."""

    files: Mapping[str, str]
    sessions: Mapping[Session, str]


def checkers(checks: Sequence[Check], server: IPAddress, names: Names) -> Iterator[str]:
    """The blocks of one server."""
    lines = [line for check in checks for line in _checker(check, server, names)]
    yield from lines
    if checks and all(line.startswith("#") for line in lines):
        yield "# the server is unchecked here"


def _checker(check: Check, server: IPAddress, names: Names) -> Iterator[str]:
    """The lines of the block; only a comment where keepalived has no such checker."""
    match check.probe:
        case TcpProbe(steps=(), tls=None):
            kind, body = "TCP_CHECK", list[str]()
        case HttpProbe() as probe:
            kind, body = "SSL_GET" if probe.tls else "HTTP_GET", list(_http(probe))
        case SmtpProbe(tls=None, helo=helo):
            kind, body = "SMTP_CHECK", [f"helo_name {quoted(helo)}"]
        case DnsProbe() as dns:
            kind, body = "DNS_CHECK", [f"type {dns.record_type}", f"name {dns.name}"]
        case PingProbe():
            kind, body = "PING_CHECK", []
        case UdpProbe() as udp:
            kind, body = "UDP_CHECK", list(_udp(udp))
        case CommandProbe() as command:
            kind, body = "MISC_CHECK", list(_command(command, check))
        case TcpProbe() | TlsProbe():
            yield "# not said: what the check sends and expects; it connects only"
            kind, body = "TCP_CHECK", []
        case FileProbe(path=path, adjust=int() as adjust) if path in names.files:
            kind, body = "FILE_CHECK", [f"track_file {names.files[path]}", f"weight {adjust}"]
        case BfdProbe() if session := session_of(check, server):
            kind, body = "BFD_CHECK", [f"name {names.sessions[session]}"]
        case other:
            name = type(other).__name__.removesuffix("Probe").lower()
            yield f"# not said: a check of type {name}"
            return
    yield f"{kind} {{"
    for line in (*body, *_pace(check, kind)):
        yield f"    {line}"
    yield "}"


def _pace(check: Check, kind: str) -> Iterator[str]:
    if kind in ("FILE_CHECK", "BFD_CHECK"):
        if (check.rise, check.fall) != (1, 1):
            yield f"# not said: fall {check.fall} and rise {check.rise}; here one is believed"
        if kind == "BFD_CHECK" and check.start is Start.DOWN:
            yield "alpha"
        if kind == "BFD_CHECK" and (check.interface, check.mark) != (None, None):
            yield "# not said: the interface or mark of its packets"
        return
    if kind != "MISC_CHECK":
        if check.address is not None:
            yield f"connect_ip {check.address}"
        if check.port is not None:
            yield f"connect_port {check.port}"
        if check.bind_address is not None:
            yield f"bindto {check.bind_address}"
        if check.interface is not None:
            yield f"bind_if {check.interface}"
        if check.mark is not None:
            yield f"fwmark {check.mark}"
        yield f"connect_timeout {number(check.patience)}"
    yield f"delay_loop {number(check.interval)}"
    yield f"retry {check.fall - 1}"
    yield f"delay_before_retry {number(check.interval if check.fast_interval is None else check.fast_interval)}"
    if check.start is Start.DOWN:
        yield "alpha"
    if check.rise != 1:
        yield f"# not said: {check.rise} successes bring it up; here one does"
    if check.down_interval is not None:
        yield "# not said: another interval while it is down"


def _http(probe: HttpProbe) -> Iterator[str]:
    if probe.method != "GET" or probe.headers or probe.body:
        yield "# not said: method, headers or body"
    if probe.tls is not None and probe.tls.server_name:
        yield "enable_sni"
    yield "url {"
    yield f"    path {quoted(probe.path)}"
    ranges = " ".join(str(r.first) if r.first == r.last else f"{r.first}-{r.last}" for r in probe.status)
    yield f"    status_code {ranges}"
    if probe.host is not None:
        yield f"    virtualhost {quoted(probe.host)}"
    if probe.match is not None and probe.match.pattern is not None:
        yield f"    regex {quoted(probe.match.pattern)}"
        if probe.match.negate:
            yield "    regex_no_match"
    elif probe.match is not None:
        yield "    # not said: the text that the body must hold"
    yield "}"


def _udp(probe: UdpProbe) -> Iterator[str]:
    text = probe.match.text if probe.match else None
    if _UNREADABLE in probe.payload:
        yield "# not said: what is sent, with a byte ff, which keepalived does not read"
    elif probe.payload:
        yield f"payload {probe.payload.hex()}"
    if text and probe.match and not probe.match.negate and _UNREADABLE not in text:
        yield f"require_reply {text.hex()}"
    elif probe.require_reply or probe.match:
        yield "require_reply"


def _command(probe: CommandProbe, check: Check) -> Iterator[str]:
    yield f"misc_path {quoted(shlex.join(probe.argv))}"
    yield f"misc_timeout {max(1, round(check.patience))}"
    if probe.exit is Exit.WEIGHT:
        yield "misc_dynamic"
    if probe.user is not None:
        yield f"user {probe.user}"
