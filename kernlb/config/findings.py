"""Where in a document something is wrong, before it has a line."""

import re
from dataclasses import dataclass

from kernlb.errors import Mistake

Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Finding:
    path: Path
    message: str
    hint: str | None = None

    def mistake(self, line: int | None = None) -> Mistake:
        return Mistake(dotted(self.path), self.message, line, self.hint)


def dotted(path: Path) -> str:
    """`service.api.bind[0]`; a key that TOML would quote is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else _quoted(part))
    return text


def _quoted(key: str) -> str:
    shown = "".join(c if c.isprintable() and c not in '"\\' else "?" for c in key)
    return f'"{shown[:80]}"'
