"""What turns the observed Table into the desired one, in an order that never takes traffic from where it can go.

Additions and changes come first, from the ground up: settings, source NAT, services, servers, marks, addresses.
Removals come last, from the top down. What did not change is not mentioned.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from kernlb.model import (
    CheckTimeoutsKey,
    Endpoint,
    ExemptKey,
    Fwmark,
    Key,
    LimitKey,
    MarkKey,
    RealServer,
    RulesetKey,
    ServerKey,
    SourceKey,
    SyncKey,
    SysctlKey,
    Table,
    TimersKey,
    Value,
    VipKey,
)


class Verb(StrEnum):
    ADD = "add"
    CHANGE = "change"
    QUIESCE = "quiesce"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Operation:
    """`before` is None for ADD, `after` for REMOVE. QUIESCE is a CHANGE of a leaving server's weight to 0."""

    verb: Verb
    key: Key
    before: Value | None
    after: Value | None


_GROUND_UP: tuple[type, ...] = (
    SysctlKey,
    TimersKey,
    SyncKey,
    CheckTimeoutsKey,
    # A connection whose first packet meets no source NAT never gets any: it comes before the server it is for.
    RulesetKey,
    SourceKey,
    LimitKey,
    Endpoint,
    Fwmark,
    ServerKey,
    ExemptKey,
    MarkKey,
    VipKey,
)
_RANK = {kind: rank for rank, kind in enumerate(_GROUND_UP)}


def diff(desired: Table, observed: Table) -> list[Operation]:
    """The operations that turn `observed` into `desired`, in the order to apply them."""
    forward = [
        Operation(Verb.CHANGE if key in observed else Verb.ADD, key, observed.get(key), want)
        for key, want in desired.items()
        if observed.get(key) != want
    ]
    backward = [
        Operation(Verb.REMOVE, key, have, None)
        for key, have in observed.items()
        # The kernel drops the servers of a service together with it.
        if key not in desired and not (isinstance(key, ServerKey) and key.service not in desired)
    ]
    # Within a kind the file's order holds: sorting is stable.
    forward.sort(key=lambda operation: _RANK[type(operation.key)])
    backward.sort(key=lambda operation: -_RANK[type(operation.key)])
    return forward + backward


def play(operations: Iterable[Operation], observed: Table) -> Table:
    """The Table after the operations, as any engine must leave it.

    Raises KeyError or ValueError where an operation does not fit what it meets, as a kernel would refuse it.
    """
    table = dict(observed)
    dropped = set()
    for operation in operations:
        key, after = operation.key, operation.after
        if isinstance(key, ServerKey) and (key.service not in table or key.service in dropped):
            raise KeyError(key.service)
        if (operation.verb is Verb.ADD) == (key in table):
            raise ValueError(f"exists: {key}") if key in table else KeyError(key)
        if after is not None:
            table[key] = after
        else:
            del table[key]
            if isinstance(key, Endpoint | Fwmark):
                dropped.add(key)
    if not dropped:
        return table
    return {key: value for key, value in table.items() if not (isinstance(key, ServerKey) and key.service in dropped)}


def remaining(operations: Iterable[Operation], observed: Table) -> list[Operation]:
    """What of the operations is still to be done, where only `observed` is certain. In their order."""
    left = []
    for operation in operations:
        key, after = operation.key, operation.after
        have = observed.get(key)
        if have == after or (have is None and operation.verb is Verb.QUIESCE):
            continue
        verb = operation.verb if after is None or operation.verb is Verb.QUIESCE else Verb.CHANGE if have else Verb.ADD
        left.append(Operation(verb, key, have, after))
    return left


def leaving(operations: Iterable[Operation], observed: Table) -> list[ServerKey]:
    """The real servers that the operations take away, alone or with their virtual service."""
    removed = {operation.key for operation in operations if operation.verb is Verb.REMOVE}
    return [key for key in observed if isinstance(key, ServerKey) and (key in removed or key.service in removed)]


def quiesce(keys: Iterable[ServerKey], observed: Table) -> list[Operation]:
    """Weight 0 for real servers about to leave: live connections go on, new ones go elsewhere."""
    found = [(key, observed[key]) for key in keys]
    return [
        Operation(Verb.QUIESCE, key, server, replace(server, weight=0))
        for key, server in found
        if isinstance(server, RealServer) and server.weight != 0
    ]
