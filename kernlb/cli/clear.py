"""kernlb clear"""

import click

from kernlb.cli import changes, output
from kernlb.cli.root import verb
from kernlb.cli.session import Session, need_net_admin
from kernlb.config.values import Config
from kernlb.reconciler import Consent


@verb("clear")
def command(session: Session) -> int:
    """Remove from the kernel what kernlb owns, at once, and nothing else.

    Settings of the whole namespace go back to what they were where they still are as kernlb wrote them and no
    foreign service remains. Live connections through removed services end.

    Exit status: 0 done, 1 error.
    """
    need_net_admin("clear")
    session.places()
    with session.writing("clear"):
        reconciler = session.reconciler(Config(), Consent())
        names = dict(reconciler.state.names)
        operations = reconciler.clear()
    if session.as_json:
        output.facts(changes.document(operations, names, {}))
        return 0
    for op in operations:
        output.change(changes.line(op, names))
    summary = changes.summary((op.verb for op in operations), done=True)
    click.echo(summary or "nothing to clear: kernlb owns nothing here")
    return 0
