"""Bytes to a TOML document, or one mistake with its line. Knows no key of ours."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from kernlb.errors import ConfigError, Mistake

MAX_BYTES = 8 << 20
"""10,000 services of 10 servers take half of it; a file beyond it is not a configuration."""

MAX_DEPTH = 32
_POSITION = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")


def read(text: str | bytes, file: str) -> tuple[str, Mapping[str, Any]]:
    """The text as it is counted in lines, and the document in it. Raises ConfigError with one mistake."""
    if len(text) > MAX_BYTES:
        raise _broken(file, f"{len(text):,} bytes are too many for a configuration", 1, f"at most {MAX_BYTES:,}")
    text = _decoded(text, file) if isinstance(text, bytes) else text.removeprefix("\ufeff")
    if (nul := text.find("\0")) >= 0:
        raise _broken(file, "a NUL byte: this is not a text file", _line(text, nul), "is it the right file?")
    if (deep := _too_deep(text)) is not None:
        raise _broken(file, f"a key of more than {MAX_DEPTH} parts", deep, "no key of kernlb goes so deep")
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _broken(file, *_explained(str(error), text)) from None
    except RecursionError:
        raise _broken(file, "nested too deep", None, "no value of kernlb goes so deep") from None
    except ValueError:
        # Python refuses to convert numbers of thousands of digits.
        long = re.search(r"\d{4300}", text.replace("_", ""))
        where = _line(text, long.start()) if long and "_" not in text else None
        raise _broken(file, "a number of too many digits", where, "write a smaller number") from None


def _decoded(data: bytes, file: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _broken(file, "this is UTF-16", 1, "save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _broken(file, f"byte {data[error.start]:#04x} is not UTF-8", line, "save the file as UTF-8") from None


def _too_deep(text: str) -> int | None:
    """tomllib takes time with the square of a key's parts."""
    if not any(character in text for character in ".["):
        return None
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MAX_DEPTH and re.split(r"[=\"'#]", line, maxsplit=1)[0].count(".") > MAX_DEPTH:
            return number
    return None


def _explained(message: str, text: str) -> tuple[str, int | None, str | None]:
    """tomllib's message without its position, the line, and what usually helps."""
    found = _POSITION.search(message)
    what = message[: found.start()] if found else message
    last = text.count("\n") + (not text.endswith("\n"))
    line = None if not found else int(found[1]) if found[1] else max(1, last)
    what = "".join(c if c.isprintable() else "?" for c in what)[:200]
    hint = None
    if "Cannot overwrite" in what or "Cannot declare" in what or "Cannot mutate" in what:
        what, hint = f"defined twice ({what})", "keep one of the two"
    elif "Invalid value" in what:
        hint = "text goes in quotes"
    elif "Expected '='" in what:
        hint = "every line is key = value, or a [table]; is this a TOML file? Other formats: --format"
    return what[:1].lower() + what[1:], line, hint


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _broken(file: str, message: str, line: int | None, hint: str | None) -> ConfigError:
    return ConfigError(file, [Mistake("", message, line, hint)])
