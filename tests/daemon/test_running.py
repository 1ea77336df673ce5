"""The daemon as a process runs it: signals, and the verbs that look at it through its socket."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kernlb.control_client import ControlClient
from kernlb.daemon.running import _run
from kernlb.places import Places, current_namespace
from tests.checks.hanging import hung
from tests.daemon.world import PATIENCE, Server, World, service, until

pytestmark = pytest.mark.timeout(110)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 100))


@asynccontextmanager
async def running(world: World, text: str) -> AsyncIterator[Places]:
    """A daemon that heeds signals, on the memory engine. Ends by SIGTERM."""
    world.write(text)
    places = Places(namespace=current_namespace(), run=world.directory / "run", state=world.directory / "state")
    machine, signs, reconciler = world.made()
    task = asyncio.create_task(
        _run(world.source(), reconciler=reconciler, signs=signs, machine=machine, places=places, options=world.options)
    )
    try:
        await until(lambda: task.done() or ControlClient(places.control, timeout=1).serves())
        yield places
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, PATIENCE)


async def kernlb(places: Places, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
    """The command line, its output in a pipe."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kernlb", "--run-dir", str(places.run), "--state-dir", str(places.state), *arguments,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip


async def line(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    return json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE))


def test_sighup_reads_the_file_again_and_keeps_the_old_one_where_it_is_wrong(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        async with running(world, service(one)):
            world.write(service(one, two))
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: world.weights() == {one.address: 1, two.address: 1})
            world.write("[service.web]\nbnd = 1\n")
            os.kill(os.getpid(), signal.SIGHUP)
            heard = ""
            deadline = asyncio.get_running_loop().time() + PATIENCE
            while "event=reload-refused" not in heard:
                assert asyncio.get_running_loop().time() < deadline
                heard += capfd.readouterr().err
                await asyncio.sleep(0.01)
            await two.die()
            await until(lambda: world.weights() == {one.address: 1})
        # SIGTERM leaves traffic flowing.
        assert world.weights() == {one.address: 1}

    play(scene)


def test_sigterm_ends_it_though_a_checked_file_and_its_own_hang(world: World) -> None:
    weight = world.directory / "weight"
    weight.write_text("3\n")
    checked = service(Server(), check=f'check = {{ type = "file", path = "{weight}", interval = "50ms", fall = 1 }}\n')

    async def scene() -> None:
        async with running(world, checked):
            await until(lambda: set(world.weights().values()) == {300})
            holding.enter_context(hung(weight))
            holding.enter_context(hung(world.file))
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: world.weights() == {})

    # A lease is broken after 45 s: what waits for the threads waits for that.
    began = time.monotonic()
    with ExitStack() as holding:
        play(scene)
        assert time.monotonic() - began < PATIENCE


def test_ready_is_said_where_orders_are_taken_and_not_in_the_middle_of_a_reload(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        control = world.directory / "run" / current_namespace() / "control.sock"

        def hear() -> None:
            word = heard.recv(4096).decode().partition("=")[0]
            if word in ("READY", "RELOADING"):
                said.append(f"{word}{'' if control.exists() else ' and takes no orders'}")

        asyncio.get_running_loop().add_reader(heard.fileno(), hear)
        async with running(world, service(one, two)):
            await until(lambda: said == ["READY"])
            with hung(world.file):
                os.kill(os.getpid(), signal.SIGHUP)
                await until(lambda: said == ["READY", "RELOADING"])
                await two.die()
                await until(lambda: world.weights() == {one.address: 1})
                assert said == ["READY", "RELOADING"]
            await until(lambda: said == ["READY", "RELOADING", "READY"])
        asyncio.get_running_loop().remove_reader(heard.fileno())

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(world.directory / "notify"))
        heard.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", heard.getsockname())
        play(scene)


