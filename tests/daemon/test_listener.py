"""The metrics listener: GET /metrics and nothing else, where the file in force says."""

import asyncio
import socket
from contextlib import closing
from ipaddress import IPv4Address

import pytest

from kernlb.config.values import Metrics
from kernlb.daemon.listener import Listener
from kernlb.errors import Unsupported

HERE = IPv4Address("127.0.0.1")


async def exposition() -> bytes:
    return b"kernlb_reconciled 1.0\n"


def free_place() -> Metrics:
    with socket.create_server((str(HERE), 0)) as sock:
        return Metrics(address=HERE, port=sock.getsockname()[1])


async def ask(place: Metrics, path: str = "/metrics", method: str = "GET") -> bytes:
    reader, writer = await asyncio.open_connection(str(place.address), place.port)
    with closing(writer):
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return await reader.read()


def test_metrics_are_served_and_nothing_else_and_a_taken_port_is_an_error() -> None:
    async def scene() -> None:
        place, other = free_place(), Listener(exposition)
        listener = Listener(exposition)
        await listener.move(place)
        assert (await ask(place)).endswith(b"kernlb_reconciled 1.0\n")
        assert b" 404 " in await ask(place, "/drain", "POST")
        assert b" 404 " in await ask(place, "/status")
        with pytest.raises(Unsupported, match=f"port {place.port}"):
            await other.move(place)
        await listener.close()

    asyncio.run(asyncio.wait_for(scene(), 20))


def test_another_file_moves_it_or_ends_it_and_the_command_line_holds_against_both() -> None:
    async def scene() -> None:
        one, two = free_place(), free_place()
        listener, told = Listener(exposition), Listener(exposition, told=two)
        await listener.move(one)
        await told.move(one)
        assert await ask(two)
        await told.close()
        await listener.move(two)
        assert await ask(two)
        with pytest.raises(ConnectionRefusedError):
            await ask(one)
        await listener.move(None)
        with pytest.raises(ConnectionRefusedError):
            await ask(two)

    asyncio.run(asyncio.wait_for(scene(), 20))
