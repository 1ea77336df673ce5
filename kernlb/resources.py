"""Where the files that kernlb ships lie: inside the wheel, or beside the package in a source tree."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path


def shipped(kind: str) -> Traversable:
    """The directory of a kind of shipped file: "templates" or "bpf"."""
    packaged = files("kernlb") / kind
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / kind
