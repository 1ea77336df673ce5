"""kernlb resume"""

from kernlb.cli import orders
from kernlb.cli.root import verb
from kernlb.cli.session import Session


@verb("resume")
@orders.server_arguments
def command(session: Session, service: str, server: str, check: bool) -> int:
    """End a drain or a disablement: the server takes connections again.

    A weight that was ordered stays. Where the server has a slow start, it starts slowly.

    Exit status: 0, 1 error.
    """
    return orders.resume(session, "resume", service, server, check=check)
