"""What the keys of a check mean together: layers of inheritance in, one Check out. A key that the kind does not know
is a finding. Timing is inherited always, what belongs to a kind only by the same kind: so do the counts of BFD."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
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
    Probe,
    Send,
    SmtpProbe,
    TcpProbe,
    TlsOptions,
    TlsProbe,
    UdpProbe,
    usual,
)
from kernlb.config.check_keys import CheckKeys, MatchKeys, StepKeys, TlsKeys
from kernlb.config.findings import Finding, Path

TIMING = frozenset({
    "interval", "timeout", "rise", "fall", "fast_interval", "down_interval", "start",
    "port", "address", "bind_address", "mark", "interface", "via_vip",
})  # fmt: skip
_COUNTS = frozenset({"rise", "fall"})
"""A probe of BFD is a whole session, and not one packet."""

_HTTP = frozenset({"method", "path", "host", "headers", "body", "status", "match", "body_limit"})
KEYS_OF = {
    CheckKind.TCP: frozenset({"steps", "tls"}),
    CheckKind.HTTP: _HTTP,
    CheckKind.HTTPS: _HTTP | {"tls"},
    CheckKind.TLS: frozenset({"tls"}),
    CheckKind.DNS: frozenset({"name", "record_type", "transport", "rcodes", "match"}),
    CheckKind.UDP: frozenset({"payload", "require_reply", "match"}),
    CheckKind.PING: frozenset({"payload_bytes"}),
    CheckKind.SMTP: frozenset({"helo", "starttls", "tls"}),
    CheckKind.GRPC: frozenset({"service", "authority", "tls"}),
    CheckKind.COMMAND: frozenset({"argv", "exit", "user", "output_limit"}),
    CheckKind.AGENT: frozenset({"send"}),
    CheckKind.FILE: frozenset({"path", "adjust"}),
    CheckKind.BFD: frozenset({"min_tx", "min_rx", "multiplier", "passive", "multihop", "min_ttl"}),
}
"""What each kind knows beside the timing; the JSON Schema says the same."""

_PROBE_OF = {
    CheckKind.TCP: TcpProbe,
    CheckKind.HTTP: HttpProbe,
    CheckKind.HTTPS: HttpProbe,
    CheckKind.TLS: TlsProbe,
    CheckKind.DNS: DnsProbe,
    CheckKind.UDP: UdpProbe,
    CheckKind.PING: PingProbe,
    CheckKind.SMTP: SmtpProbe,
    CheckKind.GRPC: GrpcProbe,
    CheckKind.COMMAND: CommandProbe,
    CheckKind.AGENT: AgentProbe,
    CheckKind.FILE: FileProbe,
    CheckKind.BFD: BfdProbe,
}
_REQUIRED = {CheckKind.COMMAND: "argv", CheckKind.FILE: "path"}

Layer = tuple[Path, CheckKeys | None]
"""One table's word on a check, outermost first; None says "not at all"."""


def build_checks(
    layers: Sequence[tuple[Path, CheckKeys | list[CheckKeys] | None]], findings: list[Finding]
) -> tuple[Check, ...]:
    """An array takes the place of what was said further out, and hands nothing on: its checks inherit, each as if it
    stood alone, from single ones."""
    singles: list[Layer] = []
    several: list[list[Layer]] = []
    wanted = False
    for path, keys in layers:
        wanted = keys is not None
        if isinstance(keys, list):
            several = [[*singles, ((*path, index), each)] for index, each in enumerate(keys)]
        elif keys is None or not several:
            singles.append((path, keys))
        elif keys.type is not None:
            singles.append((path, keys))
            several = []
        elif keys.model_fields_set:
            wrong = f"{len(several)} checks further out: which of them is meant?"
            findings.append(Finding(path, wrong, "write an array of all checks, or type = ... for one in their place"))
    built = [build_check(each, findings) for each in several or [singles]] if wanted else []
    return tuple(check for check in built if check is not None)


