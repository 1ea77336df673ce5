"""kernlb simulate"""

import sys
from pathlib import Path

import click

from kernlb.cli import changes, output
from kernlb.cli.options import file_argument
from kernlb.cli.root import verb
from kernlb.cli.session import Session
from kernlb.errors import ConfigError, Mistake
from kernlb.simulation import Change, parsed, simulate


@verb("simulate")
@file_argument
@click.option(
    "--script",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    required=True,
    help="What the servers do and what the operator orders, one event a line.",
)
@click.option(
    "--accept-loss", is_flag=True, help="Go on without the lines of a foreign file that cannot be carried out."
)
def command(session: Session, file: str, format: str | None, script: Path, accept_loss: bool) -> int:
    """Show weights over time under scripted failures. Touches no kernel and takes no time.

    \b
    A script:
      5s    down         web/s1        refuses connections (silent: answers nothing)
      20s   up           web/s1
      0s    time         web/s2  30ms  how long its answers take
      30s   drain        web/s3  60s
      30s   connections  web/s3  4     live ones that the drain waits for
      90s   resume       web/s3        or disable; or weight web/s3 5
      120s  end

    Exit status: 0, 1 error.
    """
    source = changes.read_source(file, format, accept_loss=accept_loss)
    found = list(simulate(source.config, parsed(_text(script), str(script), source.config)))
    if session.as_json:
        output.facts({"changes": [_document(change) for change in found]})
        return 0
    for change in found:
        name = f"{change.service}/{change.server}"
        weights = f"{_weight(change.before)} -> {_weight(change.weight)}"
        click.echo(f"{change.at:>10.3f} s  {name:<30} {weights:<18} {change.status}")
    return 0


def _text(script: Path) -> str:
    try:
        return sys.stdin.read() if str(script) == "-" else script.read_text()
    except UnicodeDecodeError as error:
        raise ConfigError(str(script), [Mistake("", "not UTF-8 text")]) from error
    except OSError as error:
        raise ConfigError(str(script), [Mistake("", f"cannot read: {error.strerror}")]) from error


def _document(change: Change) -> dict[str, object]:
    return {
        "at": round(change.at, 3),
        "service": change.service,
        "server": change.server,
        "before": change.before,
        "weight": change.weight,
        "status": change.status,
    }


def _weight(weight: float | None) -> str:
    return "out" if weight is None else f"{weight:g}"
