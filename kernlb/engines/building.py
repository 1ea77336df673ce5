"""Which program runs: the object that is shipped, or the one that BCC compiles here for what is carried.

What is loaded is written down as one line, so that every process knows whether it does.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from kernlb.config.values import Loader
from kernlb.engines import Loaded, abi, specialise
from kernlb.engines.bcc_loader import SOURCE, Compilation
from kernlb.engines.bytecode import Code
from kernlb.engines.libbpf import Object
from kernlb.errors import KernlbError, Unsupported
from kernlb.resources import shipped

OBJECT = "balancer.bpf.o"
_WORDS = 3


class Maker(StrEnum):
    OBJECT = "object"
    BCC = "bcc"


@dataclass(frozen=True, slots=True)
class Build:
    """A program to load. `line` says which: its maker, its features, and a digest of all else that it is made of."""

    line: str
    settings: abi.Settings
    code: Code | None = None


class Builder:
    """Chooses. `lasting`: this process stays, so that `auto` may compile beside its work and change over later."""

    def __init__(self, loader: Loader, *, lasting: bool = False) -> None:
        self._loader = loader
        self._lasting = lasting
        self._under_way: tuple[str, Compilation] | None = None
        self._refused: dict[str, str] = {}
        self._maps: list[str] = []

    def ready(self) -> bool:
        """Whether a program waits to be loaded in the place of the one before."""
        return self._under_way is not None and self._under_way[1].done()

    def close(self) -> None:
        if self._under_way is not None:
            self._under_way[1].stop()
            self._under_way = None

    def choose(self, line: str, need: abi.Settings, programs: Sequence[str]) -> Build:
        """What has to run where `line` runs now. Raises Unsupported where BCC is asked for and cannot."""
        plain = self._object(need, programs)
        if self._loader is Loader.OBJECT:
            return plain
        wanted = self._line(Maker.BCC, need, programs)
        if _covers(line, wanted):
            return Build(line, need)
        if self._loader is Loader.BCC:
            return Build(wanted, need, self._compilation(need, programs).result())
        return self._beside(wanted, need, programs) or plain

    def refused(self, build: Build, programs: Sequence[str], error: KernlbError) -> Build:
        """What to load instead of what the kernel did not take. Raises the error where there is no choice."""
        if build.code is None or self._loader is Loader.BCC:
            raise error
        self._refused[build.line] = f"the kernel does not take what BCC compiled: {error.message}"
        return self._object(build.settings, programs)

    def written(self, build: Build) -> str:
        """The line and the reason, for whoever asks later."""
        return f"{build.line} {self._why(Maker(build.line.split(' ')[0]))}"

    def _why(self, maker: Maker) -> str:
        if self._loader is not Loader.AUTO:
            return f'engine.loader = "{self._loader}"'
        if maker is Maker.BCC:
            return "compiled for this configuration, which costs less a packet than the object for all"
        if self._under_way is not None:
            return "until BCC has compiled"
        if self._refused:
            return f"not BCC: {list(self._refused.values())[-1]}"
        return 'not BCC: it takes seconds, which a daemon has; write loader = "bcc" to wait for it'

    def _beside(self, wanted: str, need: abi.Settings, programs: Sequence[str]) -> Build | None:
        """What BCC has compiled by now; None where the object serves, for the time being or for good."""
        if self._under_way is not None and self._under_way[0] != wanted:
            self.close()
        if not self._lasting or wanted in self._refused or not (need.fullnat or need.transition):
            # Without a server there is nothing to be fast for, and one may come.
            return None
        try:
            if self._under_way is None:
                self._under_way = wanted, self._compilation(need, programs)
            if not self._under_way[1].done():
                return None
            code = self._under_way[1].result()
        except Unsupported as impossible:
            self._refused[wanted] = impossible.message
            self._under_way = None
            return None
        self._under_way = None
        return Build(wanted, need, code)

    def _compilation(self, need: abi.Settings, programs: Sequence[str]) -> Compilation:
        if not self._maps:
            with Object(object_path()) as opened:
                self._maps = opened.map_names()
        return Compilation(object_path().parent, need, programs=programs, maps=self._maps)

    def _object(self, need: abi.Settings, programs: Sequence[str]) -> Build:
        every = specialise.general(need)
        return Build(self._line(Maker.OBJECT, every, programs), every)

    def _line(self, maker: Maker, settings: abi.Settings, programs: Sequence[str]) -> str:
        features = ",".join(specialise.features(settings)) or "-"
        constants = {name: value for name, value in asdict(settings).items() if name not in specialise.FEATURES}
        if maker is Maker.OBJECT:
            made_of = object_path().read_bytes()
        else:
            made_of = b"".join(path.read_bytes() for path in sources(object_path().parent))
        rest = hashlib.sha256(made_of + repr((sorted(constants.items()), tuple(programs))).encode()).hexdigest()
        return f"{maker} {features} {rest}"


def line_of(written: str) -> str:
    return " ".join(written.split(" ")[:_WORDS])


def loaded_by(written: str) -> Loaded | None:
    """What to say of the program that runs; None where another version of kernlb has written it down."""
    words = written.split(" ", _WORDS)
    if len(words) <= _WORDS:
        return None
    maker, features, _, why = words
    return Loaded(maker, tuple(features.split(",")) if features != "-" else (), why)


def object_path() -> Path:
    path = Path(str(shipped("bpf") / OBJECT))
    if not path.is_file():
        raise Unsupported("the eBPF program is not built", where=str(path), hint="make -C bpf (needs clang)")
    return path


def sources(directory: Path) -> list[Path]:
    """All that BCC reads of ours."""
    return [directory / SOURCE, *sorted(directory.glob("*.h")), *sorted((directory / "bcc").rglob("*.h"))]


def _covers(have: str, wanted: str) -> bool:
    """Whether the program of one line does what that of the other would: the same but for features it has besides."""
    if have.count(" ") != 2:
        return False
    (maker, features, rest), (other_maker, others, other_rest) = have.split(" "), wanted.split(" ")
    return (maker, rest) == (other_maker, other_rest) and set(others.split(",")) - {"-"} <= set(features.split(","))
