"""Which line of a TOML text each key and element stands on. Reads only what tomllib has accepted; values it ignores.

Runs only once there is a mistake to report, so that a correct file never pays for it.
"""

import re
import tomllib

Path = tuple[str | int, ...]

_SPACE = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_BLANK = re.compile(r"[ \t]*+")
_BARE = re.compile(r"[A-Za-z0-9_-]++")
# Not possessive: under DOTALL Python 3.11 then finds no end in """a""""", which ends with quotes of its own.
_STRING = re.compile(
    r'"""(?:[^"\\]+|\\.|"(?!""))*"{3,5}'
    r"|'''(?:[^']+|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]+|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^\s,\]}#]++(?: \d[^\s,\]}#]*+)?")


class _Array:
    __slots__ = ("count", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0


class _Inline:
    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.counted = 0
        self.found: dict[Path, int] = {}
        self.elements: dict[Path, int] = {}  # arrays of tables: index of the last element

    def run(self) -> dict[Path, int]:
        table: Path = ()
        self.skip(_SPACE)
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self.header()
            else:
                self.value(self.key(table))
            self.skip(_SPACE)
        return self.found

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()

    def note(self, path: Path) -> None:
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        self.found.setdefault(path, self.line)

    def header(self) -> Path:
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        path: Path = ()
        while True:
            self.skip(_BLANK)
            path = (*path, self.part())
            self.skip(_BLANK)
            last = not self.text.startswith(".", self.at)
            if last and array:
                self.note(path)
                self.elements[path] = self.elements.get(path, -1) + 1
            if path in self.elements:
                path = (*path, self.elements[path])
            self.note(path)
            if last:
                # A header says more of its table than the mention of it in an earlier one: [a.b] before [a].
                self.found[path] = self.line
                self.at += 2 if array else 1
                return path
            self.at += 1

    def key(self, table: Path) -> Path:
        path = table
        while True:
            self.skip(_BLANK)
            path = (*path, self.part())
            self.note(path)
            self.skip(_BLANK)
            separator = self.text[self.at : self.at + 1]
            self.at += 1
            if separator != ".":
                return path

    def part(self) -> str:
        bare = _BARE.match(self.text, self.at)
        match = bare or _STRING.match(self.text, self.at)
        if not match:
            raise ValueError(f"not TOML at offset {self.at}")
        self.at = match.end()
        if bare:
            return match[0]
        return str(tomllib.loads(f"k={match[0]}")["k"]) if "\\" in match[0] else match[0][1:-1]

    def value(self, path: Path) -> None:
        """One value; a stack instead of recursion, because arrays may nest as deep as the user likes."""
        stack: list[_Array | _Inline] = []
        self.begin(path, stack)
        while stack:
            self.skip(_SPACE)
            top = stack[-1]
            if self.text[self.at] in "]}":
                self.at += 1
                stack.pop()
            elif self.text[self.at] == ",":
                self.at += 1
            elif isinstance(top, _Array):
                element = (*top.path, top.count)
                top.count += 1
                self.note(element)
                self.begin(element, stack)
            else:
                self.begin(self.key(top.path), stack)

    def begin(self, path: Path, stack: list[_Array | _Inline]) -> None:
        self.skip(_BLANK)
        match self.text[self.at]:
            case "[":
                self.at += 1
                stack.append(_Array(path))
            case "{":
                self.at += 1
                stack.append(_Inline(path))
            case '"' | "'":
                self.skip(_STRING)
            case _:
                self.skip(_SCALAR)


def lines(text: str) -> dict[Path, int]:
    """The line of every path of a valid document, counted from 1."""
    return _Scanner(text).run()


def line_of(path: Path, found: dict[Path, int]) -> int:
    """The line of the path, or of the nearest thing around it that is written in the file."""
    while path and path not in found:
        path = path[:-1]
    return found.get(path, 1)
