"""The only writer: reads the kernel, plans, applies, and finishes removals when their connections have ended.

One `step` never waits. A one-shot apply and the daemon both call it until nothing is left to do.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kernlb import ownership
from kernlb.desired import Desired, Name
from kernlb.errors import Conflict
from kernlb.kernel import Kernel
from kernlb.model import (
    Counters,
    Endpoint,
    Family,
    Fwmark,
    Key,
    MarkKey,
    ServerKey,
    ServiceKey,
    Table,
    service_of,
)
from kernlb.plan import Operation, Verb, diff, leaving, play, quiesce
from kernlb.pool import Override, ServerName
from kernlb.state import State, Store
from kernlb.text import thing

SETTLE = 1.0
"""Seconds a quiesced server stays at least: handshakes that were under way become connections that are seen."""

Wanted = Callable[[Collection[ServiceKey]], Desired]
"""What to want, given the foreign virtual services of the kernel."""

Listening = Callable[[MarkKey], str | None]
"""Names the local process that listens where a wildcard would take the traffic; None where nobody does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """What the user allowed beyond the ordinary."""

    adopt: bool = False
    shared_settings: bool = False
    take_port: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a step would start from. `ours` is the part of `observed` that is kernlb's to change. `breaks` gives
    the live connections of what leaves, where the kernel knows."""

    operations: list[Operation]
    desired: Desired
    observed: Table
    ours: Table
    owned: ownership.Ownership
    breaks: Mapping[Key, int | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    names: Mapping[Key, Name] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """What a step did, the quiesced servers it left, each with its live connections (None: unknown), and the kernel's
    Table after it."""

    done: list[Operation]
    waiting: Mapping[ServerKey, int | None]
    plan: Plan
    after: Table


class Reconciler:
    def __init__(self, kernel: Kernel, store: Store, consent: Consent, listening: Listening) -> None:
        self.kernel = kernel
        self.store = store
        self.consent = consent
        self._listening = listening
        self.state: State = store.load()

    def plan(self, wanted: Wanted, *, count: bool = True) -> Plan:
        """What turns the kernel into what is wanted. Writes nothing. `count`: the live connections that it breaks too.

        Raises Conflict where somebody else's service or listener is in the way, and Unsupported where this
        machine lacks what is wanted.
        """
        observed = self.kernel.read()
        owned = self.state.ownership
        desired = wanted(ownership.foreign_services(observed, owned))
        self.kernel.require(desired.table)
        table: Table = desired.table
        warnings = tuple(desired.notes)
        if not self.consent.shared_settings:
            table, left_out = ownership.without_shared_wishes(table, observed, owned)
            warnings += tuple(
                f"{thing(key)} left alone: foreign services share them (--shared-settings sets them)"
                for key in left_out
            )
        desired = replace(desired, table=dict(table))
        ours = ownership.ours(table, observed, owned, adopt=self.consent.adopt)
        operations = diff(table, ours)
        if not self.consent.take_port:
            self._refuse_taken_ports(operations)
        names = {**self.state.names, **desired.names}
        breaks = self._breaks(operations, observed) if count else {}
        return Plan(operations, desired, observed, ours, owned, breaks, warnings, names)

    def step(self, wanted: Wanted, *, deadline: float, now: float) -> Step:
        """Do what can be done now. Leaving servers are quiesced and go once idle, or `deadline` seconds after.

        `now` is seconds since the epoch. Raises what `plan` and the engines raise; the intent is on disk before
        the kernel is touched.
        """
        plan = self.plan(wanted, count=False)
        going = [key for key in leaving(plan.operations, plan.observed) if key not in plan.desired.absent]
        counters = self.kernel.counters() if going else {}
        since = {key: self.state.leaving.get(key, now) for key in going}
        waiting = {
            key: counters.get(key, Counters()).live
            for key in going
            if not _may_go(counters.get(key, Counters()), elapsed=now - since[key], deadline=deadline)
        }
        operations = [*_forward(plan.operations), *quiesce(waiting, plan.observed), *_due(plan.operations, waiting)]
        after = play(operations, plan.observed)
        claimed = plan.owned.after(plan.desired.table, plan.observed)
        known = {key: name for key, name in plan.names.items() if key in after or key in plan.desired.names}
        self._remember(replace(self.state, ownership=claimed, names=known, leaving={k: since[k] for k in waiting}))
        self.kernel.apply(operations)
        self.kernel.tend()
        self._remember(replace(self.state, ownership=claimed.only(after)))
        return Step(operations, waiting, plan, after)

    def note(
        self, *, overrides: Mapping[ServerName, Override] | None = None, health: Mapping[str, Any] | None = None
    ) -> None:
        """Write down what a restart must not lose; None leaves it as it was."""
        state = self.state
        if overrides is not None:
            state = replace(state, overrides=overrides)
        if health is not None:
            state = replace(state, health=health)
        self._remember(state)

    def clear(self) -> list[Operation]:
        """Remove what is kernlb's, at once, and put back the settings that still are as kernlb wrote them."""
        observed = self.kernel.read()
        owned = self.state.ownership
        back = ownership.restoration(observed, owned)
        operations = diff(back, ownership.ours(back, observed, owned, adopt=False))
        self.kernel.apply(operations)
        self._remember(
            replace(self.state, ownership=ownership.Ownership(), names={}, leaving={}, overrides={}, health={})
        )
        return operations

    def restore(self, before: Table) -> list[Operation]:
        """Put back what was kernlb's before, at once: the answer to a change that nobody confirmed."""
        observed = self.kernel.read()
        operations = diff(before, ownership.ours(before, observed, self.state.ownership, adopt=True))
        self.kernel.apply(operations)
        self._remember(replace(self.state, ownership=self.state.ownership.only(before), leaving={}))
        return operations

    def _remember(self, state: State) -> None:
        if state != self.state:
            self.store.save(state)
            self.state = state

    def _breaks(self, operations: Collection[Operation], observed: Table) -> dict[Key, int | None]:
        removed = {op.key for op in operations if op.verb is Verb.REMOVE and service_of(op.key)}
        if not removed:
            return {}
        counters = self.kernel.counters()
        parts: dict[Key, list[int | None]] = {}
        for key in observed:
            if isinstance(key, ServerKey):
                live = counters.get(key, Counters()).live
                parts.setdefault(key, []).append(live)
                parts.setdefault(key.service, []).append(live)
        return {key: _sum(parts.get(key, [])) for key in removed}

    def _refuse_taken_ports(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            key = operation.key
            if isinstance(key, Endpoint):
                key = MarkKey(key.address, key.protocol, key.port, key.port)
            if operation.verb is not Verb.ADD or not isinstance(key, MarkKey) or not isinstance(key.address, Family):
                continue
            listener = self._listening(key)
            if listener:
                raise Conflict(
                    f"{listener} listens on {key.protocol} port {key.first if key.first == key.last else 'range'}, "
                    f"which {thing(key).removeprefix('mark for ')} would take from it",
                    hint="bind a specific address, stop that process, or take the port with --take-port",
                )


def _sum(counts: Iterable[int | None]) -> int | None:
    """Unknown where any part is."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _may_go(counters: Counters, *, elapsed: float, deadline: float) -> bool:
    # UDP flows never count as live: the kernel knows no end of one, only a timeout.
    return elapsed >= deadline or (elapsed >= SETTLE and counters.live == 0)


def _forward(operations: Iterable[Operation]) -> list[Operation]:
    return [operation for operation in operations if operation.verb is not Verb.REMOVE]


def _due(operations: Iterable[Operation], waiting: Collection[ServerKey]) -> list[Operation]:
    """The removals that need not wait. Marks, source NAT and addresses serve waiting servers to the end."""
    busy = {key.service for key in waiting}
    return [
        operation
        for operation in operations
        if operation.verb is Verb.REMOVE
        and operation.key not in waiting
        and operation.key not in busy
        and (not waiting or isinstance(operation.key, Endpoint | Fwmark | ServerKey))
    ]
