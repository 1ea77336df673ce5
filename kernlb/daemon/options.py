"""How a daemon was asked to run, and what it is given of its machine."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kernlb.config.values import Config, Metrics
from kernlb.desired import Meaning
from kernlb.kernel import Kernel
from kernlb.machine import wish
from kernlb.ownership import Ownership
from kernlb.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`deadline` in seconds: how long a server that a reload takes away keeps its live connections. `group` may use
    the control socket beside root. `metrics` is where to serve them, whatever the file says."""

    deadline: float = 30.0
    accept_loss: bool = False
    clear_on_exit: bool = False
    group: str | None = None
    metrics: Metrics | None = None
    passive: bool = True


def same_engines(one: Config, other: Config) -> bool:
    """Whether both are carried out by the same engines of a kernel."""
    made_from = [(each.engine, each.addresses.manage, each.addresses.interface, wish(each)) for each in (one, other)]
    return made_from[0] == made_from[1]


class Signs(Protocol):
    """Tells that somebody else may have changed the kernel."""

    kernel: Kernel

    def sockets(self) -> Sequence[socket.socket]: ...

    def heed(self, sock: socket.socket) -> bool: ...

    def changed(self) -> bool: ...

    def spoil(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """`open` gives the kernel that a configuration needs, beside what is owned already; `meaning` what it wants of
    that; `read` the daemon's file as it is now; `understand` a file's content (with its name and format). `remember`
    keeps what is in force."""

    open: Callable[[Config, Ownership], Signs]
    meaning: Callable[[Config], Meaning]
    read: Callable[[], Source]
    understand: Callable[[bytes, str, str | None], Source]
    remember: Callable[[Source], None]
