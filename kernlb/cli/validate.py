"""kernlb validate"""

from typing import Any

import click

from kernlb.cli import output
from kernlb.cli.options import file_argument
from kernlb.cli.root import verb
from kernlb.cli.session import Session
from kernlb.config import advice
from kernlb.errors import ConfigError
from kernlb.formats.detect import Format
from kernlb.source import Source, read

_COLOURS = {"exact": "green", "approximated": "yellow", "dropped": "red"}


@verb("validate")
@file_argument
@click.option("--strict", is_flag=True, help="Exit 1 where lines of a foreign file are dropped.")
def command(session: Session, file: str, format: str | None, strict: bool) -> int:
    """Check a configuration and say every mistake in it.

    Of a foreign file (haproxy.cfg, keepalived.conf, ipvsadm rules) also says what becomes of each line: exact,
    approximated (with what differs) or dropped (with what to do instead). The kernel is not looked at.

    Exit status: 0 valid, 1 not.
    """
    try:
        source = read(file, format=Format(format) if format else None)
    except ConfigError as error:
        if not session.as_json:
            raise
        output.facts(_document(False, format, output.mistakes_document(error.mistakes), None))
        return 1
    for hint in advice(source.config, source.content if source.format is Format.TOML else None, source.file):
        where = f"{source.file}:{hint.line}: " if hint.line else ""
        output.note(f"{where}{hint.path}: {hint.message}" + (f" ({hint.hint})" if hint.hint else ""))
    if session.as_json:
        output.facts(_document(True, source.format, [], source))
    else:
        _print(source)
    return 1 if strict and source.dropped else 0


def _document(valid: bool, format: str | None, mistakes: list[Any], source: Source | None) -> dict[str, Any]:
    lines = source.lines if source else ()
    return {
        "valid": valid,
        "format": format,
        "mistakes": mistakes,
        "lines": [{"line": x.line, "text": x.text, "verdict": str(x.verdict), "note": x.note} for x in lines],
    }


def _print(source: Source) -> None:
    width = min(46, max((len(line.text) for line in source.lines), default=0))
    for line in source.lines:
        verdict = click.style(f"{line.verdict:<12}", fg=_COLOURS[line.verdict])
        click.echo(f"{line.line:>5}  {line.text:<{width}}  {verdict}  {line.note}".rstrip())
    count = len(source.config.services)
    servers = sum(len(service.servers) for service in source.config.services)
    tally = f", {len(source.dropped)} line(s) dropped" if source.lines else ""
    click.echo(f"{source.file}: valid {source.format}, {count} service(s), {servers} server(s){tally}")
