"""kernlb plan"""

import click

from kernlb.cli import changes, handover, output
from kernlb.cli.options import consent, consent_options, file_argument
from kernlb.cli.root import verb
from kernlb.cli.session import Session, need_net_admin
from kernlb.machine import wanted
from kernlb.reconciler import Consent
from kernlb.source import Source


@verb("plan")
@file_argument
@consent_options
def command(
    session: Session,
    file: str,
    format: str | None,
    accept_loss: bool,
    adopt: bool,
    shared_settings: bool,
    take_port: bool,
    force: bool,
) -> int:
    """Say what apply would do, line by line, and do nothing.

    Lines begin with + (added), ~ (changed) or - (removed). A removal says how many live connections it would break
    if it did not wait for them.

    Exit status: 0 nothing to do, 2 changes, 1 error.
    """
    source = changes.read_source(file, format, accept_loss=accept_loss)
    need_net_admin("plan")
    allowed = consent(adopt=adopt, shared_settings=shared_settings, take_port=take_port, force=force)
    return 2 if foresee(session, source, format, allowed) else 0


def foresee(session: Session, source: Source, format: str | None, allowed: Consent) -> bool:
    """Says what apply would do, to people or in JSON; whether that is anything. Where a daemon runs, by the health that
    it knows and by its own consent, as its apply would be."""
    said = handover.plan(session, source, format=format)
    if said is None:
        reconciler = session.reconciler(source.config, allowed)
        state = reconciler.state
        plan = reconciler.plan(wanted(source.config, overrides=state.overrides, owned=state.ownership))
        said = changes.document(plan.operations, plan.names, plan.breaks) | {"warnings": plan.warnings}
    for warning in (*said["warnings"], *changes.obstacles(source.config)):
        output.note(warning)
    if session.as_json:
        output.facts({key: said[key] for key in ("changed", "operations")})
        return bool(said["changed"])
    for op in said["operations"]:
        output.change(changes.with_breaks(op["text"], op["breaks"]))
    if said["changed"]:
        click.echo(changes.summary((op["verb"] for op in said["operations"]), done=False))
    else:
        click.echo(f"nothing to do: the kernel is as {source.file} says")
    return bool(said["changed"])
