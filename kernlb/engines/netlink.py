"""A generic netlink socket that sends many requests at once and reads the answers. Knows no family.

A plain socket and packed structures: pyroute2's classes take 70 times as long to encode, and make an event loop
of their own for a synchronous call and so cannot be used where one runs already.
"""

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from errno import EBUSY, EINTR, ENOBUFS, ENOENT, ETIMEDOUT

from kernlb.engines.wire import netlink
from kernlb.engines.wire.netlink import Control, Flag

_NETLINK_GENERIC = 16
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_RECEIVE_BUFFER = 4 << 20
_LARGEST_DATAGRAM = 1 << 16
_REQUESTS_A_SEND = 250
_TIMEOUT = 30.0
_ATTEMPTS = 8
# As plain numbers: a dump of 11,000 messages asks twice a message, and operators of IntFlag are slow.
_DUMP_INTERRUPTED = int(Flag.DUMP_INTERRUPTED)
_ENDS = (int(Control.ERROR), int(Control.DONE))


class Interrupted(OSError):
    """What was being dumped changed meanwhile; the answer would be neither the old nor the new."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The first request of a series that the kernel refused: which one, counted from 0, and why."""

    index: int
    errno: int


class NetlinkSocket:
    """One socket in the network namespace of the thread that makes it. Several threads may use it, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sequence = 0
        self._written = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
        try:
            self._socket.settimeout(_TIMEOUT)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise

    @property
    def written(self) -> int:
        """Requests sent by `write` so far."""
        return self._written

    def close(self) -> None:
        self._socket.close()

    def family(self, name: str) -> int | None:
        """The number of a generic netlink family, None where the kernel has none of that name."""
        with self._lock:
            sequence = self._next()
            self._socket.send(netlink.family_request(name, sequence))
            try:
                answers = list(self._answers(sequence))
            except OSError as error:
                if error.errno == ENOENT:
                    return None
                raise
        return netlink.family_number(answers[0])

    def write(self, family: int, bodies: Sequence[bytes]) -> Refusal | None:
        """Send requests in order, many at a time, and wait for what the kernel says to each of them.

        The first refusal ends it: the requests sent together with the refused one have been tried, later ones have not.
        """
        with self._lock:
            for start in range(0, len(bodies), _REQUESTS_A_SEND):
                refused = self._write_together(family, bodies[start : start + _REQUESTS_A_SEND])
                if refused is not None:
                    return Refusal(start + refused.index, refused.errno)
        return None

    def dump(self, family: int, body: bytes) -> list[memoryview]:
        """The bodies of everything the kernel lists in answer. Tries again where another dump is in the way or the
        list changed meanwhile; raises OSError once that has lasted."""
        for attempt in range(1, _ATTEMPTS + 1):
            with self._lock:
                sequence = self._next()
                try:
                    self._socket.send(netlink.request(family, body, sequence, Flag.DUMP))
                    return [answer.body[netlink.GENERIC.size :] for answer in self._answers(sequence)]
                except OSError as error:
                    if error.errno not in (EBUSY, EINTR) or attempt == _ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    def ask(self, family: int, body: bytes) -> memoryview:
        """The body of the one answer to one request. Raises OSError where the kernel refuses."""
        with self._lock:
            sequence = self._next()
            self._socket.send(netlink.request(family, body, sequence, Flag.ACK))
            answers = list(self._answers(sequence))
        return answers[0].body[netlink.GENERIC.size :]

    def _next(self, count: int = 1) -> int:
        # Sequence numbers tell answers apart from those of a request given up before.
        first = self._sequence + 1
        if first + count > 0x7FFFFFFF:
            first = 1
        self._sequence = first + count - 1
        return first

    def _write_together(self, family: int, bodies: Sequence[bytes]) -> Refusal | None:
        first = self._next(len(bodies))
        last = first + len(bodies) - 1
        self._socket.send(netlink.batch(family, bodies, first, last=last))
        self._written += len(bodies)
        refused: Refusal | None = None
        for message in self._received():
            if message.kind != Control.ERROR or not first <= message.sequence <= last:
                continue
            errno = netlink.errno_of(message)
            if errno and refused is None:
                refused = Refusal(message.sequence - first, errno)
            if message.sequence == last:
                break
        return refused

    def _answers(self, sequence: int) -> Iterator[netlink.Message]:
        for message in self._received():
            if message.sequence != sequence:
                continue
            if message.flags & _DUMP_INTERRUPTED:
                self._drain(sequence, message)
                raise Interrupted(EINTR, os.strerror(EINTR))
            if message.kind in _ENDS:
                if errno := netlink.errno_of(message):
                    raise OSError(errno, os.strerror(errno))
                return
            yield message

    def _drain(self, sequence: int, message: netlink.Message) -> None:
        """A dump must be read to its end, or the next one is refused as busy."""
        if message.kind == Control.DONE:
            return
        for later in self._received():
            if later.sequence == sequence and later.kind in _ENDS:
                return

    def _received(self) -> Iterator[netlink.Message]:
        while True:
            try:
                datagram, _ = self._socket.recvfrom(_LARGEST_DATAGRAM)
            except TimeoutError as error:
                raise OSError(ETIMEDOUT, f"the kernel gave no answer within {_TIMEOUT:g} s") from error
            except OSError as error:
                if error.errno == ENOBUFS:
                    raise OSError(ENOBUFS, "the kernel's answers did not fit the receive buffer") from error
                raise
            yield from netlink.messages(datagram)
