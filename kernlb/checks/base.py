"""What every probe shares: its target, its socket's path, and the protocol that starts many and reports many.

A failing check is a verdict: nothing here or in the probes raises at the caller for what a server does.
"""

import errno
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from kernlb.checks.spec import PRIORITY, Address, Check
from kernlb.checks.verdict import Code, Outcome, Verdict

# The director's own shortages say nothing about the server.
OWN_FAULTS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.EADDRINUSE,
        errno.EAGAIN,
        errno.EPERM,
        errno.EACCES,
        errno.ENODEV,
        errno.EAFNOSUPPORT,
    }
)
# Of a socket a lack of rights is the director's; a program or a file without them stays wrong until somebody mends it.
FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h
_ANY_PORT = 9
LINGER_RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger {1, 0}: close by reset, no TIME_WAIT


SocketOption = tuple[int, int, int | bytes]  # level, name, value
SocketOptions = tuple[SocketOption, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One thing to probe, with its socket's path worked out once. Compares by identity: hashing is per probe."""

    check: Check
    address: Address
    port: int
    family: socket.AddressFamily
    sockaddr: tuple[str, int]
    source: tuple[str, int] | None
    options: SocketOptions
    path: "Path"
    patience: float


# What two sockets must share to be used for one another.
Path = tuple[int, tuple[str, int] | None, SocketOptions]


def target_of(check: Check, address: Address, port: int) -> Target:
    """The target of a check of `address` and `port`."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    source = None if check.bind_address is None else (str(check.bind_address), 0)
    options = _path_options(check)
    return Target(
        check=check,
        address=address,
        port=port,
        family=family,
        sockaddr=(str(address), port),
        source=source,
        options=options,
        path=(family, source, options),
        patience=check.patience,
    )


Report = Callable[[Sequence[tuple[Target, Verdict]]], None]
Late = Callable[[float], None]
"""Told the seconds that a probe waited for a place, once it has one."""


def unheeded(seconds: float) -> None:
    """A Late of those who do not ask."""


class Prober(Protocol):
    """Starts probes in batches and hands verdicts to its Report in batches: one for each target started.

    A target is started again only after its verdict. Runs in the event loop it was made in.
    """

    def start(self, targets: Sequence[Target]) -> None: ...

    def close(self) -> None:
        """Drops what is under way, without verdicts, and every descriptor."""


class Kinds(Protocol):
    """Which Prober serves which kind of probe."""

    def of(self, target: Target) -> Prober: ...

    def close(self) -> None: ...


def _path_options(check: Check) -> SocketOptions:
    """Socket options (level, name, value) that put a probe on its check's path."""
    options: list[SocketOption] = []
    if _may_have_priority():
        options.append((socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY))
    if check.mark is not None:
        options.append((socket.SOL_SOCKET, socket.SO_MARK, check.mark))
    if check.interface is not None:
        options.append((socket.SOL_SOCKET, socket.SO_BINDTODEVICE, check.interface.encode()))
    return tuple(options)


@cache
def _may_have_priority() -> bool:
    """Only CAP_NET_ADMIN may; without it conntrack cannot tell probes from what else leaves this host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        try:
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)
        except OSError:
            return False
    return True


def opened(target: Target, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
    """A non-blocking socket on the check's path, not yet connected. Raises OSError."""
    sock = socket.socket(target.family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        for level, name, value in target.options:
            sock.setsockopt(level, name, value)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        bind_source(sock, target, kind)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_source(sock: socket.SocketType, target: Target, kind: int) -> None:
    """Binds to the check's own address, if it has one."""
    source = target.source
    if source is None and target.check.toward is not None:
        source = _source_toward(target.check.toward)
    if source is None:
        return
    if kind == socket.SOCK_STREAM:
        # The port is chosen at connect(), so that probes of different targets may share it.
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind(source)


def _source_toward(address: Address) -> tuple[str, int]:
    """The own address that the kernel would take for packets there. Sends nothing."""
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as asked:
        asked.connect((str(address), _ANY_PORT))
        return (asked.getsockname()[0], 0)


def refused(number: int, code: Code = Code.L4CON) -> Verdict:
    """The verdict of an errno: down, unless the director itself was short of something."""
    if number <= 0:  # getaddrinfo's: a source address of the other family
        return Verdict(Outcome.NEUTRAL, Code.INTERNAL, "the check's own address does not fit the target's family")
    reason = os.strerror(number).lower()
    if number in OWN_FAULTS and not (code is Code.PROCERR and number in FORBIDDEN):
        return Verdict(Outcome.NEUTRAL, Code.INTERNAL, f"{reason}, at the director itself")
    return Verdict(Outcome.DOWN, code, reason)


def timed_out(code: Code, seconds: float) -> Verdict:
    return Verdict(Outcome.DOWN, code, f"no answer within {seconds:g} s")
