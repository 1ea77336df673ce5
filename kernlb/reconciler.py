"""The only writer: reads the kernel, plans, applies, and finishes removals when their connections have ended.

One `step` never waits. A one-shot apply and the daemon both call it until nothing is left to do.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from kernlb import ownership
from kernlb.counters import Counters
from kernlb.desired import Desired, Name
from kernlb.errors import Conflict, KernelError, KernlbError, Unsupported
from kernlb.kernel import Kernel
from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Fwmark,
    Key,
    LimitKey,
    Mark,
    MarkKey,
    ServerKey,
    ServiceKey,
    SourceKey,
    Table,
    service_of,
)
from kernlb.parts import Parts, changed, cut, whole
from kernlb.plan import Operation, Verb, diff, leaving, play, quiesce, remaining
from kernlb.pool import Override, ServerName
from kernlb.state import State, StateError, Store
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
    force: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a step would start from. `ours` is the part of `observed` that is kernlb's to change. `breaks` gives
    the live connections of what leaves, where the kernel knows. `parts` are all that was read; where the plan follows
    on a step, the Tables hold only the parts that may have changed since."""

    operations: list[Operation]
    desired: Desired
    observed: Table
    ours: Table
    owned: ownership.Ownership
    breaks: Mapping[Key, int | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    names: Mapping[Key, Name] = field(default_factory=dict)
    parts: Parts = field(default_factory=dict)
    taken: Mapping[Key, Conflict] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """What a step did, the quiesced servers it left, each with its live connections (None: unknown), and the kernel's
    Table after it. `refused`: what the kernel said against a service, or against a thing of the whole namespace."""

    done: list[Operation]
    waiting: Mapping[ServerKey, int | None]
    plan: Plan
    after: Table
    refused: Mapping[str, KernlbError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Settled:
    """The parts as a step found and wanted them, those left out that it changed or did not finish."""

    desired: Parts
    observed: Parts


class Reconciler:
    def __init__(
        self,
        kernel: Kernel,
        store: Store,
        consent: Consent,
        listening: Listening,
        *,
        state: State | None = None,
        lasting: bool = False,
    ) -> None:
        """`state` where the store has been read already. `lasting`: what cannot be written down now, beside what is
        owned, is remembered, and written by a later `note`."""
        self.kernel = kernel
        self.store = store
        self.consent = consent
        self._listening = listening
        self.state: State = store.load() if state is None else state
        self.unwritten: StateError | None = None
        """Why the last that was to be remembered is not in its place."""
        self._lasting = lasting
        self._owned = self.state.ownership  # as it is written down
        self._settled: _Settled | None = None

    def plan(self, wanted: Wanted, *, count: bool = True) -> Plan:
        """What turns the kernel into what is wanted. Writes nothing. `count`: the live connections that it breaks too.

        Raises Conflict where somebody else's service or listener is in the way, and Unsupported where this
        machine lacks what is wanted.
        """
        plan = self._plan(wanted, since=None, count=count)
        for conflict in plan.taken.values():
            raise conflict
        return plan

    def step(self, wanted: Wanted, *, deadline: float, now: float, count: bool = False) -> Step:
        """Do what can be done now. Leaving servers are quiesced and go once idle, or `deadline` seconds after.

        `now` is seconds since the epoch, `count` as in `plan`. The intent is on disk before the kernel is touched. What
        is refused of one service, by the kernel or for a local listener, holds up no other, and is in the Step. Raises
        what else `plan` raises.
        """
        plan = self._plan(wanted, since=self._settled, count=count)
        self._settled = None
        refused: dict[str, KernlbError] = {}
        if plan.taken:
            plan, refused = _without_taken(plan)
        going = [key for key in leaving(plan.operations, plan.observed) if key not in plan.desired.absent]
        counters = self.kernel.counters() if going else {}
        since = {key: self.state.leaving.get(key, now) for key in going}
        waiting = {
            key: counters.get(key, Counters()).live
            for key in going
            if not _may_go(counters.get(key, Counters()), elapsed=now - since[key], deadline=deadline)
        }
        operations = [*_forward(plan.operations), *quiesce(waiting, plan.observed), *_due(plan.operations, waiting)]
        after: Table = whole(plan.parts)
        if operations:
            after = play(operations, after)
        claimed = plan.owned.after(plan.desired.table, plan.observed)
        names = self._known(plan.desired.names, after)
        self._remember(replace(self.state, ownership=claimed, names=names, leaving={k: since[k] for k in waiting}))
        try:
            self.kernel.apply(operations)
        except (KernelError, Unsupported):
            refused |= self._apply_apart(operations, plan)
            after = self.kernel.read()
            operations = [operation for operation in operations if after.get(operation.key) == operation.after]
        self.kernel.tend()
        if refused or any(operation.verb is Verb.REMOVE for operation in operations):
            claimed = claimed.only(after)
        self._remember(replace(self.state, ownership=claimed))
        if not refused:
            unsure = _unsure(operations, waiting)
            self._settled = _Settled(_without(plan.desired.parts or {}, unsure), _without(plan.parts, unsure))
        return Step(operations, waiting, plan, after, refused)

    def note(
        self, *, overrides: Mapping[ServerName, Override] | None = None, health: Mapping[str, Any] | None = None
    ) -> None:
        """Write down what a restart must not lose; None leaves it as it was. With health, what could not be written
        before is tried again."""
        state = self.state
        if overrides is not None:
            state = replace(state, overrides=overrides)
        if health is not None:
            state = replace(state, health=health)
        self._remember(state, again=health is not None)

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

    def ours(self, wanted: Wanted) -> Table:
        """What of the kernel a step would change, as it is."""
        return self._plan(wanted, since=None, count=False).ours

    def restore(self, before: Table, state: State) -> list[Operation]:
        """Put back what was kernlb's before, at once, as it was known in that state: the answer to a change that nobody
        confirmed."""
        observed = self.kernel.read()
        operations = diff(before, ownership.ours(before, observed, self.state.ownership, adopt=True))
        self.kernel.apply(operations)
        owned = self.state.ownership.only(before)
        self._remember(replace(self.state, ownership=owned, names=state.names, leaving=state.leaving))
        return operations

    def _plan(self, wanted: Wanted, *, since: _Settled | None, count: bool) -> Plan:
        parts, owned = self.kernel.parts(), self.state.ownership
        foreign = [key for key in parts if key is not None and key not in owned.claimed]
        desired = wanted(foreign)
        self.kernel.require(desired.table)
        if desired.parts is None:
            desired = replace(desired, parts=cut(desired.table))
        assert desired.parts is not None
        look = None if since is None else changed(desired.parts, since.desired) | changed(parts, since.observed)
        table: Table = whole(desired.parts, look)
        observed = whole(parts, look)
        warnings: tuple[str, ...] = ()
        if foreign and not self.consent.shared_settings:
            table, left_out = ownership.without_shared_wishes(table, whole(parts), owned)
            warnings = tuple(
                f"{thing(key)} left alone: foreign services share them (--shared-settings sets them)"
                for key in left_out
            )
        desired = replace(desired, table=dict(table))
        ours = ownership.ours(table, observed, owned, adopt=self.consent.adopt)
        operations = diff(table, ours)
        names = desired.names if self.state.names is desired.names else {**self.state.names, **desired.names}
        breaks = self._breaks(operations, observed) if count else {}
        taken = {} if self.consent.take_port else dict(self._taken_ports(operations))
        if not self.consent.force:
            added = [op.key for op in operations if op.verb is Verb.ADD and isinstance(op.key, Endpoint)]
            taken |= self.kernel.in_the_way(added)
        return Plan(operations, desired, observed, ours, owned, breaks, warnings, names, parts, taken)

    def _apply_apart(self, operations: Sequence[Operation], plan: Plan) -> dict[str, KernlbError]:
        """After a refusal: what is left to do, a service at a time."""
        refused: dict[str, KernlbError] = {}
        for owner, together in by_owner(remaining(operations, self.kernel.read()), plan).items():
            try:
                self.kernel.apply(together)
            except (KernelError, Unsupported) as error:
                refused[owner] = error
                # Whatever else a service may not have: its dead servers go.
                dead = [op for op in together if op.verb is Verb.REMOVE and op.key in plan.desired.absent]
                with suppress(KernelError, Unsupported):
                    self.kernel.apply(remaining(dead, self.kernel.read()))
        return refused

    def _known(self, names: Mapping[Key, Name], after: Table) -> Mapping[Key, Name]:
        """The names of what is configured, and of what lingers in the kernel."""
        before = self.state.names
        if before is names:
            return names
        lingering = {key: name for key, name in before.items() if key not in names and key in after}
        return {**lingering, **names} if lingering else names

    def _remember(self, state: State, *, again: bool = False) -> None:
        if state == self.state and not (again and (self.unwritten or self.store.lies_aside)):
            return
        try:
            self.unwritten = self.store.save(state)
            self._owned = state.ownership
        except StateError as error:
            # Nothing may come into the kernel without an owner; but no disk keeps a dead server in.
            if not self._lasting or not self._owned.covers(state.ownership):
                raise
            self.unwritten = error
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

    def _taken_ports(self, operations: Iterable[Operation]) -> Iterator[tuple[Key, Conflict]]:
        """Wildcards that would take the traffic of a local process."""
        for operation in operations:
            key = operation.key
            if isinstance(key, Endpoint):
                key = MarkKey(key.address, key.protocol, key.port, key.port)
            if operation.verb is not Verb.ADD or not isinstance(key, MarkKey) or not isinstance(key.address, Family):
                continue
            listener = self._listening(key)
            if listener:
                yield (
                    operation.key,
                    Conflict(
                        f"{listener} listens on {key.protocol} port {key.first if key.first == key.last else 'range'}, "
                        f"which {thing(key).removeprefix('mark for ')} would take from it",
                        hint="bind a specific address, stop that process, or take the port with --take-port",
                    ),
                )


def _without_taken(plan: Plan) -> tuple[Plan, dict[str, KernlbError]]:
    """The plan without the services whose port a local process has, but for their dead servers."""
    operations: list[Operation] = []
    refused: dict[str, KernlbError] = {}
    for owner, together in by_owner(plan.operations, plan).items():
        conflict = next((plan.taken[op.key] for op in together if op.key in plan.taken), None)
        if conflict is not None:
            refused[owner] = conflict
            together = [op for op in together if op.verb is Verb.REMOVE and op.key in plan.desired.absent]
        operations += together
    kept = set(map(id, operations))
    return replace(plan, operations=[op for op in plan.operations if id(op) in kept]), refused


def by_owner(operations: Iterable[Operation], plan: Plan) -> dict[str, list[Operation]]:
    """The operations by whose they are: a service's, by its name, or a thing of the whole namespace by itself."""
    marks: dict[int, str] = {}
    for key, value in (*plan.ours.items(), *plan.desired.table.items()):
        bound: Key = key
        if isinstance(key, MarkKey) and isinstance(value, Mark) and not isinstance(key.address, Family):
            bound = Endpoint(EngineName.IPVS, key.protocol, key.address, key.first)
        if bound in plan.names and isinstance(key, Fwmark | MarkKey):
            marks[key.mark if isinstance(key, Fwmark) else value.mark] = plan.names[bound].service  # type: ignore[union-attr]
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(_owner(operation, plan, marks), []).append(operation)
    return found


def _owner(operation: Operation, plan: Plan, marks: Mapping[int, str]) -> str:
    key, value = operation.key, operation.after or operation.before
    service = service_of(key)
    if service is not None:
        return plan.names[service].service if service in plan.names else thing(service)
    match key, value:
        case (SourceKey(mark=int(mark)) | LimitKey(mark=int(mark)), _) | (MarkKey(), Mark(mark=mark)):
            return marks.get(mark, thing(key))
    return thing(key)


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


def _unsure(operations: Iterable[Operation], waiting: Collection[ServerKey]) -> set[ServiceKey | None]:
    """The parts in which something is left to do, or was done: what was found in these holds no more, and were it found
    again, somebody else would have undone it."""
    touched = {service_of(operation.key) for operation in operations} | {key.service for key in waiting}
    return touched | {None} if waiting else touched


def _without(parts: Parts, unsure: Collection[ServiceKey | None]) -> Parts:
    return {key: part for key, part in parts.items() if key not in unsure} if unsure else parts


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
