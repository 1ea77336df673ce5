"""What carries out a Table: IPVS over netlink, the eBPF program, nftables and friends, or a dict in memory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from kernlb.counters import Counters
from kernlb.errors import Conflict
from kernlb.model import Key, ServerKey, ServiceKey, Table
from kernlb.parts import Parts
from kernlb.plan import Operation


class Engine(Protocol):
    """One place of the kernel that holds part of a Table.

    `handles` are the key types it answers for: it reads all of those that exist, whoever made them, and
    is given no operation on any other.
    """

    handles: tuple[type, ...]

    def read(self) -> Table:
        """What the kernel has now, canonical: kernel-only flags masked, host byte order."""
        ...

    def apply(self, operations: Sequence[Operation]) -> None:
        """Carry out the operations in order. Raises KernelError naming the first that was refused: those before
        it are done, those after it are not known to be."""
        ...

    def counters(self) -> Mapping[Key, Counters]:
        """What the kernel has counted for each virtual service and real server."""
        ...


@runtime_checkable
class Tending(Protocol):
    """An engine that has to follow what no operation tells: neighbours, routes, addresses, the passing of time."""

    def tend(self) -> None:
        """Make what is carried fit the network as it is now. Changes no Table."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Transit:
    """What of a service still goes by weights of before: the connections that were there, through `slots` of all `of`
    slots, for `seconds` at least. `before` has the weight of each real server then."""

    slots: int
    of: int
    seconds: float
    before: Mapping[ServerKey, int]


@runtime_checkable
class Transiting(Protocol):
    """An engine whose changes leave connections where they are until these have ended."""

    def transits(self) -> Mapping[ServiceKey, Transit]:
        """The services that are in transition."""
        ...


@runtime_checkable
class Overhearing(Protocol):
    """An engine that notices who does not answer."""

    def silent(self) -> Collection[ServerKey]:
        """Real servers whose connections have begun since the last call and got no further."""
        ...


@runtime_checkable
class Closing(Protocol):
    """An engine that holds descriptors, or a process."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """The program that an engine has in the kernel: by which loader, with which features, and why not the other way;
    and where it hangs, in words."""

    loader: str
    features: tuple[str, ...]
    why: str
    attached: tuple[str, ...] = ()


@runtime_checkable
class Loading(Protocol):
    """An engine that loads a program."""

    def loaded(self) -> Loaded | None: ...


@runtime_checkable
class Displacing(Protocol):
    """An engine that something of somebody else's may stand in the way of."""

    def in_the_way(self) -> Conflict | None:
        """What that is; None where nothing is, or where it may be displaced."""
        ...


@runtime_checkable
class Parted(Protocol):
    """An engine that knows which parts of its Table did not change."""

    def parts(self) -> Parts:
        """What `read` gives, cut; a part that did not change since the last call is the same object."""
        ...
