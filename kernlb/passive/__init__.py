"""Signs of a dead real server in the traffic itself: connections refused, and SYNs without an answer. Decides nothing.

A packet socket with a classic BPF filter: the kernel hands over the SYNs that leave for servers, their answers and
resets, no more of them than a share that keeps the cost bounded. Scanning all of /proc/net/ip_vs_conn would cost as
much as there are connections, and conntrack events as much as there are new ones. It sees what passes through this host
with the server's address: nat, fullnat, and every check. For direct and tunnel there is IPVS's own table (half_open).
What the eBPF program sends on, the kernel shows nobody on most interfaces: that engine is asked for what it counts.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from kernlb.errors import KernlbError
from kernlb.model import ServerKey
from kernlb.passive import packets
from kernlb.passive.half_open import PERIOD, HalfOpen
from kernlb.passive.packets import End
from kernlb.passive.suspicion import Suspicion
from kernlb.pool import ServerName

Silent = Callable[[], Awaitable[Collection[ServerKey]]]
"""Asks the engines for the servers whose connections began since it last did, and got no further."""

BUDGET = 1000
"""Packets a second that are looked at; beyond it, only those of every other client port, and so on."""
_BATCH = 256
_TOGETHER = 0.03
"""Seconds for which packets gather: to wake for each of them costs several times what looking at it does."""
_ROUNDS = 8


class Passive:
    """Made inside a running loop, in the network namespace to watch. Where packet sockets are not allowed, `off` says
    why and no packet is seen."""

    def __init__(self, suspected: Callable[[ServerName], None], *, silent: Silent | None = None) -> None:
        self._suspected = suspected
        self._suspicion = Suspicion()
        self._loop = asyncio.get_running_loop()
        self._half_open = HalfOpen()
        self._shift = 0
        self._count = 0
        self._second = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._gathering: asyncio.Handle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._asking = None if silent is None else self._loop.create_task(self._ask(silent), name="silent")
        self.off: str | None = None
        self._socket: socket.socket | None = None
        try:
            self._socket = packets.opened()
        except OSError as error:
            self.off = f"no packet socket: {error.strerror}"
            return
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def aim(self, servers: Mapping[ServerName, Sequence[ServerKey]], *, bypassing: bool = False) -> None:
        """The servers to look for. `bypassing`: some of them are of IPVS and answer clients directly."""
        self._suspicion.aim(servers)
        if bypassing and self._look is None:
            self._look_again()
        elif not bypassing and self._look is not None:
            self._look.cancel()
            self._look = None

    def close(self) -> None:
        for handle in (self._alarm, self._look, self._gathering):
            if handle is not None:
                handle.cancel()
        self._alarm = self._look = self._gathering = None
        if self._asking is not None:
            self._asking.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        assert self._socket is not None
        self._loop.remove_reader(self._socket.fileno())
        self._gathering = self._loop.call_later(_TOGETHER, self._gathered)

    def _gathered(self) -> None:
        assert self._socket is not None
        more = self._take()
        self._set_alarm()
        if more:
            self._gathering = self._loop.call_soon(self._gathered)
        else:
            self._gathering = None
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _take(self) -> bool:
        """Whether there may be more."""
        assert self._socket is not None
        now = time.monotonic()
        taken = 0
        while taken < _BATCH:
            try:
                packet = self._socket.recv(packets.SNAP)
            except OSError:
                break
            taken += 1
            seen = packets.sighting(packet)
            if seen is not None:
                self._tell(self._suspicion.see(seen, now))
        self._count += taken
        self._pace(int(now))
        return taken == _BATCH

    def _set_alarm(self) -> None:
        due = self._suspicion.next
        if due is not None and self._alarm is None:
            self._alarm = self._loop.call_later(max(_TOGETHER, due - time.monotonic()), self._overdue)

    def _overdue(self) -> None:
        self._alarm = None
        now = time.monotonic()
        for _ in range(_ROUNDS):  # the answer may be here already
            if not self._take():
                break
        self._tell(self._suspicion.overdue(now))
        self._set_alarm()

    def _look_again(self) -> None:
        self._look = self._loop.call_later(PERIOD, self._look_again)
        self._blame(self._half_open.look())

    async def _ask(self, silent: Silent) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            with suppress(KernlbError):
                self._blame((key.address, key.port) for key in await silent())

    def _blame(self, ends: Iterable[End]) -> None:
        now = time.monotonic()
        for end in ends:
            self._tell(self._suspicion.blame(end, now))

    def _tell(self, names: Iterable[ServerName]) -> None:
        for name in names:
            self._suspected(name)

    def _pace(self, second: int) -> None:
        """Once a second: look at fewer client ports where there is too much, at more where there is little."""
        if second == self._second or self._socket is None:
            return
        shift = self._shift
        if self._count > BUDGET and shift < 10:
            shift += max(1, (self._count // BUDGET).bit_length() - 1)
        elif self._count < BUDGET // 4 and shift:
            shift -= 1
        self._second, self._count = second, 0
        if min(shift, 10) != self._shift:
            self._shift = min(shift, 10)
            packets.attach(self._socket, packets.program(self._shift))
