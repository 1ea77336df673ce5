"""The checkers of keepalived.conf as checks: what each sends and expects, how often, how patiently. Runs nothing."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from kernlb.checks.spec import (
    Check,
    DnsProbe,
    FileProbe,
    HttpProbe,
    Match,
    PingProbe,
    Probe,
    SmtpProbe,
    Start,
    StatusRange,
    TcpProbe,
    TlsOptions,
    UdpProbe,
)
from kernlb.formats.keepalived.files import REVERSED, TrackFile, file_check
from kernlb.formats.keepalived.pace import Pace, paced
from kernlb.formats.keepalived.scripts import Account, command
from kernlb.formats.keepalived.sessions import Instance, bfd_check
from kernlb.formats.keepalived.syntax import Statement
from kernlb.formats.keepalived.values import address, number
from kernlb.formats.report import Ledger, Refused, approximated, dropped
from kernlb.model import IPAddress

KINDS = frozenset(
    {
        "TCP_CHECK",
        "HTTP_GET",
        "SSL_GET",
        "SMTP_CHECK",
        "DNS_CHECK",
        "MISC_CHECK",
        "BFD_CHECK",
        "PING_CHECK",
        "UDP_CHECK",
        "FILE_CHECK",
    }
)
_OTHERS = "the server's other checkers decide without it"
_ALONE = "without another checker the server would always count as up: add a PING_CHECK"
_CONNECTION = frozenset({"connect_ip", "connect_port", "bindto", "bind_port", "bind_if", "fwmark", "connect_timeout"})
_RETRIES = {"DNS_CHECK": 3, "MISC_CHECK": 0}
_DELAYS = {"HTTP_GET": 3.0, "SSL_GET": 3.0}
_OK = (StatusRange(first=200, last=299),)


def checks(
    checkers: Sequence[Statement],
    server: IPAddress,
    pace: Pace,
    account: Account,
    files: Mapping[str, TrackFile],
    instances: Mapping[str, Instance],
    ledger: Ledger,
) -> tuple[Check, ...]:
    """All that the checkers of one real server ask."""
    found: list[Check] = []
    unsaid: list[Statement] = []
    for statement in checkers:
        try:
            match statement.keyword:
                case "BFD_CHECK":
                    session = bfd_check(statement, instances, server, ledger, alpha=pace.alpha)
                    if session in found:
                        raise Refused("this session stands above already")
                    found.append(session)
                case "FILE_CHECK":
                    if check := file_check(statement, files, ledger):
                        found.append(check)
                    else:
                        unsaid.append(statement)
                case _:
                    found += _checks(statement, pace, account, ledger)
        except Refused as refused:
            ledger.refuse(statement.line, refused, path=statement.keyword)
    # A file that adjusts the weight says nothing of the server.
    decided = any(not (isinstance(check.probe, FileProbe) and check.probe.adjust) for check in found)
    for statement in unsaid:
        for inner in statement.all():
            ledger.say(inner.line, dropped(f"{REVERSED}; {_OTHERS if decided else _ALONE}"))
    for line in [inner.line for each in checkers for inner in each.body if inner.keyword == "misc_dynamic"][1:]:
        ledger.say(line, approximated("of the weights that several scripts set the smallest counts"))
    return tuple(found)


def _checks(statement: Statement, pace: Pace, account: Account, ledger: Ledger) -> Iterator[Check]:
    """Those of one checker's block: one for each `url`, and for each `host`."""
    kind = statement.keyword
    here, own, rest = _connection(kind, statement.body, pace, ledger)
    hosts = [inner for inner in rest if kind == "SMTP_CHECK" and inner.keyword == "host"]
    probes, timeout = _probes(kind, [inner for inner in rest if inner not in hosts], own, account, ledger)
    # A checker that says nothing of connections leaves them all to its hosts.
    spoken_for = hosts and not any(inner.keyword in _CONNECTION for inner in statement.body)
    targets = [] if spoken_for else [(here, timeout or own.connect_timeout)]
    for host in hosts:
        # Its limit of time is the host's own, the rest of its pace is that of them all.
        there, its, unknown = _connection(kind, host.body, replace(own, connect_timeout=pace.connect_timeout), ledger)
        own = replace(its, connect_timeout=own.connect_timeout)
        targets.append((there, its.connect_timeout))
        for inner in unknown:
            ledger.refuse(inner.line, Refused(f"unknown keyword {inner.keyword!r} in host"), path=kind)
    retry = _RETRIES.get(kind, 1) if own.retry is None else own.retry
    delay = _DELAYS.get(kind, 1.0) if own.delay_before_retry is None else own.delay_before_retry
    if kind == "DNS_CHECK" and own.delay_before_retry is None:
        delay = own.delay_loop
    for target, patience in targets:
        for probe in probes:
            yield replace(
                target,
                probe=probe,
                interval=own.delay_loop,
                timeout=patience,
                rise=1,
                fall=retry + 1,
                fast_interval=None if delay == own.delay_loop else delay,
                start=Start.DOWN if own.alpha else Start.LAST,
            )


