"""Real servers of one machine, each on a port of its own and each in the state that a script puts it in."""

import asyncio
import subprocess
from enum import StrEnum
from multiprocessing.connection import Connection

SILENT = """
table inet soak {
	set silent {
		type inet_service
	}
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport @silent drop
	}
}
"""


class Fault(StrEnum):
    """What is wrong with a real server."""

    NONE = "well"
    REFUSES = "refuses"  # no listener: its machine answers by reset
    SILENT = "silent"  # packets to it are dropped
    FAILS = "fails"  # answers every request with 503
    STUCK = "stuck"  # takes requests and answers none
    CLOSES = "closes"  # takes connections and ends them


TRANSPORT = (Fault.NONE, Fault.REFUSES, Fault.SILENT)
"""The faults that a connect sees."""


def serve(orders: Connection, name: str, address: str) -> None:
    """Takes pairs of a port and a Fault; answers each when it is so."""
    _nft(SILENT)
    asyncio.run(Machine(orders, name, address).run())


class Machine:
    def __init__(self, orders: Connection, name: str, address: str) -> None:
        self._orders = orders
        self._name = name
        self._address = address
        self._faults: dict[int, Fault] = {}
        self._listeners: dict[int, asyncio.Server] = {}

    async def run(self) -> None:
        """Until nobody orders any more."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._orders.fileno(), readable.set)
        while True:
            await readable.wait()
            readable.clear()
            while self._orders.poll():
                try:
                    port, fault = self._orders.recv()
                except EOFError:
                    return
                await self._put(port, Fault(fault))
                self._orders.send(None)

    async def _put(self, port: int, fault: Fault) -> None:
        before = self._faults.get(port, Fault.REFUSES)
        self._faults[port] = fault
        if (fault is Fault.SILENT) is not (before is Fault.SILENT):
            _nft(f"{'add' if fault is Fault.SILENT else 'delete'} element inet soak silent {{ {port} }}")
        if fault is Fault.REFUSES:
            listener = self._listeners.pop(port, None)
            if listener is not None:
                listener.close()
        elif port not in self._listeners:
            self._listeners[port] = await asyncio.start_server(
                lambda reader, writer: self._session(port, reader, writer), self._address, port, backlog=1024
            )

    async def _session(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = f"{self._name}:{port} {writer.get_extra_info('peername')[0]}".encode()
        try:
            async with asyncio.timeout(5):
                if self._faults[port] is Fault.CLOSES:
                    return
                await reader.readuntil(b"\r\n\r\n")
                match self._faults[port]:
                    case Fault.STUCK:
                        await reader.read()
                    case Fault.FAILS:
                        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                    case _:
                        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def _nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, timeout=60)
