"""The metrics listener: GET /metrics and nothing else, where the file in force says."""

import asyncio
import socket
import time
from contextlib import closing, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kernlb.config.values import Metrics
from kernlb.daemon.daemon import Daemon
from kernlb.daemon.listener import Listener
from kernlb.errors import Unsupported
from kernlb.journal import Journal
from tests.daemon.world import PATIENCE, Server, World, service

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


async def answered(place: Metrics) -> None:
    """Until somebody answers there. Fails at the deadline."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            assert await ask(place)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nobody answers on port {place.port}"
            await asyncio.sleep(0.01)
        else:
            return


async def quiet(daemon: Daemon) -> None:
    """Until nothing has happened for a second."""
    with suppress(TimeoutError):
        while True:
            await asyncio.wait_for(daemon.changed(), 1)


def test_what_is_configured_while_it_moves_is_heeded_too(tmp_path: Path) -> None:
    async def scene() -> None:
        world, server = World(tmp_path), Server()
        await server.live()
        one, two, three = free_place(), free_place(), free_place()
        asked, gate = asyncio.Event(), asyncio.Event()

        async def lengthy() -> bytes:
            """Its answer is under way, and takes its time to be given up."""
            if gate.is_set():
                return await exposition()
            asked.set()
            try:
                await asyncio.Event().wait()
                return b""
            finally:
                await gate.wait()

        def configured(place: Metrics) -> str:
            return f'[metrics]\nlisten = "{place.address}:{place.port}"\n{service(server)}'

        listener = Listener(lengthy)
        async with world.running(configured(one)) as daemon:
            following = asyncio.create_task(listener.follow(daemon, Journal(world.log, clock=time.time)))
            asking = asyncio.create_task(ask(one))
            await asyncio.wait_for(asked.wait(), PATIENCE)
            for place in (two, three):
                world.write(configured(place))
                await world.ask("POST", "/reload")
                await quiet(daemon)
            gate.set()
            await answered(three)
            with pytest.raises(ConnectionRefusedError):
                await ask(two)
            following.cancel()
            asking.cancel()
            await listener.close()
        await server.die()

    asyncio.run(asyncio.wait_for(scene(), 60))
