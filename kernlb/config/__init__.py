"""Text of a configuration to a Config, and back. Opens no file: the caller reads, and names what it read.

Importing this loads the values only; pydantic comes with the first file.
"""

from typing import Any

from kernlb.config.values import Config
from kernlb.errors import Mistake

__all__ = ["Config", "advice", "load", "mistakes", "schema", "write"]


def load(text: str | bytes, file: str) -> Config:
    """A kernlb.toml. Raises ConfigError with every mistake in it, each with its line."""
    from kernlb.config.border import load

    return load(text, file)


def mistakes(config: Config) -> tuple[Mistake, ...]:
    """What cannot work in a Config that came from another format; without lines, which only that format knows."""
    from kernlb.config.border import mistakes

    return mistakes(config)


def advice(config: Config, text: str | bytes | None = None, file: str = "") -> tuple[Mistake, ...]:
    """What works, but probably not as meant. Lines where the text of a kernlb.toml is given."""
    from kernlb.config.border import advice

    return advice(config, text, file)


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of kernlb.toml."""
    from kernlb.config.json_schema import schema

    return schema()


def write(config: Config) -> str:
    """kernlb.toml of a Config, without what is default: load(write(config)) == config."""
    from kernlb.config.writer import write

    return write(config)
