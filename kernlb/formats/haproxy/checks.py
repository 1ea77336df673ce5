"""How haproxy.cfg says what a check sends and expects: option ...chk, http-check, tcp-check. Runs nothing."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kernlb.checks.spec import Expect, HttpProbe, Match, Send, StatusRange
from kernlb.formats.haproxy.settings import CheckKind, CheckRules, Proxy
from kernlb.formats.haproxy.values import count
from kernlb.formats.report import EXACT, Refused, Remark, approximated, dropped, exact

_SECOND = dropped("one request and one expectation make a check here: use a `command` check for a dialogue")
_FORMATTED = dropped("log-format expressions are not evaluated in a check: write the text itself")
_VARIABLES = dropped("a check has no variables")
_VERSION = approximated("HTTP/1.1 with a Host header, whatever version is named")
_NO_EFFECT = exact("a comment")


def option(proxy: Proxy, words: Sequence[str]) -> Remark:
    """option httpchk | tcp-check | smtpchk | redis-check | ssl-hello-chk | external-check"""
    checks = proxy.checks
    match words[1]:
        case "httpchk":
            checks.kind = CheckKind.HTTP
            return _httpchk(checks, words[2:])
        case "tcp-check":
            checks.kind = CheckKind.TCP
        case "redis-check":
            checks.kind = CheckKind.REDIS
        case "ssl-hello-chk":
            checks.kind = CheckKind.TLS
            return approximated("a whole TLS handshake of today, not an SSLv3 hello")
        case "smtpchk":
            checks.kind = CheckKind.SMTP
            checks.helo = words[3] if len(words) > 3 else "localhost"
        case "external-check":
            checks.kind = CheckKind.COMMAND
            return approximated("the arguments are HAProxy's, its environment variables are not set")
    return EXACT


def _httpchk(checks: CheckRules, words: Sequence[str]) -> Remark:
    http = checks.http
    match words:
        case []:
            return _VERSION
        case [uri]:
            checks.http = replace(http, method="OPTIONS", path=_path(uri))
            return _VERSION
        case [method, uri, *version]:
            headers = re.split(r"\r?\n", " ".join(version))[1:]
            parsed = [_header(line) for line in headers if line.strip()]
            checks.http = _with_headers(replace(http, method=_method(method), path=_path(uri)), parsed)
            return _VERSION if not version or version[0].startswith("HTTP/1.0") else EXACT
    return EXACT


def _method(word: str) -> str:
    if not re.fullmatch(r"[A-Za-z!#$%&'*+.^_`|~0-9-]+", word):
        raise Refused(f"{word!r} is not an HTTP method")
    return word


def _path(word: str) -> str:
    if not word or any(char.isspace() or not char.isprintable() for char in word):
        raise Refused(f"{word!r} cannot be the path of a request", hint="write %20 for a blank")
    return word


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise Refused(f"{line!r} is not a header", hint="Name: value")
    return name.strip(), value.strip()


def _with_headers(http: HttpProbe, headers: Sequence[tuple[str, str]]) -> HttpProbe:
    host = next((value for name, value in headers if name.lower() == "host"), http.host)
    return replace(http, host=host, headers=http.headers + tuple(pair for pair in headers if pair[0].lower() != "host"))


def http_check(proxy: Proxy, line: int, words: Sequence[str]) -> Remark:
    """http-check send | expect | connect | ..."""
    checks = proxy.checks
    if len(words) < 2:
        raise Refused("http-check expects a rule", hint="http-check expect status 200")
    if checks.http_rules != proxy.line:
        # A section's own rules replace those of its defaults; what `option httpchk` said stays.
        checks.http_rules, checks.sent = proxy.line, False
        checks.http = replace(checks.http, status=HttpProbe().status, match=None)
    match words[1]:
        case "send":
            return _http_send(checks, words[2:])
        case "expect":
            return _http_expect(checks, words[2:])
        case "connect":
            return _connect(checks, words[2:])
        case "comment":
            return _NO_EFFECT
        case "disable-on-404":
            return dropped("404 counts as the status range says; use `kernlb drain`, or an agent check that says drain")
        case "send-state":
            return dropped("the check tells the server nothing of its state")
        case word if word.startswith(("set-var", "unset-var")):
            return _VARIABLES
    raise Refused(f"unknown http-check rule {words[1]!r}", hint="send, expect, connect")


def _http_send(checks: CheckRules, words: Sequence[str]) -> Remark:
    if checks.sent:
        return _SECOND
    http, headers = checks.http, list[tuple[str, str]]()
    at = 0
    while at < len(words):
        word = words[at]
        values = words[at + 1 : at + (3 if word == "hdr" else 2)]
        if len(values) < (2 if word == "hdr" else 1):
            raise Refused(f"http-check send {word!r} expects a value")
        match word:
            case "meth":
                http = replace(http, method=_method(values[0]))
            case "uri":
                http = replace(http, path=_path(values[0]))
            case "ver":
                pass
            case "hdr":
                if "%" in values[1]:
                    return _FORMATTED
                headers.append((values[0], values[1]))
            case "body":
                http = replace(http, body=values[0].encode("utf-8", "surrogateescape"))
            case "uri-lf" | "body-lf":
                return _FORMATTED
            case "comment":
                pass
            case _:
                raise Refused(f"unknown word {word!r} in http-check send", hint="meth, uri, ver, hdr, body")
        at += 1 + len(values)
    checks.sent = True
    checks.http = _with_headers(http, headers)
    return EXACT if "HTTP/1.1" in words else _VERSION


def _http_expect(checks: CheckRules, words: Sequence[str]) -> Remark:
    words, _, ignored = _expect_words(words)
    negate = words[:1] == ["!"]
    words = words[negate:]
    if len(words) < 2:
        raise Refused("http-check expect needs a kind and a pattern", hint="http-check expect status 200-399")
    if checks.http.match is not None or checks.http.status != HttpProbe().status:
        return _SECOND
    kind, pattern = words[0], words[1]
    any_status = (StatusRange(first=100, last=599),)
    match kind:
        case "status":
            wanted = [_status_range(part) for part in pattern.split(",")]
            checks.http = replace(checks.http, status=_complement(wanted) if negate else tuple(wanted))
        case "rstatus":
            checks.http = replace(checks.http, status=_matching(pattern, negate=negate))
        case "string":
            match_text = Match(text=pattern.encode("utf-8", "surrogateescape"), negate=negate)
            checks.http = replace(checks.http, status=any_status, match=match_text)
        case "rstring":
            checks.http = replace(checks.http, status=any_status, match=Match(pattern=_regex(pattern), negate=negate))
        case "hdr" | "fhdr":
            return dropped("headers of the answer are not judged: expect a status or a string")
        case "string-lf":
            return _FORMATTED
        case _:
            raise Refused(f"unknown http-check expect {kind!r}", hint="status, rstatus, string, rstring")
    return ignored


def _status_range(text: str) -> StatusRange:
    first, dash, last = text.partition("-")
    low = count(first, what="a status", lowest=100, highest=599)
    high = count(last, what="a status", lowest=low, highest=599) if dash else low
    return StatusRange(first=low, last=high)


def _complement(ranges: Sequence[StatusRange]) -> tuple[StatusRange, ...]:
    return _ranges(code for code in range(100, 600) if not any(r.first <= code <= r.last for r in ranges))


def _matching(pattern: str, *, negate: bool) -> tuple[StatusRange, ...]:
    compiled = re.compile(_regex(pattern))
    return _ranges(code for code in range(100, 600) if bool(compiled.search(str(code))) != negate)


def _ranges(codes: Iterable[int]) -> tuple[StatusRange, ...]:
    found: list[StatusRange] = []
    for code in codes:
        if found and found[-1].last == code - 1:
            found[-1] = replace(found[-1], last=code)
        else:
            found.append(StatusRange(first=code, last=code))
    if not found:
        raise Refused("no HTTP status can satisfy this expectation")
    return tuple(found)


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise Refused(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


_EXPECT_VALUES = frozenset(
    ["min-recv", "comment", "error-status", "ok-status", "tout-status", "on-success", "on-error", "status-code"]
)


def _expect_words(words: Sequence[str]) -> tuple[list[str], int, Remark]:
    """The words of an expectation without its options; the bytes to wait for; what was passed over."""
    rest = list(words)
    min_bytes, remark = 0, EXACT
    while len(rest) >= 2 and rest[0] in _EXPECT_VALUES:
        if rest[0] == "min-recv":
            min_bytes = max(0, count(rest[1].removeprefix("-"), what="min-recv"))
        elif rest[0] != "comment":
            remark = approximated("a failed expectation is a failure, whatever status is named for it")
        rest = rest[2:]
    return rest, min_bytes, remark


def tcp_check(proxy: Proxy, line: int, words: Sequence[str]) -> Remark:
    """tcp-check connect | send | send-binary | expect | comment"""
    checks = proxy.checks
    if len(words) < 2:
        raise Refused("tcp-check expects a rule", hint="tcp-check expect string +OK")
    if checks.steps_rules != proxy.line:
        checks.steps_rules, checks.steps = proxy.line, ()
    match words[1], words[2:]:
        case "connect", _:
            if checks.steps:
                return dropped("one connection makes a check here: use a `command` check for more")
            return _connect(checks, words[2:])
        case "send", [text, *_]:
            checks.steps += (Send(data=text.encode("utf-8", "surrogateescape")),)
        case "send-binary", [text, *_]:
            checks.steps += (Send(data=_binary(text)),)
        case "expect", [_, *_]:
            return _tcp_expect(checks, words[2:])
        case (("send-lf" | "send-binary-lf"), [_, *_]):
            return _FORMATTED
        case "comment", [_, *_]:
            return _NO_EFFECT
        case word, _ if word.startswith(("set-var", "unset-var")):
            return _VARIABLES
        case (("send" | "send-binary" | "expect" | "send-lf" | "send-binary-lf" | "comment"), []):
            raise Refused(f"tcp-check {words[1]!r} expects an argument")
        case _:
            raise Refused(f"unknown tcp-check rule {words[1]!r}", hint="connect, send, send-binary, expect")
    return EXACT


def _tcp_expect(checks: CheckRules, words: Sequence[str]) -> Remark:
    rest, min_bytes, remark = _expect_words(words)
    negate = rest[:1] == ["!"]
    rest = rest[negate:]
    if len(rest) < 2:
        raise Refused("tcp-check expect needs a kind and a pattern", hint="tcp-check expect string +OK")
    match rest[0]:
        case "string":
            wanted = Match(text=rest[1].encode("utf-8", "surrogateescape"), negate=negate)
        case "binary":
            wanted = Match(text=_binary(rest[1]), negate=negate)
        case "rstring":
            wanted = Match(pattern=_regex(rest[1]), negate=negate)
        case "rbinary":
            return dropped("expressions over hexadecimal text are not judged: use rstring")
        case "string-lf" | "binary-lf":
            return _FORMATTED
        case kind:
            raise Refused(f"unknown tcp-check expect {kind!r}", hint="string, rstring, binary")
    checks.steps += (Expect(match=wanted, min_bytes=min_bytes),)
    return remark


def _binary(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Refused(f"{text!r} is not an even number of hexadecimal digits") from None


def _connect(checks: CheckRules, words: Sequence[str]) -> Remark:
    remark, at = EXACT, 0
    while at < len(words):
        word, value = words[at], words[at + 1] if at + 1 < len(words) else ""
        at += 1 if word in ("default", "linger", "ssl", "send-proxy", "via-socks4") else 2
        match word:
            case "port":
                if not value.isdecimal():
                    return dropped("the port of a check is a number here, not an expression")
                checks.port = count(value, what="port", lowest=1, highest=65535)
            case "ssl":
                checks.tls = True
            case "sni":
                checks.sni = value
            case "default" | "linger" | "comment" | "proto" | "alpn":
                pass
            case "send-proxy" | "via-socks4" | "addr":
                remark = dropped("the check goes straight to the server's own address")
            case _:
                raise Refused(f"unknown word {word!r} in a check's connect", hint="port, ssl, sni")
    return remark


def external(proxy: Proxy, words: Sequence[str]) -> Remark:
    """external-check command PATH | path DIRECTORIES"""
    match words[1:]:
        case ["command", command, *_]:
            proxy.checks.command = command
            return EXACT
        case ["path", _, *_]:
            return dropped("the command gets no PATH of its own: set it in the program")
    raise Refused("external-check expects `command PROGRAM` or `path DIRECTORIES`")
