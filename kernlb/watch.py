"""Signs that somebody else changed the kernel: notifications of nftables and addresses, digests of what has none."""

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from kernlb.engines import Engine, Tending, check_timeouts
from kernlb.engines.absent import Absent
from kernlb.engines.ipvs import Ipvs
from kernlb.engines.nft.static import TABLE
from kernlb.engines.remembered import Remembered, RememberedIpvs
from kernlb.engines.rtnetlink import GROUPS
from kernlb.kernel import Kernel
from kernlb.model import CheckTimeoutsKey, RulesetKey, Table, VipKey

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_GROUPS_ADDRESSES = 0x1 | 0x10 | 0x100  # RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR of linux/rtnetlink.h
_GROUP_NFTABLES = 1 << 7 - 1  # NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h
_TABLES: dict[type, str] = {RulesetKey: TABLE, CheckTimeoutsKey: check_timeouts.TABLE}
"""Of nftables, by what is kept in them."""
_ENOUGH = 64
_TEND = 10
"""Calls of `changed` after which engines look at the network again without having been told."""


class Watch:
    """Wraps a kernel, so that it is read again only where a sign says so. Lives in the namespace it is made in."""

    def __init__(self, kernel: Kernel) -> None:
        self._ipvs: RememberedIpvs | None = None
        self._rest: list[tuple[Engine, Table | None]] = []
        self._spoil: list[Callable[[], None]] = []
        self._sockets: dict[socket.socket, tuple[Callable[[], None], bytes]] = {}
        self._tending: list[Tending] = []
        self._news: socket.socket | None = None
        self._untended = 0
        self.kernel = kernel.through(self._wrapped)

    def sockets(self) -> Sequence[socket.socket]:
        """Readable where a notification waits; then call `heed`."""
        return list(self._sockets)

    def heed(self, sock: socket.socket) -> bool:
        """Takes what a socket has to say. Whether that is a sign; a burst that overflowed it is one."""
        spoil, word = self._sockets[sock]
        sign = _heard(sock, word)
        if sign:
            spoil()
        return sign

    def changed(self) -> bool:
        """Compares digests; cheap enough for every second."""
        self._tend()
        found = self._ipvs is not None and self._ipvs.changed()
        for index, (engine, before) in enumerate(self._rest):
            now = engine.read()
            self._rest[index] = (engine, now)
            found = found or (before is not None and now is not before and now != before)
        return found

    def spoil(self) -> None:
        """The next reading is of everything."""
        for each in self._spoil:
            each()

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        if self._news is not None:
            self._news.close()
        self.kernel.close()

    def _tend(self) -> None:
        """Neighbours come and go all the time, and no Table changes with them: nobody is woken."""
        self._untended -= 1
        if self._tending and ((self._news is not None and _heard(self._news)) or self._untended <= 0):
            self._untended = _TEND
            for tending in self._tending:
                tending.tend()

    def _wrapped(self, engine: Engine) -> Engine:
        if isinstance(engine, Ipvs):
            self._ipvs = RememberedIpvs(engine)
            self._spoil.append(self._ipvs.spoil)
            return self._ipvs
        sock, word = None, b""
        if isinstance(engine, Absent):
            return engine
        if isinstance(engine, Tending):
            self._tending.append(engine)
            self._news = self._news or _listening(_NETLINK_ROUTE, GROUPS)
        if table := next((_TABLES[key] for key in engine.handles if key in _TABLES), None):
            # Of every message that speaks of a table the first attribute is its name: those of others say nothing.
            sock, word = _listening(_NETLINK_NETFILTER, _GROUP_NFTABLES), f"{table}\0".encode()
        elif VipKey in engine.handles:
            sock = _listening(_NETLINK_ROUTE, _GROUPS_ADDRESSES)
        if sock is not None:
            remembered = Remembered(engine)
            self._sockets[sock] = remembered.spoil, word
            self._spoil.append(remembered.spoil)
            return remembered
        self._rest.append((engine, None))
        return engine


def _heard(sock: socket.socket, word: bytes = b"") -> bool:
    """Empties the socket: whether a message had the word in it, or messages were lost."""
    heard = False
    for _ in range(_ENOUGH):
        try:
            heard |= word in sock.recv(1 << 16)
        except BlockingIOError:
            return heard
        except OSError:
            heard = True
    return True


def _listening(protocol: int, groups: int) -> socket.socket | None:
    """None where this kernel notifies of nothing of the kind."""
    with suppress(OSError):
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
        try:
            sock.bind((0, groups))
        except OSError:
            sock.close()
            raise
        return sock
    return None