def _connection(
    kind: str, body: Iterable[Statement], pace: Pace, ledger: Ledger
) -> tuple[Check, Pace, list[Statement]]:
    """Whom and how patiently a block asks, and its statements about something else."""
    target, rest = Check(), list[Statement]()
    for inner in body:
        try:
            if found := paced(pace, inner):
                pace, remark = found
                ledger.say(inner.line, remark)
            elif changed := _common(target, inner, ledger):
                target = changed
            else:
                rest.append(inner)
        except Refused as refused:
            ledger.refuse(inner.line, refused, path=kind)
    return target, pace, rest


def _common(check: Check, statement: Statement, ledger: Ledger) -> Check | None:
    match statement.keyword:
        case "connect_ip":
            return replace(check, address=address(statement.argument()))
        case "connect_port":
            return replace(check, port=number(statement, lowest=1, highest=65535))
        case "bindto":
            return replace(check, bind_address=address(statement.argument()))
        case "bind_if":
            return replace(check, interface=statement.argument())
        case "fwmark":
            return replace(check, mark=number(statement, lowest=1, highest=2**32 - 1))
        case "bind_port":
            ledger.say(statement.line, dropped("the port of a check's own end is the kernel's choice"))
            return check
        case "log_all_failures":
            ledger.say(statement.line, approximated("a change of state is logged, not each failure"))
            return check
    return None


def _probes(
    kind: str, rest: list[Statement], pace: Pace, account: Account, ledger: Ledger
) -> tuple[list[Probe], float | None]:
    """What a checker asks of each target, and its own limit of time where it has one."""
    words: dict[str, Statement] = {}
    urls: list[Statement] = []
    for statement in rest:
        known = _WORDS.get(kind, frozenset())
        if statement.keyword == "url" and "url" in known:
            urls.append(statement)
        elif statement.keyword in known:
            words[statement.keyword] = statement
        else:
            ledger.refuse(statement.line, Refused(f"unknown keyword {statement.keyword!r} in {kind}"))
    try:
        match kind:
            case "HTTP_GET" | "SSL_GET":
                return [*_http(kind, words, urls, pace, ledger)], None
            case "SMTP_CHECK":
                return [SmtpProbe(helo=words["helo_name"].argument() if "helo_name" in words else "localhost")], None
            case "DNS_CHECK":
                name = words["name"].argument() if "name" in words else "."
                record = words["type"].argument().upper() if "type" in words else "SOA"
                return [DnsProbe(name=name, record_type=record)], None
            case "MISC_CHECK":
                probe, limit = command(words, account, ledger)
                return [probe], limit
            case "PING_CHECK":
                return [PingProbe()], None
            case "UDP_CHECK":
                return [_udp(words, ledger)], None
    except Refused as refused:
        ledger.refuse(rest[0].line if rest else 1, refused, path=kind)
    return [TcpProbe()], None


