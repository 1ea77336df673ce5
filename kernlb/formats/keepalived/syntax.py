"""The grammar of keepalived.conf: words, blocks in braces, comments, parameters, conditions. Knows no keyword."""

import re
import shlex
from dataclasses import dataclass, field

from kernlb.formats.report import Ledger, Refused, exact

_PARAMETER = re.compile(r"\s*\$([A-Za-z_][A-Za-z0-9_]*)=(.*)$")
_USE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*)(?=\s|$))")
_DEEPEST = 16


@dataclass(slots=True)
class Statement:
    """One keyword with its arguments, and what stands in its braces."""

    line: int
    words: list[str]
    body: list["Statement"] = field(default_factory=list)
    block: bool = False

    @property
    def keyword(self) -> str:
        return self.words[0]

    def argument(self, at: int = 1) -> str:
        if len(self.words) <= at:
            raise Refused(f"{self.keyword!r} expects an argument")
        return self.words[at]

    def all(self) -> "list[Statement]":
        return [self, *(deeper for child in self.body for deeper in child.all())]


def parse(text: str, ledger: Ledger, *, config_id: str) -> list[Statement]:
    """The statements of a file, nested. What cannot be cut goes to the ledger as a mistake."""
    root: list[Statement] = []
    open_blocks: list[Statement] = []
    last: Statement | None = None
    parameters: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = _without_comment(raw)
        if not line.strip():
            continue
        if line.strip(" \t\r{}"):
            ledger.enter(number, line.strip()[:200])
        try:
            kept = _condition(_substituted(line, parameters), config_id)
            if kept is None:
                ledger.say(number, exact("for another config-id"))
                continue
            if match := _PARAMETER.match(kept):
                parameters[match[1]] = match[2].strip()
                continue
            for word in _words(kept):
                siblings = open_blocks[-1].body if open_blocks else root
                if word == "{":
                    last = last or (siblings[-1] if siblings and not siblings[-1].block else None)
                    if last is None or len(open_blocks) >= _DEEPEST:
                        raise Refused("a block opens without a keyword before it, or too deep")
                    last.block = True
                    open_blocks.append(last)
                    last = None
                elif word == "}":
                    if not open_blocks:
                        raise Refused("a block closes that was never opened")
                    open_blocks.pop()
                    last = None
                elif last is None:
                    last = Statement(number, [word])
                    siblings.append(last)
                else:
                    last.words.append(word)
            last = None
        except Refused as refused:
            ledger.refuse(number, refused)
            last = None
    for block in open_blocks:
        ledger.refuse(block.line, Refused(f"the block of {block.keyword!r} is never closed", hint="add a }"))
    return root


def _without_comment(line: str) -> str:
    quoted = False
    for at, char in enumerate(line):
        if char == '"':
            quoted = not quoted
        elif char in "#!" and not quoted:
            return line[:at]
    return line


def _condition(line: str, config_id: str) -> str | None:
    match = re.match(r"\s*@(\^?)(\S+)(.*)$", line)
    if not match:
        return line
    return match[3] if (match[2] == config_id) != bool(match[1]) else None


def _substituted(line: str, parameters: dict[str, str]) -> str:
    if _PARAMETER.match(line):
        return line
    for _ in range(8):
        # A value may itself name parameters; one that is not defined stays as it is.
        changed = _USE.sub(lambda use: parameters.get(use[1] or use[2], use[0]), line)
        if changed == line or len(changed) > 65536:
            break
        line = changed
    return line


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="")
    lexer.whitespace_split, lexer.commenters, lexer.quotes, lexer.escape = True, "", '"', ""
    try:
        return list(lexer)
    except ValueError:
        raise Refused("an unmatched double quote", hint='close it with "') from None
