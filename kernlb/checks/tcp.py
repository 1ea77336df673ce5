"""TCP connects by the ten thousand: raw sockets on an epoll descriptor of their own, ended by reset and used again.

The handshake's last ACK is held back, so that a healthy server's kernel sees SYN and RST and its program sees nothing.
Times are the kernel's own measure from SYN to SYN+ACK, so verdicts may be collected late, many at once, and stay exact.
"""

import asyncio
import ctypes
import select
import socket
from collections import deque
from collections.abc import Sequence
from errno import EINPROGRESS
from functools import lru_cache
from struct import Struct

from kernlb.checks.base import LINGER_RESET, Late, Path, Report, Target, bind_source, refused, timed_out, unheeded
from kernlb.checks.verdict import Code, Outcome, Verdict

BATCHING = 0.016  # seconds between collections while verdicts keep coming
RTT = Struct("=68xI")  # struct tcp_info as far as tcpi_rtt, microseconds
TCP, TCP_INFO = socket.IPPROTO_TCP, socket.TCP_INFO
FAILED = select.EPOLLERR | select.EPOLLHUP
WATCHED = select.EPOLLOUT | select.EPOLLET
STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
IDLE = 256  # sockets kept for use again, for each path

# connect() to AF_UNSPEC ends a TCP connection by reset and leaves the socket as new (tcp_disconnect in net/ipv4/tcp.c),
# at two thirds of what close() and socket() cost. The socket module cannot spell that address.
_connect = ctypes.PyDLL(None).connect
_connect.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
UNSPECIFIED = bytes(16)


class _Line:
    """A socket, and the target that it is connecting to; None while it waits for use."""

    __slots__ = ("connect", "descriptor", "idle", "option", "sock", "started", "target")

    def __init__(self, sock: socket.SocketType, idle: "list[_Line]") -> None:
        self.sock = sock
        self.descriptor = sock.fileno()
        self.connect = sock.connect_ex
        self.option = sock.getsockopt
        self.idle = idle
        self.target: Target | None = None
        self.started = 0.0


