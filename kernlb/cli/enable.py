"""kernlb enable"""

from kernlb.cli import orders
from kernlb.cli.root import verb
from kernlb.cli.session import Session


@verb("enable")
@orders.server_arguments
def command(session: Session, service: str, server: str, check: bool) -> int:
    """End a disablement or a drain: the server takes connections again.

    The same as `kernlb resume`. What the configuration disables stays so until it says otherwise.

    Exit status: 0, 1 error.
    """
    return orders.resume(session, "enable", service, server, check=check)
