"""How facts and complaints look: colours on a terminal, plain text in a pipe, JSON where asked."""

import json
import sys
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from kernlb.cli import coloured
from kernlb.errors import ConfigError, KernlbError, Mistake, Refused

if TYPE_CHECKING:
    from rich.console import Console

_LONG = 1 << 18
_COLOURS = {"+": "green", "~": "yellow", "-": "red"}


def facts(document: object) -> None:
    """One JSON document on stdout, spread out as long as people may read it: that takes ten times as long."""
    text = json.dumps(document, ensure_ascii=False)
    click.echo(text if len(text) > _LONG else json.dumps(document, indent=2, ensure_ascii=False))


def change(line: str) -> None:
    """A line of a plan, coloured by its sign."""
    click.secho(line, fg=_COLOURS.get(line[:1]))


def note(message: str) -> None:
    click.secho(f"kernlb: {message}", fg="yellow", err=True)


def console(*, stderr: bool = False) -> "Console":
    """Wide enough in a pipe that nothing is cut."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 200, highlight=False)


def complain(error: KernlbError) -> None:
    """An error on stderr: what, where and what to do next."""
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        traceback.print_exception(error)
    if "--json" in arguments:
        click.echo(json.dumps({"error": error_document(error)}, ensure_ascii=False), err=True)
        return
    if isinstance(error, ConfigError):
        for mistake in error.mistakes:
            click.echo(_mistake(error.file, mistake), err=True)
    for owner, each in error.refusals.items() if isinstance(error, Refused) else [("", error)]:
        click.secho(f"kernlb: {owner}{': ' if owner else ''}{each.message}", fg="red", err=True, color=coloured())
        if each.where and not isinstance(each, ConfigError):
            click.echo(f"  where: {each.where}", err=True)
        if each.hint:
            click.echo(f"  hint:  {each.hint}", err=True)


def error_document(error: KernlbError) -> dict[str, Any]:
    document: dict[str, Any] = {
        "kind": error.kind,
        "message": error.message,
        "where": error.where,
        "hint": error.hint,
    }
    if isinstance(error, ConfigError):
        document["mistakes"] = mistakes_document(error.mistakes)
    if isinstance(error, Refused):
        document["refusals"] = {owner: error_document(each) for owner, each in error.refusals.items()}
    return document


def mistakes_document(mistakes: Iterable[Mistake]) -> list[dict[str, Any]]:
    return [{"path": m.path, "line": m.line, "message": m.message, "hint": m.hint} for m in mistakes]


def _mistake(file: str, mistake: Mistake) -> str:
    where = f"{file}:{mistake.line}" if mistake.line else file
    path = click.style(mistake.path, bold=True)
    hint = f"\n    {mistake.hint}" if mistake.hint else ""
    return f"{where}: {path + ': ' if mistake.path else ''}{mistake.message}{hint}"


def program(loaded: dict[str, Any]) -> str:
    """The eBPF program that carries services, in a line, and where it hangs."""
    features = ", ".join(loaded["features"]) or "no feature that costs"
    where = "".join(f"; {each}" for each in loaded.get("attached", ()))
    return f"eBPF program by {loaded['loader']} ({features}): {loaded['why']}{where}"
