"""kernlb drain"""

import click

from kernlb import operator
from kernlb.cli import orders, output
from kernlb.cli.options import Duration
from kernlb.cli.root import verb
from kernlb.cli.session import Session


@verb("drain")
@orders.server_arguments
@click.option(
    "--deadline",
    type=Duration(),
    default="5m",
    show_default=True,
    help="How long its live connections may last; 0 takes the server out at once.",
)
@click.option("--no-wait", is_flag=True, help="Give the order and do not wait for its end.")
def command(session: Session, service: str, server: str, deadline: float, no_wait: bool, check: bool) -> int:
    """Empty a real server: no new connections, then out of the kernel.

    The server gets weight 0, and clients that persistence sends to it go elsewhere. It is taken out when its last
    connection has ended, or at the deadline. UDP flows have no end: one counts until it was silent for the kernel's
    UDP timeout. The order outlives restarts, of the daemon and of the machine. `kernlb resume` ends it.

    Exit status: 0, 1 error.
    """
    said = orders.give(
        session,
        "drain",
        service,
        server,
        lambda overrides, name, now: operator.drain(overrides, name, now=now, deadline=now + deadline),
        check=check,
        deadline=deadline,
    )
    if check:
        return orders.report(session, said, "", check=True)
    if no_wait:
        if said["through"] == "kernel" and not said["drained"]:
            output.note("no daemon runs: `kernlb drain` again, or `kernlb run`, takes the server out")
    else:
        said = orders.watch(session, said)
    text = "is out" if said["drained"] else "is draining" if said["hold"] == "drain" else "was resumed meanwhile"
    return orders.report(session, said, text, check=False)
