"""What kernlb must remember across processes: what it owns, what it was told, what is leaving. One JSON file.

Written atomically, so a reader sees the old file or the new one. Ownership from another boot or another network
namespace is void, because the kernel's state went with it; operator overrides stay.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kernlb.desired import Name
from kernlb.errors import KernlbError
from kernlb.keytext import key_from, key_text, value_from, value_text
from kernlb.model import Key, ServerKey
from kernlb.ownership import Claimed, Ownership, Shared, Written
from kernlb.places import boot_id, namespace_inode
from kernlb.pool import Hold, Override, ServerName

SCHEMA = 1
_TOGETHER = 32
_NAME = fields(Name)


@dataclass(frozen=True, slots=True)
class Life:
    """Where the kernel's state lives: it ends with the boot, and with the network namespace."""

    boot: str
    namespace: int

    @classmethod
    def now(cls) -> "Life":
        return cls(boot_id(), namespace_inode())


@dataclass(frozen=True, slots=True)
class State:
    """`leaving` gives, for each real server that was quiesced to be removed, the time (seconds since the epoch) at
    which it goes even with live connections. `health` is the checker's own record, opaque here."""

    life: Life
    ownership: Ownership = field(default_factory=Ownership)
    names: Mapping[Key, Name] = field(default_factory=dict)
    leaving: Mapping[ServerKey, float] = field(default_factory=dict)
    overrides: Mapping[ServerName, Override] = field(default_factory=dict)
    health: Mapping[str, Any] = field(default_factory=dict)

    def reborn(self, life: Life) -> "State":
        """The state as it holds now: after a reboot nothing in the kernel is kernlb's."""
        if self.life == life:
            return self
        return replace(self, life=life, ownership=Ownership(), names={}, leaving={})


class StateError(KernlbError):
    """The state file cannot be read or written."""

    kind = "state"


def write_whole(path: Path, text: str) -> None:
    """A reader sees the old file or the new one. Raises StateError, with the old one intact."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".state-")
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise StateError(
            f"cannot write the state: {error.strerror}",
            where=str(path),
            hint="make room, or choose another place with --state-dir",
        ) from error


def write_or_aside(path: Path, aside: Path | None, text: str) -> StateError | None:
    """Where the disk is full or not writable, the text lies aside until there is room, and what is wrong is returned.
    Raises StateError, with what was there before intact, where it cannot lie there either."""
    try:
        write_whole(path, text)
    except StateError as error:
        if aside is None:
            raise
        with suppress(StateError):
            write_whole(aside, text)
            return error
        raise
    if aside is not None and aside.exists():
        aside.unlink()
    return None


class Store:
    """`aside` is a place that lives as long as the kernel's state, for where the other has no room. What lies there is
    newer."""

    def __init__(self, path: Path, *, aside: Path | None = None) -> None:
        self.path = path
        self._aside = aside if aside != path else None
        self._texts: dict[str, tuple[object, str]] = {}

    def load(self) -> State:
        """The state, or an empty one where there is none. Raises StateError where it cannot be understood."""
        life = Life.now()
        place = self._aside if self._aside is not None and self.lies_aside else self.path
        try:
            document = json.loads(place.read_text())
        except FileNotFoundError:
            return State(life)
        except (OSError, ValueError) as error:
            raise _unreadable(place, error) from error
        try:
            return _from_document(document).reborn(life)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _unreadable(place, error) from error

    def save(self, state: State) -> StateError | None:
        """As `write_or_aside`."""
        return write_or_aside(self.path, self._aside, self._text(state))

    @property
    def lies_aside(self) -> bool:
        return self._aside is not None and self._aside.exists()

    def _text(self, state: State) -> str:
        """What is the same object as the last time is not written out again: there may be ten thousand names."""
        for part, (source, document) in _parts(state).items():
            if part not in self._texts or self._texts[part][0] is not source:
                self._texts[part] = source, _indented(document(source))
        return "{\n" + ",\n".join(f'"{part}": {text}' for part, (_, text) in self._texts.items()) + "\n}\n"


def _unreadable(path: Path, error: Exception) -> StateError:
    if isinstance(error, OSError):
        hint = "run as root, or choose another place with --state-dir"
        return StateError(f"cannot read the state: {error.strerror}", where=str(path), hint=hint)
    return StateError(
        f"cannot read the state: {error or type(error).__name__}",
        where=str(path),
        hint="move the file away: kernlb then owns nothing, and --adopt takes its services over again",
    )


def _parts(state: State) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """By its name in the file, what each part is made from, and how."""
    return {
        "schema": (SCHEMA, int),
        "boot": (state.life.boot, str),
        "namespace": (state.life.namespace, int),
        "owned": (state.ownership.claimed, lambda claimed: sorted(key_text(key) for key in claimed)),
        "shared": (state.ownership.shared, _shared),
        "names": (state.names, lambda names: {key_text(key): _name(name) for key, name in names.items()}),
        "leaving": (state.leaving, lambda leaving: {key_text(key): deadline for key, deadline in leaving.items()}),
        "overrides": (state.overrides, _overrides),
        "health": (state.health, dict),
    }


def _indented(document: Any) -> str:
    """A line for some entries. Written in small pieces: one of a megabyte would keep all other threads waiting, and one
    an entry takes twice the time."""
    if isinstance(document, dict):
        entries = iter(document.items())
        return _lines("{}", (json.dumps(dict(some)) for some in iter(lambda: list(islice(entries, _TOGETHER)), [])))
    if isinstance(document, list):
        items = iter(document)
        return _lines("[]", (json.dumps(some) for some in iter(lambda: list(islice(items, _TOGETHER)), [])))
    return json.dumps(document)


def _lines(brackets: str, pieces: Iterable[str]) -> str:
    inside = ",\n ".join(piece[1:-1] for piece in pieces)
    return f"{brackets[0]}\n {inside}\n{brackets[1]}" if inside else brackets


def _shared(shared: Mapping[Shared, Written]) -> dict[str, Any]:
    return {key_text(key): [value_text(kept.original), value_text(kept.written)] for key, kept in shared.items()}


def _name(name: Name) -> dict[str, Any]:
    # asdict copies deeply, which takes ten times as long.
    return {each.name: getattr(name, each.name) for each in _NAME}


def _overrides(overrides: Mapping[ServerName, Override]) -> list[dict[str, Any]]:
    return [
        {"service": service, "server": server, **asdict(override)}
        for (service, server), override in sorted(overrides.items())
    ]


def _from_document(document: Mapping[str, Any]) -> State:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']}, this version knows {SCHEMA}")
    shared: dict[Shared, Written] = {}
    for text, (original, written) in document["shared"].items():
        key = key_from(text)
        assert isinstance(key, Shared)
        shared[key] = Written(value_from(original), value_from(written))
    claimed = [key for text in document["owned"] if isinstance(key := key_from(text), Claimed)]
    leaving = {k: float(at) for text, at in document["leaving"].items() if isinstance(k := key_from(text), ServerKey)}
    return State(
        life=Life(str(document["boot"]), int(document["namespace"])),
        ownership=Ownership(frozenset(claimed), shared),
        names={key_from(text): Name(**name) for text, name in document["names"].items()},
        leaving=leaving,
        overrides={(o["service"], o["server"]): _override(o) for o in document["overrides"]},
        health=dict(document["health"]),
    )


def _override(document: Mapping[str, Any]) -> Override:
    hold = document["hold"]
    return Override(
        document["weight"],
        Hold(hold) if hold else None,
        document["deadline"],
        bool(document["drained"]),
        document.get("since"),
    )
