"""Progress of what takes long: one line that changes on a terminal, a line now and then in a pipe."""

import sys
import time
from collections.abc import Mapping

import click

from kernlb.cli import output
from kernlb.model import ServerKey
from kernlb.state import State
from kernlb.text import thing

_EVERY = 5.0


class Progress:
    """`print` writes facts to stdout; `waiting` tells on stderr what is being waited for."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._told = 0.0
        self._shown = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._wipe()

    def print(self, line: str) -> None:
        self._wipe()
        output.change(line)

    def waiting(self, servers: Mapping[ServerKey, int | None], state: State, *, deadline: float, now: float) -> None:
        """`deadline` seconds after a server was quiesced it goes, whatever is left."""
        if self._quiet:
            return
        live = sum(count or 0 for count in servers.values())
        first = next(iter(servers))
        left = max(0.0, max(state.leaving.get(key, now) for key in servers) + deadline - now)
        who = thing(first, state.names) if len(servers) == 1 else f"{len(servers)} leaving servers"
        message = f"waiting for {live} live connection(s) of {who}, {left:.0f} s at most"
        if self._live:
            click.echo(f"\r\x1b[K{message}", err=True, nl=False)
            self._shown = True
        elif time.monotonic() - self._told >= _EVERY:
            output.note(message)
            self._told = time.monotonic()

    def _wipe(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._shown = False


class Line:
    """What is going on: one line that changes on a terminal, a line now and then in a pipe."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._told = float("-inf")
        self._shown = False

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)

    def show(self, message: str) -> None:
        if self._live:
            click.echo(f"\r\x1b[K{message}", err=True, nl=False)
            self._shown = True
        elif not self._quiet and time.monotonic() - self._told >= _EVERY:
            output.note(message)
            self._told = time.monotonic()
