"""Real servers that mean harm, in a process of their own: `python -m tests.checks.hostile` prints the port of each of
KINDS, in their order, and ends with its standard input. Who reads on is sent 1 GB."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

KINDS = {
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Endless: yes\r\n" * 500),
    "interim": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 300),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b"a" * 65536),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 1000),
    "tls": (b"", b"\x16\x03\x01\x40\x00" + b"\x02" * 16384),
    "agent": (b"", b"u" * 65536),
    "grpc": (b"\0\0\0\x04\0\0\0\0\0", b"\0\0\0\x04\0\0\0\0\0" * 1000),
}
"""What each begins with, and what it goes on with."""

ALL = 1_000_000_000
STUBBORN = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); time.sleep(60)"
"""A command that forks, ignores SIGTERM and does not end."""


@contextmanager
def hostile() -> Iterator[dict[str, int]]:
    """The ports by kind."""
    command = [sys.executable, "-m", "tests.checks.hostile"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield {kind: int(process.stdout.readline()) for kind in KINDS}
        finally:
            process.communicate()


def serve(listener: socket.socket, start: bytes, more: bytes) -> None:
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=_flood, args=(peer, start, more), daemon=True).start()


def _flood(peer: socket.socket, start: bytes, more: bytes) -> None:
    with peer:
        try:
            peer.sendall(start)
            for _ in range(ALL // len(more)):
                peer.sendall(more)
        except OSError:
            pass


def main() -> None:
    for start, more in KINDS.values():
        listener = socket.create_server(("", 0), backlog=256)
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=serve, args=(listener, start, more), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
