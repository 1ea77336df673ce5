"""The checkers of keepalived.conf as checks: what each sends and expects, how often, how patiently. Runs nothing."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from kernlb.checks.spec import (
    Check,
    DnsProbe,
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
from kernlb.formats.keepalived.pace import Pace, paced
from kernlb.formats.keepalived.scripts import Account, command
from kernlb.formats.keepalived.syntax import Statement
from kernlb.formats.keepalived.values import address, number
from kernlb.formats.report import Ledger, Refused, approximated, dropped

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
UNSPOKEN = {
    "BFD_CHECK": dropped("BFD is not spoken: use a ping or tcp check"),
    "FILE_CHECK": dropped(
        "keepalived adds the number in the file, times `weight`, to the server's weight; a `file` check of kernlb "
        "takes it as the weight: write another file, and the check into kernlb's own"
    ),
}
"""Checkers without a check that does the same."""
_RETRIES = {"DNS_CHECK": 3, "MISC_CHECK": 0}
_DELAYS = {"HTTP_GET": 3.0, "SSL_GET": 3.0}
_OK = (StatusRange(first=200, last=299),)


def checker(statement: Statement, pace: Pace, account: Account, ledger: Ledger) -> Check:
    """The check that a checker's block describes: any but those UNSPOKEN."""
    kind = statement.keyword
    common = Check()
    rest: list[Statement] = []
    for inner in _flat(kind, statement.body, ledger):
        try:
            if found := paced(pace, inner):
                pace, remark = found
                ledger.say(inner.line, remark)
            elif changed := _common(common, inner, ledger):
                common = changed
            else:
                rest.append(inner)
        except Refused as refused:
            ledger.refuse(inner.line, refused, path=kind)
    probe, timeout = _probe(kind, rest, pace, account, ledger)
    retry = _RETRIES.get(kind, 1) if pace.retry is None else pace.retry
    delay = _DELAYS.get(kind, 1.0) if pace.delay_before_retry is None else pace.delay_before_retry
    if kind == "DNS_CHECK" and pace.delay_before_retry is None:
        delay = pace.delay_loop
    return replace(
        common,
        probe=probe,
        interval=pace.delay_loop,
        timeout=timeout or pace.connect_timeout,
        rise=1,
        fall=retry + 1,
        fast_interval=None if delay == pace.delay_loop else delay,
        start=Start.DOWN if pace.alpha else Start.LAST,
    )


def _flat(kind: str, body: list[Statement], ledger: Ledger) -> Iterator[Statement]:
    """The statements of a checker, with those of the first `host` block of SMTP_CHECK among them."""
    hosts = [inner for inner in body if inner.keyword == "host" and kind == "SMTP_CHECK"]
    for inner in body:
        if inner not in hosts:
            yield inner
        elif inner is hosts[0]:
            yield from inner.body
        else:
            for deeper in inner.all():
                ledger.say(deeper.line, dropped("one target makes a check here: keepalived asks this one too"))


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


def _probe(
    kind: str, rest: list[Statement], pace: Pace, account: Account, ledger: Ledger
) -> tuple[Probe, float | None]:
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
                return _http(kind, words, urls, pace, ledger), None
            case "SMTP_CHECK":
                return SmtpProbe(helo=words["helo_name"].argument() if "helo_name" in words else "localhost"), None
            case "DNS_CHECK":
                name = words["name"].argument() if "name" in words else "."
                record = words["type"].argument().upper() if "type" in words else "SOA"
                return DnsProbe(name=name, record_type=record), None
            case "MISC_CHECK":
                return command(words, account, ledger)
            case "PING_CHECK":
                return PingProbe(), None
            case "UDP_CHECK":
                return _udp(words, ledger), None
    except Refused as refused:
        ledger.refuse(rest[0].line if rest else 1, refused, path=kind)
    return TcpProbe(), None


_WORDS: dict[str, frozenset[str]] = {
    "HTTP_GET": frozenset({"url", "http_protocol", "fast_recovery"}),
    "SSL_GET": frozenset({"url", "http_protocol", "fast_recovery", "enable_sni"}),
    "SMTP_CHECK": frozenset({"helo_name"}),
    "DNS_CHECK": frozenset({"type", "name"}),
    "MISC_CHECK": frozenset({"misc_path", "misc_timeout", "misc_dynamic", "user"}),
    "UDP_CHECK": frozenset({"payload", "require_reply", "min_reply_length", "max_reply_length"}),
}


def _http(kind: str, words: Mapping[str, Statement], urls: list[Statement], pace: Pace, ledger: Ledger) -> HttpProbe:
    if not urls:
        raise Refused(f"{kind} expects a url block")
    for further in urls[1:]:
        for statement in further.all():
            ledger.say(
                statement.line,
                dropped(
                    "one request makes a check here, and keepalived wants this one too: a `command` check can ask both"
                ),
            )
    for keyword in ("http_protocol", "fast_recovery"):
        if keyword in words:
            ledger.say(words[keyword].line, approximated("one HTTP/1.1 request a check"))
    probe = HttpProbe(status=_OK, host=pace.virtualhost)
    negate = False
    for statement in urls[0].body:
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
        name = probe.host if "enable_sni" in words else None
        probe = replace(probe, tls=TlsOptions(server_name=name, verify=False))
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
