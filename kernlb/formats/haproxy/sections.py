"""The file as a whole: sections in order, defaults handed down, every line accounted for. Builds no Config."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kernlb.formats.haproxy import proxies
from kernlb.formats.haproxy.conditions import Blocks
from kernlb.formats.haproxy.keywords import GLOBAL, GLOBAL_NEGATABLE, GLOBAL_PREFIXES, IGNORED_SECTIONS
from kernlb.formats.haproxy.lexer import words as cut
from kernlb.formats.haproxy.settings import GlobalSettings, Kind, Proxy
from kernlb.formats.haproxy.values import count
from kernlb.formats.report import EXACT, Ledger, Refused, Remark, approximated, dropped, exact

_LONGEST_LINE = 65536
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_KINDS = frozenset(Kind)


@dataclass(slots=True)
class Document:
    """Every proxy of the file in its order, those of `defaults` apart."""

    settings: GlobalSettings = field(default_factory=GlobalSettings)
    proxies: list[Proxy] = field(default_factory=list)
    defaults: list[Proxy] = field(default_factory=list)


def read(text: str, ledger: Ledger, environ: Mapping[str, str]) -> Document:
    """Reads the whole file; mistakes and remarks go to the ledger."""
    reader = _Reader(ledger, dict(environ))
    lines = text.split("\n")
    unfinished = lines.pop()
    for number, line in enumerate(lines, 1):
        reader.line(number, line)
    if unfinished.strip():
        ledger.enter(len(lines) + 1, unfinished.strip())
        reader.refuse(len(lines) + 1, "the last line has no end: the file may be cut off", "end it with a newline")
    if reader.blocks.open:
        reader.refuse(max(len(lines), 1), ".if without .endif", "close the block")
    return reader.document


class _Reader:
    def __init__(self, ledger: Ledger, environ: dict[str, str]) -> None:
        self.ledger = ledger
        self.environ = environ
        self.document = Document()
        self.blocks = Blocks()
        self.section = ""
        self.proxy: Proxy | None = None
        self.inherited = Proxy(Kind.DEFAULTS, "", 0)
        self.named: dict[str, list[Proxy]] = {}

    def refuse(self, number: int, message: str, hint: str | None = None) -> None:
        self.ledger.refuse(number, Refused(message, hint=hint), path=self.path)

    @property
    def path(self) -> str:
        return f"{self.section} {self.proxy.name}".strip() if self.proxy else self.section

    def line(self, number: int, line: str) -> None:
        name = self.proxy.name if self.proxy and self.proxy.name else self.section
        environ = self.environ | {".LINE": str(number), ".FILE": "", ".SECTION": name}
        try:
            if len(line) > _LONGEST_LINE or "\0" in line:
                raise Refused("a line too long, or one with NUL characters, is no configuration")
            words = cut(line, environ)
            if not words:
                return
            self.ledger.enter(number, line.strip())
            if words[0] in (".if", ".elif", ".else", ".endif"):
                self.blocks.directive(words, self.environ)
                self.ledger.say(number, exact("a condition, decided when the file is read"))
            elif not self.blocks.active:
                self.ledger.say(number, exact("its condition does not hold"))
            else:
                self.ledger.say(number, *self._statement(number, words))
        except Refused as refused:
            self.ledger.enter(number, line.strip()[:200])
            self.ledger.refuse(number, refused, path=self.path)

    def _statement(self, number: int, words: list[str]) -> list[Remark]:
        keyword = words[0]
        if keyword == ".alert":
            raise Refused(" ".join(words[1:]) or "an .alert of the file itself")
        if keyword in (".diag", ".notice", ".warning"):
            return [EXACT]
        if keyword == "global":
            self.section, self.proxy = "global", None
            return [EXACT]
        if keyword in _KINDS:
            return self._open(Kind(keyword), number, words)
        if keyword in IGNORED_SECTIONS:
            self.section, self.proxy = keyword, None
            return [dropped(IGNORED_SECTIONS[keyword])]
        if not self.section:
            raise Refused(f"unknown keyword {keyword!r} out of any section", hint="begin with global or defaults")
        if self.section == "global":
            return self._global(number, words)
        if self.proxy is not None:
            return proxies.read(self.proxy, number, words)
        # A section that could not be opened, or one that is dropped as a whole.
        return [dropped(IGNORED_SECTIONS[self.section])] if self.section in IGNORED_SECTIONS else [EXACT]

    def _open(self, kind: Kind, number: int, words: list[str]) -> list[Remark]:
        self.section, self.proxy = str(kind), None
        name, parent = _heading(kind, words)
        base = self._parent(parent, kind, name) if parent is not None else self.inherited
        if kind is Kind.DEFAULTS:
            # Anonymous defaults start afresh: they never inherit from the ones before.
            blank = base if parent is not None else Proxy(Kind.DEFAULTS, "", 0)
            self.proxy = blank.child(kind, name, number)
            self.inherited = self.proxy
            self.document.defaults.append(self.proxy)
            return [EXACT]
        self.proxy = base.child(kind, name, number)
        namesakes = self.named.setdefault(name, [])
        for other in namesakes:
            if (other.front and self.proxy.front) or (other.back and self.proxy.back):
                raise Refused(f"{kind} {name!r} has the name of the {other.kind} at line {other.line}")
        namesakes.append(self.proxy)
        self.document.proxies.append(self.proxy)
        return [EXACT]

    def _parent(self, parent: str, kind: Kind, name: str) -> Proxy:
        found = [section for section in self.document.defaults if section.name == parent]
        if len(found) != 1:
            problem = "is ambiguous" if found else "is not found"
            raise Refused(f"defaults section {parent!r} of {kind} {name!r} {problem}")
        return found[0]

    def _global(self, number: int, words: list[str]) -> list[Remark]:
        keyword, negated = words[0], False
        if keyword in ("no", "default") and len(words) > 1:
            if words[1] not in GLOBAL_NEGATABLE:
                raise Refused(f"{words[1]!r} cannot be negated")
            keyword, negated = words[1], True
        settings = self.document.settings
        match keyword, words[1:]:
            case "maxconn", [number_word, *_]:
                settings.maxconn = count(number_word, what="maxconn", lowest=0) or None
                settings.maxconn_line = number
                return [approximated("new connections past it are refused, not queued; one count for all frontends")]
            case "ssl-server-verify", ["none" | "required" as verify]:
                settings.verify_servers = verify == "required"
                return [EXACT]
            case (("setenv" | "presetenv"), [name, value]):
                if keyword == "setenv" or name not in self.environ:
                    self.environ[name] = value
                return [EXACT]
            case "unsetenv", names if names:
                for name in names:
                    self.environ.pop(name, None)
                return [EXACT]
            case (("maxconn" | "setenv" | "presetenv" | "unsetenv" | "ssl-server-verify"), _):
                raise Refused(f"wrong arguments after {keyword!r}")
        if negated:
            return [exact("off here anyway")]
        if keyword in GLOBAL:
            return [GLOBAL[keyword]]
        if keyword.startswith(GLOBAL_PREFIXES):
            return [exact("tunes HAProxy's own process")]
        raise Refused(f"unknown keyword {keyword!r} in global section", hint="a misspelling, or a newer HAProxy's")


def _heading(kind: Kind, words: list[str]) -> tuple[str, str | None]:
    rest = words[1:]
    parent = None
    if "from" in rest:
        at = rest.index("from")
        if len(rest) != at + 2:
            raise Refused("`from` expects the name of one defaults section", hint=f"{kind} NAME from DEFAULTS")
        parent, rest = rest[at + 1], rest[:at]
    if not rest and kind is not Kind.DEFAULTS:
        raise Refused(f"{kind} expects a name", hint=f"{kind} web")
    if len(rest) > 1:
        raise Refused(f"unexpected {rest[1]!r} after the name", hint="use `bind` for listening addresses")
    name = rest[0] if rest else ""
    if name and not _NAME.fullmatch(name):
        raise Refused(f"{name!r} has characters that are not permitted in names", hint="letters, digits and - _ . :")
    return name, parent