def build_check(layers: Sequence[Layer], findings: list[Finding], *, default: CheckKind | None = None) -> Check | None:
    """`default` is the only kind there can be (an agent), else tcp is what is meant without a word."""
    wanted = False
    kind = default or CheckKind.TCP
    given: dict[str, Any] = {}
    before = len(findings)
    path: Path = ()
    for path, keys in layers:
        wanted = keys is not None
        if keys is None:
            continue
        if keys.type is not None and keys.type is not kind:
            if default is not None:
                findings.append(Finding((*path, "type"), f"an agent cannot be a check by {keys.type}", "leave it out"))
                continue
            stays = TIMING - _COUNTS if CheckKind.BFD in (kind, keys.type) else TIMING
            if {kind, keys.type} == {CheckKind.HTTP, CheckKind.HTTPS}:
                stays |= _HTTP
            kind = keys.type
            given = {key: value for key, value in given.items() if key in stays}
        for key in keys.model_fields_set - {"type"}:
            if key in TIMING or key in KEYS_OF[kind]:
                given[key] = getattr(keys, key)
            else:
                findings.append(_misplaced((*path, key), key, kind))
        findings.extend(_wrong(path, keys, kind))
    if not wanted or len(findings) > before:
        return None
    if (required := _REQUIRED.get(kind)) and not given.get(required):
        findings.append(Finding(path, f"a check of type {kind} needs {required}", f"write {required} = ..."))
        return None
    probe = _probe(kind, {key: value for key, value in given.items() if key not in TIMING})
    timing = {key: value for key, value in given.items() if key in TIMING}
    return replace(usual(probe), **timing)


def _misplaced(path: Path, key: str, kind: CheckKind) -> Finding:
    takers = ", ".join(kind for kind, keys in KEYS_OF.items() if key in keys)
    return Finding(path, f"{key} means nothing to a check of type {kind}", f"it belongs to {takers}")


def _wrong(path: Path, keys: CheckKeys, kind: CheckKind) -> Iterator[Finding]:
    if keys.match is not None:
        yield from _wrong_match((*path, "match"), keys.match)
    for index, step in enumerate(keys.steps or ()):
        here = (*path, "steps", index)
        if (step.send is None) is (step.expect is None):
            yield Finding(here, "a step either sends or expects", 'write { send = "..." } or { expect = "..." }')
        elif step.expect is not None:
            yield from _wrong_match((*here, "expect"), step.expect)
        elif step.min_bytes is not None:
            yield Finding((*here, "min_bytes"), "min_bytes belongs to expect", "leave it out")
    if kind in (CheckKind.HTTP, CheckKind.HTTPS) and keys.path is not None and " " in keys.path:
        yield Finding((*path, "path"), "a path of HTTP has no space in it", "write %20")
    if kind is CheckKind.FILE and keys.path is not None and not keys.path.startswith("/"):
        yield Finding((*path, "path"), "a file needs an absolute path", "write /run/...")


def _wrong_match(path: Path, keys: MatchKeys) -> Iterator[Finding]:
    if (keys.text is None) is (keys.pattern is None):
        yield Finding(path, "a match is either a text or a pattern", 'write { text = "..." } or { pattern = "..." }')


def _probe(kind: CheckKind, given: dict[str, Any]) -> Probe:
    for key, value in given.items():
        match value:
            case TlsKeys():
                given[key] = _tls(value)
            case MatchKeys():
                given[key] = Match(text=value.text, pattern=value.pattern, negate=value.negate)
            case [StepKeys(), *_]:
                given[key] = tuple(_step(step) for step in value)
            case list():
                given[key] = tuple(value)
    if kind is CheckKind.HTTPS or kind is CheckKind.TLS:
        given["tls"] = given.get("tls") or TlsOptions()
    probe: Probe = _PROBE_OF[kind](**given)
    return probe


def _tls(keys: TlsKeys) -> TlsOptions:
    return TlsOptions(
        server_name=keys.server_name,
        verify=keys.verify is not False,
        ca_file=keys.ca_file,
        certificate_days=keys.certificate_days,
        alpn=tuple(keys.alpn or ()),
    )


def _step(keys: StepKeys) -> Send | Expect:
    if keys.expect is None:
        return Send(data=keys.send or b"")
    match = Match(text=keys.expect.text, pattern=keys.expect.pattern, negate=keys.expect.negate)
    return Expect(match=match, min_bytes=keys.min_bytes or 0)
