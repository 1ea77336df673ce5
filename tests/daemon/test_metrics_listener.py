"""The metrics listener: GET /metrics and nothing else."""

import asyncio
import socket

import pytest

from kernlb.daemon.running import _metrics
from kernlb.errors import Unsupported


class Scraped:
    """Answers for the daemon's orders."""

    async def metrics(self) -> bytes:
        return b"kernlb_reconciled 1.0\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    said = await reader.read()
    writer.close()
    return said


def test_metrics_are_served_and_nothing_else_and_a_taken_port_is_an_error() -> None:
    async def scene() -> None:
        port = free_port()
        close = await _metrics(Scraped(), "127.0.0.1", port)  # type: ignore[arg-type]
        assert (await ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).endswith(b"kernlb_reconciled 1.0\n")
        for request in (b"POST /drain HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"):
            assert b" 404 " in await ask(port, request)
        with pytest.raises(Unsupported, match=f"port {port}"):
            await _metrics(Scraped(), "127.0.0.1", port)  # type: ignore[arg-type]
        await close()

    asyncio.run(asyncio.wait_for(scene(), 20))
