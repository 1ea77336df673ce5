"""TCP connects by the ten thousand: raw sockets on an epoll descriptor of their own, ended by reset and used again.

The handshake's last ACK is held back, so that a healthy server's kernel sees SYN and RST and its program sees nothing.
Times are the kernel's own measure from SYN to SYN+ACK, so verdicts may be collected late, many at once, and stay exact.
"""

import asyncio
import ctypes
import select
import socket
import sys
from collections import deque
from collections.abc import Sequence
from errno import EINPROGRESS
from functools import lru_cache

from kernlb.checks.base import LINGER_RESET, Path, Report, Target, bind_source, refused, timed_out
from kernlb.checks.verdict import Code, Outcome, Verdict

BATCHING = 0.016  # seconds between collections while verdicts keep coming
TCP_INFO_RTT = slice(68, 72)  # tcpi_rtt of struct tcp_info, microseconds
FAILED = select.EPOLLERR | select.EPOLLHUP
WATCHED = select.EPOLLOUT | select.EPOLLET
STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
IDLE = 256  # sockets kept for use again, for each path

# connect() to AF_UNSPEC ends a TCP connection by reset and leaves the socket as new (tcp_disconnect in net/ipv4/tcp.c),
# at two thirds of what close() and socket() cost. The socket module cannot spell that address.
_connect = ctypes.PyDLL(None).connect
_connect.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
UNSPECIFIED = bytes(16)


class TcpProber:
    """A Prober of plain connects. `descriptors` bounds the sockets open at once; what exceeds it waits its turn."""

    def __init__(self, report: Report, *, descriptors: int = 16384) -> None:
        self._report = report
        self._descriptors = descriptors
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._flights: dict[int, tuple[socket.SocketType, Target, float]] = {}
        self._queues: dict[
            float, deque[tuple[float, int]]
        ] = {}  # by patience, so each is in the order of its deadlines
        self._alarms: dict[float, asyncio.TimerHandle] = {}
        self._waiting: deque[Target] = deque()
        self._idle: dict[Path, list[socket.SocketType]] = {}
        self._collection: asyncio.TimerHandle | None = None
        self._reading = False

    def start(self, targets: Sequence[Target]) -> None:
        room = self._descriptors - len(self._flights)
        if self._waiting or len(targets) > room:
            self._waiting.extend(targets)
            targets = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        done: list[tuple[Target, Verdict]] = []
        for target in targets:
            verdict = self._launch(target)
            if verdict is not None:
                done.append((target, verdict))
        self._watch(busy=not self._reading)
        if done:
            self._report(done)

    def close(self) -> None:
        for handle in (*self._alarms.values(), self._collection):
            if handle is not None:
                handle.cancel()
        if self._reading:
            self._loop.remove_reader(self._epoll.fileno())
        for sock, _, _ in self._flights.values():
            sock.close()
        for sock in (sock for idle in self._idle.values() for sock in idle):
            sock.close()
        self._flights.clear()
        self._idle.clear()
        self._waiting.clear()
        self._epoll.close()

    def _launch(self, target: Target) -> Verdict | None:
        """A verdict where there is one at once, else None and a flight."""
        try:
            idle = self._idle.get(target.path)
            sock = idle.pop() if idle else self._socket(target)
        except OSError as error:
            return refused(error.errno or 0)
        try:
            number = sock.connect_ex(target.sockaddr)
        except OSError as error:
            number = error.errno or 0
        if number != EINPROGRESS:
            return self._landing(sock, target, number)
        descriptor, patience, started = sock.fileno(), target.patience, self._loop.time()
        self._flights[descriptor] = (sock, target, started)
        queue = self._queues.get(patience)
        if queue is None:
            queue = self._queues[patience] = deque()
            self._alarms[patience] = self._loop.call_at(started + patience, self._expire, patience)
        queue.append((started, descriptor))
        return None

    def _socket(self, target: Target) -> socket.SocketType:
        sock = socket.SocketType(target.family, STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            # On a client it delays the handshake's last ACK (tcp_rcv_synsent_state_process in net/ipv4/tcp_input.c).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
            for level, name, value in target.options:
                sock.setsockopt(level, name, value)
            bind_source(sock, target, socket.SOCK_STREAM)
            self._epoll.register(sock.fileno(), WATCHED)
        except BaseException:
            sock.close()
            raise
        return sock

    def _landing(self, sock: socket.SocketType, target: Target, number: int) -> Verdict:
        """The verdict of a finished connect; its socket is kept where it worked."""
        if number:
            self._discard(sock)
            return refused(number)
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 72)
        idle = self._idle.setdefault(target.path, [])
        if len(idle) < IDLE and _connect(sock.fileno(), UNSPECIFIED, len(UNSPECIFIED)) == 0:
            idle.append(sock)
        else:
            self._discard(sock)
        return _answered(int.from_bytes(info[TCP_INFO_RTT], sys.byteorder))

    def _discard(self, sock: socket.SocketType) -> None:
        # Closing is not enough: a child about to exec may hold a copy, whose events would meet the next socket.
        self._epoll.unregister(sock.fileno())
        sock.close()

    def _watch(self, *, busy: bool) -> None:
        """Look again in some milliseconds while verdicts come thick, else when the event loop sees the descriptor."""
        idle = bool(self._flights) and not busy
        if idle and not self._reading:
            self._loop.add_reader(self._epoll.fileno(), self._collect)
        elif self._reading and not idle:
            self._loop.remove_reader(self._epoll.fileno())
        self._reading = idle
        if busy and self._flights and self._collection is None:
            self._collection = self._loop.call_later(BATCHING, self._collect)

    def _collect(self) -> None:
        self._collection = None
        done = self._landed()
        self._watch(busy=bool(done))
        self._finish(done)

    def _landed(self) -> list[tuple[Target, Verdict]]:
        done: list[tuple[Target, Verdict]] = []
        for descriptor, events in self._epoll.poll(0, len(self._flights) + IDLE):
            flight = self._flights.pop(descriptor, None)
            if flight is None:
                continue  # an idle socket: the echo of its own reset
            sock, target, _ = flight
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & FAILED else 0
            done.append((target, self._landing(sock, target, number)))
        return done

    def _expire(self, patience: float) -> None:
        done = self._landed()  # what has answered by now has answered in time
        now = self._loop.time()
        queue, flights = self._queues[patience], self._flights
        while queue:
            started, descriptor = queue[0]
            flight = flights.get(descriptor)
            if flight is not None and flight[2] == started:
                if started + patience > now:
                    break
                del flights[descriptor]
                self._discard(flight[0])
                done.append((flight[1], timed_out(Code.L4TOUT, patience)))
            queue.popleft()
        if queue:
            self._alarms[patience] = self._loop.call_at(queue[0][0] + patience, self._expire, patience)
        else:
            del self._queues[patience], self._alarms[patience]
        self._finish(done)

    def _finish(self, done: list[tuple[Target, Verdict]]) -> None:
        if done:
            self._report(done)
        if self._waiting:
            self.start(())


@lru_cache(maxsize=4096)
def _answered(microseconds: int) -> Verdict:
    return Verdict(Outcome.UP, Code.L4OK, "", microseconds / 1e6)
