"""Words of haproxy.cfg for single values: quoting, times, server lines, checks. Knows no section."""

import re
from dataclasses import dataclass

from kernlb.checks.spec import (
    AgentProbe,
    Check,
    CommandProbe,
    Expect,
    HttpProbe,
    Match,
    Send,
    SmtpProbe,
    TcpProbe,
    TlsOptions,
    TlsProbe,
)
from kernlb.config.values import Server
from kernlb.model import IPAddress

_PLAIN = re.compile(r"[A-Za-z0-9_.,:;/@%+=*!?&^()<>|~\[\]{}-]+")
_ESCAPED = {"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quoted(word: str) -> str:
    """A word as HAProxy reads it back."""
    if _PLAIN.fullmatch(word):
        return word
    return '"' + "".join(_ESCAPED.get(char, char) for char in word) + '"'


def clean(name: str) -> str:
    """A name with the characters that HAProxy permits."""
    return re.sub(r"[^A-Za-z0-9_.:-]", "_", name) or "_"


def seconds(value: float) -> float:
    return max(value, 0.001)


def time(value: float) -> str:
    milliseconds = max(1, round(value * 1000))
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


def address(value: IPAddress, port: int) -> str:
    host = str(value) if value.version == 4 else f"[{value}]"
    return f"{host}:{port}" if port else host


def server_words(server: Server, weight: int) -> str:
    words = ["server", clean(server.name), address(server.address, server.port)]
    if weight != 1:
        words += ["weight", str(weight)]
    if server.max_connections:
        words += ["maxconn", str(server.max_connections)]
    if server.slow_start:
        words += ["slowstart", time(server.slow_start)]
    words += [word for word, true in (("backup", server.backup), ("disabled", server.disabled)) if true]
    if (check := carried(server)) and checked(check).said:
        words += _check_words(check)
    if server.agent is not None and isinstance(server.agent.probe, AgentProbe) and server.agent.port:
        words += _agent_words(server.agent, server.agent.probe)
    return " ".join(words)


def carried(server: Server) -> Check | None:
    """The one check of a server that HAProxy makes: the first that it has words for."""
    return next((check for check in server.checks if checked(check).said), next(iter(server.checks), None))


def _check_words(check: Check) -> list[str]:
    words = ["check"]
    defaults = Check()
    if check.interval != defaults.interval:
        words += ["inter", time(check.interval)]
    if check.fast_interval is not None:
        words += ["fastinter", time(check.fast_interval)]
    if check.down_interval is not None:
        words += ["downinter", time(check.down_interval)]
    if check.rise != defaults.rise:
        words += ["rise", str(check.rise)]
    if check.fall != defaults.fall:
        words += ["fall", str(check.fall)]
    if check.port is not None:
        words += ["port", str(check.port)]
    if check.address is not None:
        words += ["addr", str(check.address)]
    if tls := tls_of(check):
        words += ["check-ssl"]
        words += ["verify", "required", "ca-file", quoted(tls.ca_file)] if tls.ca_file else ["verify", "none"]
        if tls.server_name:
            words += ["check-sni", quoted(tls.server_name)]
        if tls.alpn:
            words += ["check-alpn", ",".join(tls.alpn)]
    return words


def _agent_words(check: Check, probe: AgentProbe) -> list[str]:
    words = ["agent-check", "agent-port", str(check.port), "agent-inter", time(check.interval)]
    if check.address is not None:
        words += ["agent-addr", str(check.address)]
    if probe.send:
        words += ["agent-send", quoted(probe.send.decode("utf-8", "replace"))]
    return words


def tls_of(check: Check) -> TlsOptions | None:
    match check.probe:
        case TcpProbe() | HttpProbe() | TlsProbe() | SmtpProbe():
            return check.probe.tls
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Checked:
    """`said` is whether HAProxy has such a check; `lines` choose it for a backend."""

    said: bool = True
    lines: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()
    connect_only: bool = False
    external: bool = False


def checked(check: Check) -> Checked:
    match check.probe:
        case TcpProbe(steps=()) | TlsProbe():
            return Checked(connect_only=check.probe == TcpProbe())
        case TcpProbe(steps=steps):
            return Checked(lines=("option tcp-check", *(_step(step) for step in steps)))
        case HttpProbe() as probe:
            return _http(probe)
        case SmtpProbe(helo=helo):
            return Checked(lines=(f"option smtpchk EHLO {quoted(helo)}",))
        case CommandProbe(argv=argv):
            usual = argv[1:] == ("NOT_USED", "NOT_USED", "{address}", "{port}")
            unsaid = () if usual else ("# not said: the arguments of the command",)
            lines = ("option external-check", f"external-check command {quoted(argv[0])}")
            return Checked(lines=lines, unsaid=unsaid, external=True)
        case other:
            kind = type(other).__name__.removesuffix("Probe").lower()
            return Checked(said=False, unsaid=(f"# not said: checks of type {kind}; these servers are unchecked here",))


def _http(probe: HttpProbe) -> Checked:
    send = [] if probe.host is None else ["hdr", "Host", quoted(probe.host)]
    for name, value in probe.headers:
        send += ["hdr", quoted(name), quoted(value)]
    if probe.body:
        send += ["body", quoted(probe.body.decode("utf-8", "replace"))]
    lines = [f"option httpchk {probe.method} {quoted(probe.path)}"]
    if send:
        lines.append(f"http-check send ver HTTP/1.1 {' '.join(send)}")
    default = HttpProbe()
    any_status = probe.status[0].first == 100 and probe.status[0].last == 599 if probe.status else False
    if probe.status != default.status and not (probe.match and any_status):
        ranges = ",".join(f"{r.first}-{r.last}" if r.first != r.last else str(r.first) for r in probe.status)
        lines.append(f"http-check expect status {ranges}")
    if probe.match is not None:
        lines.append(f"http-check expect {_match(probe.match)}")
    return Checked(lines=tuple(lines))


def _step(step: Send | Expect) -> str:
    if isinstance(step, Send):
        return f"tcp-check send-binary {step.data.hex()}" if step.data else 'tcp-check send ""'
    wait = f"min-recv {step.min_bytes} " if step.min_bytes else ""
    return f"tcp-check expect {wait}{_match(step.match, binary=True)}"


def _match(match: Match, *, binary: bool = False) -> str:
    negate = "! " if match.negate else ""
    if match.pattern is not None:
        return f"{negate}rstring {quoted(match.pattern)}"
    text = match.text or b""
    if binary and not (text.isascii() and text.decode("ascii").isprintable()):
        return f"{negate}binary {text.hex()}"
    return f"{negate}string {quoted(text.decode('utf-8', 'replace'))}"
