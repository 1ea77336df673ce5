"""A configuration file of whatever format, read and understood. Touches no kernel."""

import os
import socket
import sys
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from kernlb.config.values import Config
from kernlb.errors import ConfigError, KernlbError, Mistake
from kernlb.formats.detect import Format, detect
from kernlb.formats.report import Imported, Line
from kernlb.model import IPAddress

LIMIT = 64 << 20
"""Bytes of a configuration file; 1,000 services of 10 servers are 0.6 MB."""


@dataclass(frozen=True, slots=True)
class Source:
    """`lines` says what became of each line of a foreign file; empty for kernlb's own."""

    file: str
    format: Format
    config: Config
    content: bytes
    lines: tuple[Line, ...] = ()

    @property
    def dropped(self) -> tuple[Line, ...]:
        return Imported(self.config, self.lines).dropped


class Loss(KernlbError):
    """A foreign file holds lines that kernlb cannot carry out."""

    kind = "loss"


def read(file: str, *, format: Format | None = None) -> Source:
    """Read and understand a file; "-" is standard input. Raises ConfigError with every mistake."""
    name = "standard input" if file == "-" else file
    return understand(_content(file, name), name, format=format)


def understand(content: bytes, file: str, *, format: Format | None = None) -> Source:
    """What a file's content means. Raises ConfigError with every mistake."""
    # Importing a parser costs more than some verbs take: each is loaded when its format is met.
    if format is None:
        format = detect(content.decode(errors="replace"))
    if format is Format.TOML:
        from kernlb.config import load

        # What a full disk or a program that failed leaves would take every service away.
        if not content.strip():
            hint = "`kernlb clear` removes all services; so does a file with nothing but a comment"
            raise ConfigError(file, [Mistake("", "the file is empty", hint=hint)])
        return Source(file, format, load(content, file), content)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(file, [Mistake("", "not UTF-8 text", line, "save the file as UTF-8")]) from error
    imported = _foreign(text, file, format)
    from kernlb.config import mistakes

    # What an import cannot know to be impossible, the laws of every configuration still refuse.
    if wrong := mistakes(imported.config):
        raise ConfigError(file, wrong)
    return Source(file, format, imported.config, content, imported.lines)


def refuse_loss(source: Source) -> None:
    """Raises Loss where lines of the file would be dropped."""
    if source.dropped:
        listed = "\n".join(f"  {source.file}:{line.line}: {line.text}\n      {line.note}" for line in source.dropped)
        raise Loss(
            f"{len(source.dropped)} line(s) cannot be carried out:\n{listed}",
            where=source.file,
            hint="do as each note says, or go on without these lines with --accept-loss",
        )


def _foreign(text: str, file: str, format: Format) -> Imported:
    match format:
        case Format.HAPROXY:
            from kernlb.formats import haproxy

            return haproxy.read(text, file=file, environ=os.environ, resolve=_resolve)
        case Format.KEEPALIVED:
            from kernlb.formats import keepalived

            return keepalived.read(text, file=file)
        case _:
            from kernlb.formats import ipvsadm

            return ipvsadm.read(text, file=file, resolve=_resolve)


def _content(file: str, name: str) -> bytes:
    try:
        if file == "-":
            content = sys.stdin.buffer.read(LIMIT + 1)
        else:
            with Path(file).open("rb") as stream:
                content = stream.read(LIMIT + 1)
    except OSError as error:
        hint = "name a file: kernlb VERB FILE" if isinstance(error, FileNotFoundError) else None
        raise ConfigError(name, [Mistake("", f"cannot read: {error.strerror}", hint=hint)]) from error
    if len(content) > LIMIT:
        raise ConfigError(name, [Mistake("", f"larger than {LIMIT >> 20} MiB")])
    return content


def _resolve(host: str) -> list[IPAddress]:
    found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))
