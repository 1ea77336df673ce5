"""The conditional blocks of haproxy.cfg: .if, .elif, .else, .endif and their expressions (manual, section 2.4)."""

import re
from collections.abc import Mapping, Sequence

from kernlb.formats.report import Refused

# What the words of this project's own reading stand for: the oldest HAProxy whose manual it follows.
VERSION = (2, 6, 0)
_TOKEN = re.compile(r"\s*(?:(&&|\|\||!|\(|\))|([a-z_]+)\(([^()]*)\)|(-?[0-9]+))\s*")
_DEEPEST = 32


class Blocks:
    """Which lines count. Fed with the directives in order."""

    def __init__(self) -> None:
        # One entry a level: whether its lines count now, whether a branch was taken yet, whether .else has come.
        self._levels: list[tuple[bool, bool, bool]] = []

    @property
    def active(self) -> bool:
        return all(now for now, _, _ in self._levels)

    @property
    def open(self) -> bool:
        return bool(self._levels)

    def directive(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        """Takes .if, .elif, .else or .endif. Raises Refused where they do not pair."""
        name, expression = words[0], " ".join(words[1:])
        if name == ".if":
            if len(self._levels) >= _DEEPEST:
                raise Refused("too many nested .if", hint=f"at most {_DEEPEST}")
            # Within a block that does not count, conditions are not even looked at.
            true = self.active and holds(expression, environ)
            self._levels.append((true, true, False))
            return
        if not self._levels:
            raise Refused(f"lone {name} with no matching .if")
        _, taken, closed = self._levels.pop()
        if name == ".endif":
            return
        if closed:
            raise Refused(f"{name} after .else")
        outer = self.active
        true = outer and not taken and (name == ".else" or holds(expression, environ))
        self._levels.append((true, taken or true, name == ".else"))


def holds(expression: str, environ: Mapping[str, str]) -> bool:
    """Whether a condition is true. Raises Refused for one that cannot be read."""
    tokens: list[re.Match[str]] = []
    at = 0
    while at < len(expression.rstrip()):
        match = _TOKEN.match(expression, at)
        if not match or len(tokens) > 256:
            raise Refused(
                f"cannot read the condition {expression!r}", hint="defined(NAME), streq(A,B), 0, 1, !, &&, ||"
            )
        tokens.append(match)
        at = match.end()
    if not tokens:
        return False
    value, rest = _either(tokens, environ)
    if rest:
        raise Refused(f"cannot read the condition {expression!r} from {rest[0][0].strip()!r} on")
    return value


Rest = list[re.Match[str]]


def _either(tokens: Rest, environ: Mapping[str, str]) -> tuple[bool, Rest]:
    value, tokens = _all(tokens, environ)
    while tokens and tokens[0][1] == "||":
        other, tokens = _all(tokens[1:], environ)
        value = value or other
    return value, tokens


def _all(tokens: Rest, environ: Mapping[str, str]) -> tuple[bool, Rest]:
    value, tokens = _term(tokens, environ)
    while tokens and tokens[0][1] == "&&":
        other, tokens = _term(tokens[1:], environ)
        value = value and other
    return value, tokens


def _term(tokens: Rest, environ: Mapping[str, str]) -> tuple[bool, Rest]:
    if not tokens:
        raise Refused("a condition ends too early")
    head, rest = tokens[0], tokens[1:]
    if head[1] == "!":
        value, rest = _term(rest, environ)
        return not value, rest
    if head[1] == "(":
        value, rest = _either(rest, environ)
        if not rest or rest[0][1] != ")":
            raise Refused("a condition lacks its closing parenthesis")
        return value, rest[1:]
    if head[4] is not None:
        return int(head[4]) != 0, rest
    if head[2] is not None:
        return _predicate(head[2], [part.strip() for part in head[3].split(",")], environ), rest
    raise Refused(f"unexpected {head[0].strip()!r} in a condition")


def _predicate(name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    match name, arguments:
        case "defined", [variable]:
            return variable in environ
        case "streq", [one, other]:
            return one == other
        case "strneq", [one, other]:
            return one != other
        case "version_atleast", [version]:
            return _version(version) <= VERSION
        case "version_before", [version]:
            return _version(version) > VERSION
        case "feature", [_]:
            # Which features a HAProxy was built with says nothing of this machine.
            return True
    raise Refused(f"unknown predicate {name!r} in a condition", hint="defined, streq, strneq, version_atleast, feature")


def _version(text: str) -> tuple[int, ...]:
    parts = re.findall(r"[0-9]+", text)[:3]
    return tuple(int(part) for part in parts) if parts else (0,)
