"""What of an observed Table is kernlb's to change, and what is somebody else's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kernlb.errors import Conflict
from kernlb.model import (
    Endpoint,
    Fwmark,
    Key,
    ServiceKey,
    SyncKey,
    SysctlKey,
    Table,
    TimersKey,
    Value,
    VipKey,
    service_of,
)
from kernlb.text import thing

Claimed = Endpoint | Fwmark | SyncKey | VipKey
"""Keys that somebody else may have made: kernlb keeps a list of those that are its own."""

Shared = SysctlKey | TimersKey
"""Settings of the whole namespace: kernlb keeps what they were before it wrote them."""


@dataclass(frozen=True, slots=True)
class Written:
    """A shared setting that kernlb changed: what it was, what kernlb wrote."""

    original: Value
    written: Value


@dataclass(frozen=True, slots=True)
class Ownership:
    claimed: frozenset[Claimed] = frozenset()
    shared: Mapping[Shared, Written] = field(default_factory=dict)

    def after(self, desired: Table, observed: Table) -> "Ownership":
        """Ownership once `desired` is applied to `observed`; written down before the kernel is touched, so that a
        crash in between leaves nothing without an owner."""
        # An address that was there before stays when kernlb leaves; a service taken over is kernlb's from now on.
        wanted = {k for k in desired if isinstance(k, Claimed) and not (isinstance(k, VipKey) and k in observed)}
        shared = dict(self.shared)
        for key, want in desired.items():
            if isinstance(key, Shared) and key in observed and observed[key] != want:
                before = shared.get(key)
                shared[key] = Written(before.original if before else observed[key], want)
        if wanted <= self.claimed and shared == self.shared:
            return self
        return replace(self, claimed=self.claimed | wanted, shared=shared)

    def covers(self, other: "Ownership") -> bool:
        """Whether all that the other owns is owned here too, and known as it was before."""
        return other.claimed <= self.claimed and other.shared == self.shared

    def only(self, table: Table) -> "Ownership":
        """Ownership of what still exists."""
        there = frozenset(key for key in self.claimed if key in table)
        return self if len(there) == len(self.claimed) else replace(self, claimed=there)


def foreign_services(observed: Table, owned: Ownership) -> list[ServiceKey]:
    return [key for key in observed if isinstance(key, Endpoint | Fwmark) and key not in owned.claimed]


def ours(desired: Table, observed: Table, owned: Ownership, *, adopt: bool) -> Table:
    """The part of `observed` that a diff against `desired` may touch.

    Raises Conflict where a desired virtual service exists but is somebody else's, unless `adopt`.
    """
    foreign = set(foreign_services(observed, owned))
    taken = [key for key in foreign if key in desired]
    if taken and not adopt:
        raise Conflict(
            f"{len(taken)} virtual service(s) exist that kernlb did not make: {', '.join(map(thing, taken[:5]))}",
            hint="remove them, or take them over with --adopt",
        )
    result: dict[Key, Value] = {}
    for key, value in observed.items():
        service = service_of(key)
        if service is not None:
            if service not in foreign or service in desired:
                result[key] = value
        elif isinstance(key, VipKey | SyncKey):
            if key in owned.claimed or key in desired:
                result[key] = value
        elif isinstance(key, Shared):
            if key in desired:
                result[key] = value
        else:
            # kernlb's own nftables table holds nothing of anybody else's.
            result[key] = value
    return result


def restoration(observed: Table, owned: Ownership) -> Table:
    """The shared settings to put back on clear: those that still are what kernlb wrote, where no foreign service
    remains that may count on them."""
    if foreign_services(observed, owned):
        return {}
    return {key: kept.original for key, kept in owned.shared.items() if observed.get(key) == kept.written}


def without_shared_wishes(desired: Table, observed: Table, owned: Ownership) -> tuple[Table, list[Key]]:
    """The Table without the settings that are only wished while foreign services exist, and what was left out.

    A service needs its sysctls; timers are a wish.
    """
    wishes: list[Key] = [key for key in desired if isinstance(key, TimersKey)]
    if not wishes or not foreign_services(observed, owned):
        return desired, []
    return {key: value for key, value in desired.items() if key not in wishes}, wishes