_WORDS: dict[str, frozenset[str]] = {
    "HTTP_GET": frozenset({"url", "http_protocol", "fast_recovery"}),
    "SSL_GET": frozenset({"url", "http_protocol", "fast_recovery", "enable_sni"}),
    "SMTP_CHECK": frozenset({"helo_name"}),
    "DNS_CHECK": frozenset({"type", "name"}),
    "MISC_CHECK": frozenset({"misc_path", "misc_timeout", "misc_dynamic", "user"}),
    "UDP_CHECK": frozenset({"payload", "require_reply", "min_reply_length", "max_reply_length"}),
}


def _http(
    kind: str, words: Mapping[str, Statement], urls: list[Statement], pace: Pace, ledger: Ledger
) -> Iterator[HttpProbe]:
    if not urls:
        raise Refused(f"{kind} expects a url block")
    for further in urls[1:]:
        ledger.say(further.line, approximated("each url is asked every time: keepalived asks one after the other"))
    for keyword in ("http_protocol", "fast_recovery"):
        if keyword in words:
            ledger.say(words[keyword].line, approximated("one HTTP/1.1 request a check"))
    for url in urls:
        yield _request(kind, url, pace, ledger, sni="enable_sni" in words)


def _request(kind: str, url: Statement, pace: Pace, ledger: Ledger, *, sni: bool) -> HttpProbe:
    probe = HttpProbe(status=_OK, host=pace.virtualhost)
    negate = False
    for statement in url.body:
        match statement.keyword:
            case "path":
                probe = replace(probe, path=statement.argument())
            case "status_code":
                probe = replace(probe, status=tuple(_status(word) for word in statement.words[1:]) or _OK)
            case "virtualhost":
                probe = replace(probe, host=statement.argument())
            case "regex":
                probe = replace(probe, match=Match(pattern=_regex(statement.argument())))
            case "regex_no_match":
                negate = True
            case "digest":
                ledger.say(statement.line, dropped("digests are not computed: expect a status or a regex"))
            case word if word.startswith("regex_"):
                ledger.say(statement.line, approximated("expressions are Python's, with its defaults"))
            case word:
                ledger.refuse(statement.line, Refused(f"unknown keyword {word!r} in url"))
    if negate and probe.match is not None:
        probe = replace(probe, match=replace(probe.match, negate=True))
    if kind == "SSL_GET":
        probe = replace(probe, tls=TlsOptions(server_name=probe.host if sni else None, verify=False))
    return probe


def _status(word: str) -> StatusRange:
    match = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", word)
    if not match or int(match[2] or match[1]) < int(match[1]):
        raise Refused(f"{word!r} is no HTTP status", hint="200, or 200-299")
    return StatusRange(first=int(match[1]), last=int(match[2] or match[1]))


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise Refused(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


def _udp(words: Mapping[str, Statement], ledger: Ledger) -> UdpProbe:
    probe = UdpProbe(payload=_hex(words["payload"].words[1:]) if "payload" in words else b"")
    for keyword in ("min_reply_length", "max_reply_length"):
        if keyword in words:
            ledger.say(words[keyword].line, approximated("lengths of replies are not judged"))
    if reply := words.get("require_reply"):
        probe = replace(probe, require_reply=True)
        if any("x" in word.lower() for word in reply.words[1:]):
            ledger.say(reply.line, approximated("any reply is taken: masked bytes are not compared"))
        elif len(reply.words) > 1:
            probe = replace(probe, match=Match(text=_hex(reply.words[1:])))
    return probe


def _hex(words: list[str]) -> bytes:
    pairs = [word[at : at + 2] for word in words for at in range(0, len(word), 2)]
    try:
        return bytes(int(pair, 16) for pair in pairs)
    except ValueError:
        raise Refused(f"{' '.join(words)!r} is not hexadecimal") from None
