"""What a checker knows of those whom it checks: the servers, as they were given, and the targets that serve them."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from kernlb.checks.base import Prober, Target
from kernlb.checks.spec import Address, BfdProbe, Check, CommandProbe
from kernlb.checks.title import title
from kernlb.haste import Haste
from kernlb.health import Health, State, Status, combined
from kernlb.standing import Standing, is_agent, standing

EVERYBODY = object()

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched(Generic[K]):
    """A server to check, under the caller's key, one of its `pool`. `timed` asks for every response time
    (least-response-time)."""

    key: K
    address: Address
    port: int
    checks: tuple[Check, ...]
    pool: Hashable = None
    timed: bool = False

    @property
    def groups(self) -> tuple[Hashable, Hashable]:
        """Among whom it may be accused: those of its pool, and all."""
        return (self.pool, EVERYBODY)


def groups_of(servers: Iterable[Watched[K]]) -> Mapping[Hashable, set[Address]]:
    """The addresses of each group in which servers may be accused: what several have is one machine."""
    groups: dict[Hashable, set[Address]] = defaultdict(set)
    for each in servers:
        for group in each.groups:
            groups[group].add(each.address)
    return groups


class Entry(Generic[K]):
    """One target's course: its health, who asks, and when it is next due. `flying` probes are under way. `lead` is by
    how many seconds its first probe comes before its beat. `haste` is of those that were ever suspected."""

    __slots__ = (
        "due",
        "flying",
        "gone",
        "haste",
        "health",
        "lead",
        "prober",
        "servers",
        "started",
        "target",
        "tick",
        "timed",
    )

    def __init__(self, target: Target, prober: Prober, health: Health) -> None:
        self.target = target
        self.prober = prober
        self.health = health
        self.servers: list[Server[K]] = []
        self.timed: tuple[K, ...] = ()
        self.tick = 0
        self.due = 0.0
        self.lead = 0.0
        self.started = 0.0
        self.flying = 0
        self.haste: Haste[Watched[K]] | None = None
        self.gone = False

    @property
    def overlapping(self) -> bool:
        """Whether a probe may start while another of the same is under way. People's commands need not bear that."""
        return not isinstance(self.target.check.probe, CommandProbe)

    @property
    def watched(self) -> bool:
        """Whether a probe is a watch that reports each change as it happens: another has to follow without a gap."""
        return isinstance(self.target.check.probe, BfdProbe)


class Server(Generic[K]):
    __slots__ = ("_several", "entries", "state", "watched")

    def __init__(self, watched: Watched[K], entries: list[Entry[K]]) -> None:
        self.watched = watched
        self.entries = entries
        self._several = sum(not is_agent(check) for check in watched.checks) > 1
        self.state = self.together()

    def together(self, before: State | None = None) -> State:
        """What all its checks say; why it is down names the one of several."""
        return combined([self._said(entry) for entry in self.entries], before)

    def _said(self, entry: Entry[K]) -> State:
        state = entry.health.state
        if not self._several or state.status is not Status.DOWN:
            return state
        return replace(state, reason=f"{state.reason} ({title(entry.target.check)})")

    @property
    def standing(self) -> Standing:
        return standing((entry.target.check, entry.health.state) for entry in self.entries)