class TcpProber:
    """A Prober of plain connects. `descriptors` bounds those under way at once; what exceeds it waits its turn. Beside
    them at most a quarter as many sockets are kept for use again: thousands of paths would keep as many."""

    def __init__(self, report: Report, *, descriptors: int = 16384, late: Late = unheeded) -> None:
        self._report = report
        self._late = late
        self._descriptors = descriptors
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._lines: dict[int, _Line] = {}
        self._idle: dict[Path, list[_Line]] = {}
        self._flying = 0
        # By patience, so that each is in the order of its deadlines: when a batch started, and its lines.
        self._batches: dict[float, deque[tuple[float, list[_Line]]]] = {}
        self._alarms: dict[float, asyncio.TimerHandle] = {}
        self._waiting: deque[tuple[Target, float]] = deque()  # and since when
        self._collection: asyncio.TimerHandle | None = None
        self._reading = False

    def start(self, targets: Sequence[Target]) -> None:
        room = self._descriptors - self._flying
        if self._waiting or len(targets) > room:
            targets = self._in_turn(targets, room)
        done: list[tuple[Target, Verdict]] = []
        launched: dict[float, list[_Line]] = {}
        for target in targets:
            idle = self._idle.get(target.path)
            try:
                line = idle.pop() if idle else self._open(target)
            except OSError as error:
                done.append((target, refused(error.errno or 0)))
                continue
            try:
                number = line.connect(target.sockaddr)
            except OSError as error:
                number = error.errno or 0
            if number == EINPROGRESS:
                line.target = target
                launched.setdefault(target.patience, []).append(line)
            else:
                done.append((target, self._landing(line, number)))
        for patience, lines in launched.items():
            self._launched(lines, patience)
        self._watch(busy=not self._reading)
        if done:
            self._report(done)

    def _in_turn(self, targets: Sequence[Target], room: int) -> list[Target]:
        """Those that there is room for: who waits comes first."""
        now = self._loop.time()
        self._waiting.extend((target, now) for target in targets)
        taken = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        for _, since in taken:
            if since < now:
                self._late(now - since)
        return [target for target, _ in taken]

    def close(self) -> None:
        for handle in (*self._alarms.values(), self._collection):
            if handle is not None:
                handle.cancel()
        if self._reading:
            self._loop.remove_reader(self._epoll.fileno())
        for line in self._lines.values():
            line.sock.close()
        self._lines.clear()
        self._idle.clear()
        self._batches.clear()
        self._waiting.clear()
        self._flying = 0
        self._epoll.close()

    def _launched(self, lines: "list[_Line]", patience: float) -> None:
        started = self._loop.time()
        for line in lines:
            line.started = started
        self._flying += len(lines)
        batches = self._batches.get(patience)
        if batches is None:
            batches = self._batches[patience] = deque()
            self._alarms[patience] = self._loop.call_at(started + patience, self._expire, patience)
        batches.append((started, lines))

    def _open(self, target: Target) -> _Line:
        sock = socket.SocketType(target.family, STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            # On a client it delays the handshake's last ACK (tcp_rcv_synsent_state_process in net/ipv4/tcp_input.c).
            sock.setsockopt(TCP, socket.TCP_DEFER_ACCEPT, 1)
            for level, name, value in target.options:
                sock.setsockopt(level, name, value)
            bind_source(sock, target, socket.SOCK_STREAM)
            self._epoll.register(sock.fileno(), WATCHED)
        except BaseException:
            sock.close()
            raise
        line = _Line(sock, self._idle.setdefault(target.path, []))
        self._lines[line.descriptor] = line
        return line

    def _landing(self, line: _Line, number: int) -> Verdict:
        """The verdict of a finished connect; its socket is kept where it worked."""
        if number:
            self._discard(line)
            return refused(number)
        info = line.option(TCP, TCP_INFO, RTT.size)
        room = len(line.idle) < IDLE and len(self._lines) <= self._descriptors // 4
        if room and _connect(line.descriptor, UNSPECIFIED, len(UNSPECIFIED)) == 0:
            line.idle.append(line)
        else:
            self._discard(line)
        return _answered(RTT.unpack(info)[0])

    def _discard(self, line: _Line) -> None:
        # Closing is not enough: a child about to exec may hold a copy, whose events would meet the next socket.
        self._epoll.unregister(line.descriptor)
        del self._lines[line.descriptor]
        line.sock.close()

    def _watch(self, *, busy: bool) -> None:
        """Look again in some milliseconds while verdicts come thick, else when the event loop sees the descriptor."""
        idle = self._flying > 0 and not busy
        if idle and not self._reading:
            self._loop.add_reader(self._epoll.fileno(), self._collect)
        elif self._reading and not idle:
            self._loop.remove_reader(self._epoll.fileno())
        self._reading = idle
        if busy and self._flying and self._collection is None:
            self._collection = self._loop.call_later(BATCHING, self._collect)

    def _collect(self) -> None:
        self._collection = None
        done = self._landed()
        self._watch(busy=bool(done))
        self._finish(done)

    def _landed(self) -> list[tuple[Target, Verdict]]:
        done: list[tuple[Target, Verdict]] = []
        lines = self._lines
        for descriptor, events in self._epoll.poll(0, self._flying + IDLE):
            line = lines[descriptor]
            target = line.target
            if target is None:
                continue  # the echo of its own reset
            line.target = None
            number = line.option(socket.SOL_SOCKET, socket.SO_ERROR) if events & FAILED else 0
            done.append((target, self._landing(line, number)))
        self._flying -= len(done)
        return done

    def _expire(self, patience: float) -> None:
        done = self._landed()  # what has answered by now has answered in time
        late = self._loop.time() - patience
        batches = self._batches[patience]
        while batches and batches[0][0] <= late:
            started, lines = batches.popleft()
            for line in lines:
                target = line.target
                if target is not None and line.started == started:
                    line.target = None
                    self._flying -= 1
                    self._discard(line)
                    done.append((target, timed_out(Code.L4TOUT, patience)))
        if batches:
            self._alarms[patience] = self._loop.call_at(batches[0][0] + patience, self._expire, patience)
        else:
            del self._batches[patience], self._alarms[patience]
        self._finish(done)

    def _finish(self, done: list[tuple[Target, Verdict]]) -> None:
        if done:
            self._report(done)
        if self._waiting:
            self.start(())


@lru_cache(maxsize=4096)
def _answered(microseconds: int) -> Verdict:
    return Verdict(Outcome.UP, Code.L4OK, "", microseconds / 1e6)
