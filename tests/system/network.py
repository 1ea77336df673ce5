"""Small networks of namespaces inside this process: a thread steps into one, opens its sockets there, and steps out."""

import ctypes
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

PATIENCE = 10.0
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
Result = TypeVar("Result")


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@contextmanager
def namespaces(*names: str) -> Iterator[tuple[str, ...]]:
    """Fresh network namespaces with loopback up; gone afterwards with all that is in them."""
    made = tuple(f"kernlb-{os.getpid()}-{name}" for name in names)
    with ExitStack() as undo:
        for name in made:
            run("ip", "netns", "add", name)
            undo.callback(run, "ip", "netns", "del", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield made


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """The calling thread in the namespace; the sockets and processes that it makes there stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(Path("/run/netns", namespace), os.O_RDONLY)
    try:
        _enter(there)
        yield
    finally:
        _enter(home)
        os.close(home)
        os.close(there)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def ip(namespace: str, lines: str) -> None:
    """Commands of ip(8), one a line, in a namespace."""
    run("ip", "-n", namespace, "-batch", "-", text=lines)


def nft(namespace: str, text: str) -> None:
    with inside(namespace):
        run("nft", "-f", "-", text=text)


def until(
    answer: Callable[[], Result], wanted: Callable[[Result], bool] = bool, *, patience: float = PATIENCE
) -> Result:
    """The answer once it is as wanted, or whatever it is when patience ends."""
    deadline = time.monotonic() + patience
    while not wanted(result := answer()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return result


@contextmanager
def server(namespace: str, address: str, port: int, *, kind: int = socket.SOCK_STREAM) -> Iterator[None]:
    """Tells each client where it seems to come from, and keeps its connection open."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(namespace):
        listening = socket.socket(family, kind)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listening.bind((address, port))
    if kind == socket.SOCK_STREAM:
        listening.listen(64)
    held: list[socket.socket] = []
    ending = threading.Event()

    def answer() -> None:
        if kind == socket.SOCK_STREAM:
            connection, peer = listening.accept()
            held.append(connection)
            connection.send(f"{peer[0]} {peer[1]}".encode())
        else:
            _, peer = listening.recvfrom(100)
            listening.sendto(f"{peer[0]} {peer[1]}".encode(), peer)

    def serve() -> None:
        while not ending.is_set():
            with suppress(OSError):
                answer()

    # recvfrom is not woken by a shutdown of an unconnected socket.
    listening.settimeout(None if kind == socket.SOCK_STREAM else 0.1)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
        for connection in (listening, *held):
            connection.close()


class Client:
    """A connection that stays open; `seen` is the address that the server saw."""

    def __init__(
        self,
        namespace: str,
        address: str,
        port: int,
        *,
        source: tuple[str, int] | None = None,
        kind: int = socket.SOCK_STREAM,
    ) -> None:
        with inside(namespace):
            self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        try:
            self.socket.settimeout(PATIENCE)
            if source:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.socket.bind(source)
            self.socket.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                self.socket.send(b"?")
            self.seen, self.port = self.socket.recv(100).decode().split()
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        """With a reset: the connection is over at both ends."""
        if self.socket.type == socket.SOCK_STREAM:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def heard(clients: Sequence[Client]) -> bool:
    """Whether the server gets what each of them says. Raises what has broken a connection."""
    for client in clients:
        client.socket.sendall(b"more")
    return until(lambda: not any(_unacknowledged(client.socket) for client in clients))


def _unacknowledged(connection: socket.socket) -> int:
    """Segments: tcpi_unacked of struct tcp_info (linux/tcp.h)."""
    if error := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))
    return int.from_bytes(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:28], "little")


def refused(namespace: str, address: str, port: int, **how: int) -> bool:
    try:
        Client(namespace, address, port, **how).close()
    except ConnectionRefusedError:
        return True
    return False
