"""Clients and real servers that cost little: on an emulated machine asyncio's would be what is measured."""

import errno
import multiprocessing
import os
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from kernlb.checks.base import LINGER_RESET
from kernlb.demo.namespaces import SERVERS, Answer
from kernlb.demo.stage import PORT, Stage
from kernlb.demo.steady import Sample

_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
_GONE = 1.0  # seconds that a server waits for a request
_LONG = 120.0


def serve(name: str, address: str) -> None:
    """Answers one request a connection, one after another, until killed."""
    with socket.create_server((address, PORT), backlog=4096) as listening:
        while True:
            connection, (peer, _) = listening.accept()
            connection.settimeout(_GONE)
            with connection:
                body = f"{name} {peer}"
                try:
                    if connection.recv(4096):
                        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                        connection.send((head + body).encode())
                except OSError:
                    continue


class Load:
    """Requests under way in another process."""

    def __init__(self, answer: Answer, stop: Connection) -> None:
        self._answer = answer
        self._stop = stop

    def stop(self) -> list[Sample]:
        """What came of them, once the last has ended."""
        self._stop.send(None)
        samples: list[Sample] = self._answer.value(timeout=_LONG)
        return samples


@contextmanager
def steady_load(stage: Stage, *, rate: float, patience: float, address: str, at: str = "client") -> Iterator[Load]:
    """New connections at a constant rate, whatever becomes of earlier ones, each given up after `patience` seconds."""
    here, there = multiprocessing.Pipe()
    try:
        yield Load(stage.lab.ask(at, ask_steadily, there, address, PORT, rate, patience), here)
    finally:
        here.close()


def ask_steadily(result: Connection, stop: Connection, address: str, port: int, rate: float, patience: float) -> None:
    """Send the Samples of `rate` requests a second until `stop` is readable; each may take `patience` seconds."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # 500 a second for 6 s are more than the usual 1,024
    result.send(_Client((address, port), patience).run(stop, rate))


@dataclass(slots=True)
class _Request:
    """`due` is when it had to start: what a slow client adds is counted, not hidden."""

    due: float
    sock: socket.socket
    asked: bool = False
    received: bytes = b""


class _Client:
    def __init__(self, target: tuple[str, int], patience: float) -> None:
        self._target = target
        self._patience = patience
        self._poll = select.epoll()
        self._open: dict[int, _Request] = {}
        self._queue: deque[_Request] = deque()
        self._samples: list[Sample] = []

    def run(self, stop: Connection, rate: float) -> list[Sample]:
        self._poll.register(stop.fileno(), select.EPOLLIN)
        began, count, stopped = time.monotonic(), 0, False
        while not stopped or self._open:
            now = time.monotonic()
            while not stopped and began + count / rate <= now:
                self._begin(began + count / rate)
                count += 1
            ahead = self._queue[0].due + self._patience if stopped and self._queue else began + count / rate
            for descriptor, _ in self._poll.poll(max(0.0, ahead - time.monotonic())):
                if descriptor == stop.fileno():
                    self._poll.unregister(descriptor)
                    stopped = True
                elif request := self._open.get(descriptor):
                    self._advance(request)
            self._give_up(time.monotonic() - self._patience)
        return sorted(self._samples, key=lambda sample: sample.started)

    def _begin(self, due: float) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Thousands of TIME_WAIT would use up ports.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        request = self._open[sock.fileno()] = _Request(due, sock)
        self._queue.append(request)
        number = sock.connect_ex(self._target)
        if number not in (0, errno.EINPROGRESS):
            self._end(request, failure=os.strerror(number))
            return
        self._poll.register(sock.fileno(), select.EPOLLOUT)

    def _advance(self, request: _Request) -> None:
        try:
            if not request.asked:
                if number := request.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(number, os.strerror(number))
                request.sock.send(_REQUEST)
                request.asked = True
                self._poll.modify(request.sock.fileno(), select.EPOLLIN)
                return
            data = request.sock.recv(4096)
        except OSError as error:
            self._end(request, failure=error.strerror or type(error).__name__)
            return
        request.received += data
        if not data:
            self._end(request, failure="closed without an answer")
        elif (answer := _answer(request.received)) is not None:
            self._end(request, server=answer[1], failure=answer[0])

    def _give_up(self, before: float) -> None:
        while self._queue and (self._queue[0].due <= before or self._queue[0].sock.fileno() < 0):
            request = self._queue.popleft()
            if request.sock.fileno() >= 0:
                self._end(request, failure="timed out")

    def _end(self, request: _Request, *, server: str | None = None, failure: str | None = None) -> None:
        del self._open[request.sock.fileno()]
        request.sock.close()
        self._samples.append(Sample(request.due, time.monotonic() - request.due, server, failure))


def _answer(received: bytes) -> tuple[str | None, str | None] | None:
    """What is wrong with it, and who answered; None while it is not whole."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    status = head.split(None, 2)[1].decode("ascii", "replace")
    if status != "200":
        return f"status {status}", None
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    return (None, body.split()[0].decode()) if len(body) >= length else None


def start_server(stage: Stage, name: str) -> None:
    stage.processes[name] = stage.lab.start(name, serve, name, SERVERS[name])
