"""Cuts a line of haproxy.cfg into words as HAProxy does: quotes, backslashes, comments, environment variables.

Rules: section 2.2 and 2.3 of HAProxy's configuration manual, and parse_line() of its tools.c. Knows no keyword.
"""

import string
from collections.abc import Mapping

from kernlb.formats.report import Refused

MAX_WORDS = 64
_SPECIAL = frozenset("\"'\\#$\t\r")
_BLANKS = " \t\r"
_NAME = frozenset(string.ascii_letters + string.digits + "_")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_LITERAL = frozenset(" #'\"\\")


def words(line: str, environ: Mapping[str, str]) -> list[str]:
    """The words of one line; none for a blank line or a comment. Raises Refused for what HAProxy cannot cut."""
    if _SPECIAL.isdisjoint(line) and line.isprintable():
        # Most lines quote nothing, and a file may name ten thousand servers.
        plain = [word for word in line.split(" ") if word]
        if len(plain) <= MAX_WORDS:
            return plain
    return _Cutter(line, environ).cut()


class _Cutter:
    def __init__(self, line: str, environ: Mapping[str, str]) -> None:
        self.line = line
        self.environ = environ
        self.at = 0
        self.words: list[str] = []
        self.word: list[str] = []
        self.open = False  # a word has begun, be it an empty one ("")

    def cut(self) -> list[str]:
        quoted = False
        while self.at < len(self.line):
            char = self.line[self.at]
            if char == '"':
                quoted = not quoted
                self._step(open_word=True)
            elif char == "'" and not quoted:
                self._strong()
            elif char == "\\":
                self._escape(quoted=quoted)
            elif char == "$" and quoted:
                self._variable()
            elif char in _BLANKS and not quoted:
                self._close()
                self.at += 1
            elif char == "#" and not quoted:
                break
            else:
                self.word.append(char)
                self._step(open_word=True)
        if quoted:
            raise Refused("unmatched double quote", hint='close it with ", or write \\" for the character itself')
        self._close()
        if len(self.words) > MAX_WORDS:
            raise Refused(f"too many words, at most {MAX_WORDS} are read", hint="missing quotes?")
        return self.words

    def _step(self, *, open_word: bool) -> None:
        self.open = self.open or open_word
        self.at += 1

    def _close(self) -> None:
        if self.open:
            self.words.append("".join(self.word))
        self.word, self.open = [], False

    def _strong(self) -> None:
        end = self.line.find("'", self.at + 1)
        if end < 0:
            raise Refused("unmatched single quote", hint="close it with ', or write \\' for the character itself")
        self.word.append(self.line[self.at + 1 : end])
        self.open = True
        self.at = end + 1

    def _escape(self, *, quoted: bool) -> None:
        following = self.line[self.at + 1 : self.at + 2]
        self.open = True
        if following == "x":
            digits = self.line[self.at + 2 : self.at + 4]
            if len(digits) != 2 or not set(digits) <= set(string.hexdigits):
                raise Refused("truncated or invalid hexadecimal sequence after \\x", hint="two digits, e.g. \\x20")
            self.word.append(chr(int(digits, 16)))
            self.at += 4
        elif following in _ESCAPES and following:
            self.word.append(_ESCAPES[following])
            self.at += 2
        elif following and (following in _LITERAL or (following == "$" and quoted)):
            self.word.append(following)
            self.at += 2
        else:
            # Any other backslash stands for itself, so that regular expressions need no second one.
            self.word.append("\\")
            self.at += 1

    def _variable(self) -> None:
        self.open = True
        start = self.at + 1
        braced = self.line[start : start + 1] == "{"
        start += braced
        end = start + (self.line[start : start + 1] == ".")
        while end < len(self.line) and self.line[end] in _NAME:
            end += 1
        name = self.line[start:end]
        if not name or name[0].isdigit():
            raise Refused("invalid variable name after $", hint="write \\$ for a dollar inside double quotes")
        if not braced:
            self.word.append(self.environ.get(name, ""))
            self.at = end
            return
        self._braced(name, end)

    def _braced(self, name: str, at: int) -> None:
        spread = self.line.startswith("[*]", at)
        at += 3 * spread
        close = self.line.find("}", at)
        rest = self.line[at:close]
        if close < 0 or (rest and not rest.startswith("-")):
            raise Refused(f"expecting }} at the end of ${{{name}", hint="${NAME} or ${NAME-default}")
        value = self.environ.get(name, rest[1:])
        if spread:
            # "${LIST[*]}" becomes one word for each of the variable's own.
            first, *others = value.split() or [""]
            self.word.append(first)
            for other in others:
                self._close()
                self.word, self.open = [other], True
        else:
            self.word.append(value)
        self.at = close + 1
