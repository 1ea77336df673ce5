"""How many of those that are checked stand accused at once. Where it is most of them, what they share is the likelier
cause: the director's own link. No clock: times in."""

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

ANSWERABLE = 0.1
"""Seconds that an answer may take: an accusation counts no sooner."""
LASTING = 1.0
"""Seconds for which an accusation stands that nobody repeats and no answer refutes."""

G = TypeVar("G", bound=Hashable)
N = TypeVar("N", bound=Hashable)


class _Group(Generic[N]):
    """Accusations: the fresh in the order in which they came, the others in the order in which they were last made."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fresh: OrderedDict[N, float] = OrderedDict()
        self.standing: OrderedDict[N, float] = OrderedDict()
        self.most = float("-inf")  # when most were last accused

    def accuse(self, name: N, now: float) -> None:
        if name in self.standing:
            self.standing[name] = now
            self.standing.move_to_end(name)
        else:
            self.fresh.setdefault(name, now)
        self.settle(now)

    def clear(self, name: N, now: float) -> None:
        self.fresh.pop(name, None)
        if self.standing.pop(name, None) is not None:
            self.most = float("-inf")
        self.settle(now)

    def settle(self, now: float) -> None:
        while self.fresh and next(iter(self.fresh.values())) <= now - ANSWERABLE:
            self.standing[self.fresh.popitem(last=False)[0]] = now
        while self.standing and next(iter(self.standing.values())) <= now - LASTING:
            self.standing.popitem(last=False)
        if len(self.standing) > 1 and 2 * len(self.standing) > self.size:
            self.most = now


class Accused(Generic[G, N]):
    """Groups of the named; a name may be in several."""

    def __init__(self) -> None:
        self._groups: dict[G, _Group[N]] = {}

    def among(self, groups: Mapping[G, Collection[N]]) -> None:
        """Those that can be accused. What was said of groups that stay is kept."""
        former, self._groups = self._groups, {}
        for group, members in groups.items():
            self._groups[group] = former.get(group, _Group(0))
            self._groups[group].size = len(members)

    def accuse(self, name: N, groups: Iterable[G], now: float) -> None:
        for group in self._known(groups):
            group.accuse(name, now)

    def repeat(self, name: N, groups: Iterable[G], now: float) -> None:
        """The same again, of those that are accused anyway."""
        for group in self._known(groups):
            if name in group.standing:
                group.accuse(name, now)

    def clear(self, name: N, groups: Iterable[G], now: float) -> None:
        """An answer came, over whatever all of them share."""
        for group in self._known(groups):
            group.clear(name, now)

    def most(self, groups: Iterable[G], *, since: float, now: float) -> bool:
        """Whether most of any of these groups, and two at least, stood accused at some time since then."""
        known = self._known(groups)
        for group in known:
            group.settle(now)
        return any(group.most >= since for group in known)

    def _known(self, groups: Iterable[G]) -> list[_Group[N]]:
        """A probe may outlive its group."""
        return [known for group in groups if (known := self._groups.get(group)) is not None]
