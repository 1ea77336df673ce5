"""Operations tried on a Table before anything is written: as many as fit, and why the next one does not."""

from collections.abc import Sequence
from errno import EEXIST, EINVAL, ENOENT

from kernlb.engines.nexthops import ports
from kernlb.engines.placement import refusal
from kernlb.errors import KernelError, KernlbError, Unsupported
from kernlb.model import Forwarding, RealServer, Table, VirtualService
from kernlb.plan import Operation, Verb, play
from kernlb.ports import PortRange
from kernlb.text import thing


def played(
    operations: Sequence[Operation], before: Table, *, within: PortRange | None = None
) -> tuple[Table, int, KernlbError | None]:
    """The Table after as many operations as fit, how many those are, and why the next one does not. `within`: the ports
    of full NAT."""
    for operation in operations:
        refused = _unsupported(operation, within)
        if refused is not None:
            break
    else:
        try:
            return play(operations, before), len(operations), None
        except (KeyError, ValueError):
            pass
    table = before
    for done, operation in enumerate(operations):
        refused = _unsupported(operation, within)
        if refused is not None:
            return table, done, refused
        try:
            table = play([operation], table)
        except (KeyError, ValueError) as error:
            return table, done, _misfit(operation, error)
    return table, len(operations), None


def _unsupported(operation: Operation, within: PortRange | None) -> KernlbError | None:
    what = thing(operation.key)
    if not isinstance(operation.after, VirtualService | RealServer | None):
        return KernelError(f"cannot {operation.verb} {what}", errno=EINVAL, where=what)
    reason = refusal(operation.after) if operation.after is not None else None
    hint = 'see engine = "ipvs", or forwarding fullnat, direct or tunnel'
    translated = isinstance(operation.after, RealServer) and operation.after.forwarding is Forwarding.FULLNAT
    if translated and operation.verb is Verb.ADD and not ports(within):
        reason = f"net.ipv4.ip_local_port_range leaves no port{f' of {within}' if within else ''} for full NAT"
        hint = "kernlb doctor says what mends it"
    return Unsupported(f"cannot {operation.verb} {what}: {reason}", where=what, hint=hint) if reason else None


def _misfit(operation: Operation, error: Exception) -> KernelError:
    what = thing(operation.key)
    reason = "not there" if isinstance(error, KeyError) else "there already"
    if isinstance(error, KeyError) and error.args[0] != operation.key:
        reason = f"no {thing(error.args[0])}"
    number = ENOENT if isinstance(error, KeyError) else EEXIST
    return KernelError(f"cannot {operation.verb} {what}: {reason}", errno=number, where=what)