def test_enable_says_where_the_file_keeps_a_server_out(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        listed = f's2 = {{ address = "{two.where}", disabled = true }}\n'
        async with running(world, service(one) + listed) as places:
            for name, words in (("s1", "takes connections, if it is up"), ("s2", "the configuration says disabled")):
                enabling = await kernlb(places, "enable", "web", name)
                said, _ = await asyncio.wait_for(enabling.communicate(), PATIENCE)
                assert words in said.decode()

    play(scene)


def test_metrics_are_where_the_file_in_force_says(world: World) -> None:
    async def scene() -> None:
        server = Server()
        await server.live()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        async with running(world, service(server)):
            world.write(f'[metrics]\nlisten = "127.0.0.1:{port}"\n' + service(server))
            os.kill(os.getpid(), signal.SIGHUP)
            while b"kernlb_reconciled 1.0" not in (said := await scrape(port) or b""):
                await asyncio.sleep(0.01)
            assert b'kernlb_server_status{server="s1",service="web",status="up"}' in said
            world.write(service(server))
            os.kill(os.getpid(), signal.SIGHUP)
            while await scrape(port) is not None:
                await asyncio.sleep(0.01)

    play(scene)


async def scrape(port: int) -> bytes | None:
    """None where nobody listens; nothing from who ceases to just now."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
            return await reader.read()
    except ConnectionRefusedError:
        return None
    except ConnectionResetError:
        return b""


@pytest.mark.root
def test_a_group_may_use_the_socket_when_asked_for(world: World) -> None:
    world.options = replace(world.options, group="4242")

    async def scene() -> None:
        async with running(world, service(Server())) as places:
            found = places.control.stat()
            assert (found.st_gid, found.st_mode & 0o777) == (4242, 0o660)

    play(scene)


def test_status_in_a_pipe_is_one_document_a_change(world: World) -> None:
    async def scene() -> None:
        server = Server()
        await server.live()
        async with running(world, service(server)) as places:
            watching = await kernlb(places, "status", "--watch")
            seen = [await line(watching)]
            while seen[-1]["services"][0]["servers"][0]["status"] != "up":
                seen.append(await line(watching))
            await server.die()
            while seen[-1]["services"][0]["quorum"]:
                seen.append(await line(watching))
            assert len(seen) < 10
            assert all(before != after for before, after in pairwise(seen))
            watching.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(watching.wait(), PATIENCE) == 3

    play(scene)


def test_a_drain_through_the_daemon_is_waited_for_to_its_end(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        async with running(world, service(one, two)) as places:
            draining = await kernlb(places, "drain", "web", "s1", "--deadline", "2s", "--json")
            await until(lambda: world.weights() == {one.address: 0, two.address: 1})
            said, _ = await asyncio.wait_for(draining.communicate(), PATIENCE)
            assert draining.returncode == 0
            assert json.loads(said)["drained"] is True
            assert world.weights() == {two.address: 1}

    play(scene)


def test_top_shows_rates_by_name_and_ends_when_told(world: World) -> None:
    async def scene() -> None:
        server = Server()
        await server.live()
        async with running(world, service(server)) as places:
            top = await kernlb(places, "--json", "top", "--count", "1", "--interval", "100ms")
            (row,) = (await line(top))["servers"]
            assert (row["service"], row["server"], row["connections"]) == ("web", "s1", 0.0)
            assert await asyncio.wait_for(top.wait(), PATIENCE) == 0

    play(scene)


def test_the_shell_completes_names_that_the_daemon_knows(world: World) -> None:
    async def scene() -> None:
        async with running(world, service(Server(), Server())) as places:
            for words, expected in (("drain ", {"web"}), ("drain web s", {"s1", "s2"}), ("drain web x", set())):
                begun = f"kernlb --run-dir {places.run} {words}"
                number = len(begun.split()) - (not begun.endswith(" "))
                asked = {"_KERNLB_COMPLETE": "bash_complete", "COMP_WORDS": begun, "COMP_CWORD": str(number)}
                done = await kernlb(places, **asked)
                said, _ = await asyncio.wait_for(done.communicate(), PATIENCE)
                assert {each.rpartition(",")[2] for each in said.decode().split()} == expected

    play(scene)
