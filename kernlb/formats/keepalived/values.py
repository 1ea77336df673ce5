"""The words of a statement as values: numbers, times, flags, addresses."""

import re
from ipaddress import ip_address

from kernlb.formats.keepalived.syntax import Statement
from kernlb.formats.report import Refused
from kernlb.model import IPAddress


def number(statement: Statement, *, lowest: int = 0, highest: int, at: int = 1) -> int:
    word = statement.argument(at)
    if not (word.isascii() and word.isdecimal() and len(word) < 12 and lowest <= int(word) <= highest):
        raise Refused(f"{statement.keyword!r} takes a number from {lowest} to {highest}, not {word!r}")
    return int(word)


def signed(statement: Statement, *, most: int) -> int:
    word = statement.argument()
    if not re.fullmatch(r"[+-]?[0-9]{1,10}", word, re.ASCII) or abs(int(word)) > most:
        raise Refused(f"{statement.keyword!r} takes a number from {-most} to {most}, not {word!r}")
    return int(word)


def flag(statement: Statement) -> bool:
    word = statement.words[1].lower() if len(statement.words) > 1 else "true"
    if word in ("true", "on", "yes"):
        return True
    if word in ("false", "off", "no"):
        return False
    raise Refused(f"{statement.keyword!r} takes true or false, not {word!r}")


def address(word: str) -> IPAddress:
    try:
        return ip_address(word)
    except ValueError:
        raise Refused(f"{word!r} is no address") from None


def seconds(statement: Statement) -> float:
    word = statement.argument()
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?", word) or not float(word):
        raise Refused(f"{statement.keyword!r} takes seconds, not {word!r}")
    return float(word)
