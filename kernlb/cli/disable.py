"""kernlb disable"""

from kernlb import operator
from kernlb.cli import orders
from kernlb.cli.root import verb
from kernlb.cli.session import Session


@verb("disable")
@orders.server_arguments
def command(session: Session, service: str, server: str, check: bool) -> int:
    """Give a real server no new connections until it is enabled.

    It stays in the kernel with weight 0 and keeps the connections it has, for as long as they last.

    Exit status: 0, 1 error.
    """
    said = orders.give(
        session,
        "disable",
        service,
        server,
        lambda overrides, name, now: operator.disable(overrides, name, now=now),
        check=check,
    )
    return orders.report(session, said, "is disabled", check=check)
