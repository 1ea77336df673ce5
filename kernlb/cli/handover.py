"""What the command line asks of a daemon that runs in the namespace."""

from collections.abc import Callable
from os.path import realpath
from typing import Any

import click
from click.core import ParameterSource

from kernlb.cli import output
from kernlb.cli.session import Session
from kernlb.control_client import ControlClient, NoDaemon, error_of
from kernlb.errors import KernlbError, Refused
from kernlb.source import Source

_ITS_OWN = ("deadline", "accept_loss", "adopt", "shared_settings", "take_port", "force")
"""Options of `apply` and `plan` that a daemon was given its own of."""


def client(session: Session, *, timeout: float = 120.0) -> ControlClient:
    return ControlClient(session.places().control, timeout=timeout)


def plan(session: Session, source: Source, *, format: str | None) -> dict[str, Any] | None:
    """What the daemon would do with the file; None where none runs."""
    return _asked(client(session), "/plan", **_content(source, format))


def apply(
    session: Session,
    source: Source,
    *,
    format: str | None,
    temporary: bool,
    confirm: float | None,
    confirmed: Callable[[float], bool],
) -> int | None:
    """Has the daemon take the file; None where none runs. Unless it is `confirmed` within `confirm` seconds the daemon
    puts back what it had, whatever becomes of this process."""
    daemon = client(session)
    said = _asked(daemon, "/apply", **_content(source, format), temporary=temporary, confirm=confirm)
    if said is None:
        return None
    taken(session, said)
    if confirm is None or not said["changed"]:
        return 0
    if confirmed(confirm):
        if daemon.ask("POST", "/confirm", keep=True)["pending"]:
            return 0
        output.note("too late: what was there before was put back, or something else has taken its place")
        return 1
    output.note("not confirmed: the daemon puts back what was there before")
    daemon.ask("POST", "/confirm", keep=False)
    return 1


def _asked(daemon: ControlClient, path: str, **body: object) -> dict[str, Any] | None:
    """None where none runs; what of the command line does not reach it is told."""
    try:
        said = daemon.ask("POST", path, **body)
    except NoDaemon:
        return None
    except KernlbError:
        _tell_unheeded()
        raise
    _tell_unheeded()
    return said


def _tell_unheeded() -> None:
    source = click.get_current_context().get_parameter_source
    if given := [f"--{name.replace('_', '-')}" for name in _ITS_OWN if source(name) is ParameterSource.COMMANDLINE]:
        output.note(f"{', '.join(given)} not heeded: a daemon goes by what `kernlb run` was started with")


def _content(source: Source, format: str | None) -> dict[str, str | None]:
    file = source.file if source.file == "standard input" else realpath(source.file)
    return {"file": file, "format": format, "content": source.content.decode(errors="surrogateescape")}


def taken(session: Session, said: dict[str, Any]) -> None:
    """What came of a reload or an apply through the daemon. Raises Refused where services could not be had."""
    if session.as_json:
        output.facts(said)
    else:
        _print(said)
    if said["refused"]:
        raise Refused({owner: error_of(each) for owner, each in said["refused"].items()})


def _print(said: dict[str, Any]) -> None:
    for warning in said["warnings"]:
        output.note(warning)
    for operation in said["operations"]:
        output.change(operation["text"])
    if said["leaving"]:
        output.note(f"{said['leaving']} server(s) leave when their connections have ended; the daemon sees to it")
    if said["temporary"]:
        output.note("until the daemon's next reload")
    if said["changed"]:
        click.echo("done, through the daemon")
    elif not said["refused"]:
        click.echo(f"nothing to do: the kernel is as {said['file']} says")
