"""kernlb plan"""

import click

from kernlb.cli import changes, output
from kernlb.cli.options import consent, consent_options, file_argument
from kernlb.cli.root import verb
from kernlb.cli.session import Session, need_net_admin
from kernlb.machine import wanted
from kernlb.reconciler import Plan
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
) -> int:
    """Say what apply would do, line by line, and do nothing.

    Lines begin with + (added), ~ (changed) or - (removed). A removal says how many live connections it would break
    if it did not wait for them.

    Exit status: 0 nothing to do, 2 changes, 1 error.
    """
    source = changes.read_source(file, format, accept_loss=accept_loss)
    need_net_admin("plan")
    allowed = consent(adopt=adopt, shared_settings=shared_settings, take_port=take_port)
    reconciler = session.reconciler(source.config, allowed)
    plan = reconciler.plan(wanted(source.config, overrides=reconciler.state.overrides))
    report(session, plan, source)
    return 2 if plan.operations else 0


def report(session: Session, plan: Plan, source: Source) -> None:
    """What a plan says, to people or in JSON."""
    for warning in (*plan.warnings, *changes.obstacles(source.config)):
        output.note(warning)
    if session.as_json:
        output.facts(changes.document(plan.operations, plan.names, plan.breaks))
        return
    for op in plan.operations:
        output.change(changes.line(op, plan.names, plan.breaks))
    if plan.operations:
        click.echo(changes.summary(plan.operations, done=False))
    else:
        click.echo(f"nothing to do: the kernel is as {source.file} says")
