"""kernlb reload"""

from kernlb.cli import handover
from kernlb.cli.root import verb
from kernlb.cli.session import Session


@verb("reload")
def command(session: Session) -> int:
    """Have the daemon read its file again; returns when the kernel is as the file says.

    The file is checked and planned first. Where it cannot be used, the old configuration stays in force, and the
    mistakes are shown here.

    Exit status: 0, 1 error.
    """
    handover.taken(session, handover.client(session).ask("POST", "/reload"))
    return 0
