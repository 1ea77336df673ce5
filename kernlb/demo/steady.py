"""An open-loop client: a request on a new connection every so often, whether or not earlier ones were answered."""

import asyncio
import errno
import os
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from kernlb.demo.http import read_answer

_LINGER_RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger {1, 0}: thousands of TIME_WAIT would use up ports
_AHEAD = 0.01


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. `started` in seconds of time.monotonic(), which all processes share; `seconds` until its answer or
    failure. `server` answered, or `failure` says why none did."""

    started: float
    seconds: float
    server: str | None = None
    failure: str | None = None


def ask_steadily(result: Connection, stop: Connection, address: str, port: int, rate: float, patience: float) -> None:
    """Send the Samples of `rate` requests a second until `stop` is readable; each may take `patience` seconds."""
    result.send(asyncio.run(_ask_steadily(stop, address, port, rate, patience)))


async def _ask_steadily(stop: Connection, address: str, port: int, rate: float, patience: float) -> list[Sample]:
    asked: set[asyncio.Task[None]] = set()
    samples: list[Sample] = []
    began, count = time.monotonic(), 0
    while not stop.poll():
        # What is overdue is asked at once: a slow client must not lower the rate.
        while began + count / rate <= time.monotonic():
            task = asyncio.create_task(_ask(samples, began + count / rate, address, port, patience))
            asked.add(task)
            task.add_done_callback(asked.discard)
            count += 1
        await asyncio.sleep(min(_AHEAD, max(0.0, began + count / rate - time.monotonic())))
    await asyncio.gather(*asked)
    return sorted(samples, key=lambda sample: sample.started)


async def _ask(samples: list[Sample], due: float, address: str, port: int, patience: float) -> None:
    """The time runs from when it was due, so that a slow client's delays are counted, not hidden."""
    server = failure = None
    try:
        async with asyncio.timeout(patience):
            server = await _session(address, port)
    except TimeoutError:
        failure = "timed out"
    except asyncio.IncompleteReadError:
        failure = "closed without an answer"
    except OSError as error:
        # What asyncio says of a connect names the address too; EPROTO is of read_answer.
        known = error.errno not in (None, errno.EPROTO)
        failure = os.strerror(error.errno or 0) if known else error.strerror or type(error).__name__
    samples.append(Sample(due, time.monotonic() - due, server, failure))


async def _session(address: str, port: int) -> str:
    sock = socket.socket(
        socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    )
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        reader, writer = await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n")
        return (await read_answer(reader))[0]
    finally:
        writer.transport.abort()
