"""The demo's real servers and clients: HTTP/1.1 over asyncio, just enough to count who answered and what failed."""

import asyncio
import errno
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Protocol

_PATIENCE = 5.0
_THINK = 0.1  # Seconds between two requests on a connection, so that an emulated machine keeps up.


class Delay(Protocol):
    """Seconds, which another process may change."""

    value: float


@dataclass(slots=True)
class Tally:
    """`by` counts answers by (real server, client address it saw); `failed` counts requests by what went wrong."""

    by: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        return self.by.total()

    @property
    def split(self) -> dict[str, int]:
        counted: Counter[str] = Counter()
        for (server, _), count in self.by.items():
            counted[server] += count
        return dict(sorted(counted.items()))

    @property
    def peers(self) -> set[str]:
        return {peer for _, peer in self.by}


def serve(name: str, address: str, port: int, delay: Delay | None = None) -> None:
    """Answer every request with the server's name and the address it came from, after the delay, until killed."""
    asyncio.run(_serve(name, address, port, delay))


def fetch(result: Connection, address: str, port: int, count: int, parallel: int) -> None:
    """Send the Tally of `count` requests, each on a connection of its own, `parallel` at a time."""
    result.send(asyncio.run(_fetch(address, port, count, parallel)))


def keep_busy(result: Connection, stop: Connection, address: str, port: int, parallel: int, lifetime: float) -> None:
    """Send the Tally of `parallel` keep-alive connections that go on requesting until `stop` is readable.

    Each connection lives `lifetime` seconds, then a new one takes its place.
    """
    result.send(asyncio.run(_keep_busy(stop, address, port, parallel, lifetime)))


async def _serve(name: str, address: str, port: int, delay: Delay | None) -> None:
    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = f"{name} {writer.get_extra_info('peername')[0]}".encode()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if delay is not None and delay.value:
                    await asyncio.sleep(delay.value)
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(session, address, port, backlog=1024)
    await server.serve_forever()


async def _fetch(address: str, port: int, count: int, parallel: int) -> Tally:
    tally = Tally()
    started = time.monotonic()
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await _session(address, port, tally, until=0.0)

    await asyncio.gather(*(worker() for _ in range(parallel)))
    tally.seconds = time.monotonic() - started
    return tally


async def _keep_busy(stop: Connection, address: str, port: int, parallel: int, lifetime: float) -> Tally:
    tally = Tally()
    started = time.monotonic()

    async def worker(number: int) -> None:
        # Staggered, so that connections do not all end at once.
        first = lifetime * (number + 1) / parallel
        while not stop.poll():
            await _session(address, port, tally, until=time.monotonic() + first)
            first = lifetime

    await asyncio.gather(*(worker(number) for number in range(parallel)))
    tally.seconds = time.monotonic() - started
    return tally


async def _session(address: str, port: int, tally: Tally, *, until: float) -> None:
    """One connection: requests until the time has come, at least one."""
    writer = None
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), _PATIENCE)
        while True:
            writer.write(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n")
            tally.by[await asyncio.wait_for(read_answer(reader), _PATIENCE)] += 1
            if time.monotonic() >= until:
                return
            await asyncio.sleep(_THINK)
    except TimeoutError:
        tally.failed["timed out"] += 1
    except (OSError, asyncio.IncompleteReadError) as error:
        tally.failed[getattr(error, "strerror", None) or type(error).__name__] += 1
        await asyncio.sleep(0.01)
    finally:
        if writer:
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[str, str]:
    """Who answered, and the address that it saw. EOFError or OSError where the connection ends before, or where a proxy
    has nobody to ask."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split()[1].decode("ascii", "replace")
    if status != "200":
        raise OSError(errno.EPROTO, f"status {status}")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    name, _, peer = (await reader.readexactly(length)).decode().partition(" ")
    return name, peer
