"""The control socket: who may use it, and what clients that misbehave cost the others."""

import asyncio
import json
import os
import socket
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kernlb import http_server
from kernlb.control_client import ControlClient, NoDaemon
from kernlb.errors import KernlbError
from kernlb.http_server import BODY, CLIENTS, HttpServer, Request, Response, peer_is
from tests.daemon.world import Server, World, half_request, service, until


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))


def say(path: Path, data: bytes) -> bytes:
    """Send this, and take all that comes back."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        with suppress(BrokenPipeError):
            sock.sendall(data)
        said = b""
        with suppress(ConnectionResetError):
            while part := sock.recv(1 << 16):
                said += part
        return said


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"DELETE /status HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n", b"431"),
        (b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST /drain HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{{{", b"400"),
        (b"POST /drain HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]", b"400"),
        (
            b'POST /weight HTTP/1.1\r\nHost: x\r\nContent-Length: 39\r\n\r\n{"service":"web","server":1,"weight":1}',
            b"400",
        ),
        (b"POST /apply HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST /apply HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n", b"417"),
    ],
)
def test_what_is_no_request_of_ours_is_refused(world: World, data: bytes, status: bytes) -> None:
    async def scene() -> None:
        async with world.running(service(Server())):
            said = await asyncio.to_thread(say, world.directory / "run" / "control.sock", data)
            assert said.split(b" ")[1] == status
            assert b'"error"' in said

    play(scene)


def posted(path: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (posted("/drain", rb'{"service": "\udcff", "server": "\ud800", "deadline": 1}'), b"409"),
        (posted("/plan", rb'{"file": "f", "content": "\ud800"}'), b"400"),
        (posted("/apply", rb'{"file": "\u0000", "content": ""}'), b"400"),
    ],
)
def test_what_is_no_text_is_answered_in_json(world: World, data: bytes, status: bytes) -> None:
    async def scene() -> None:
        async with world.running(service(Server())):
            said = await asyncio.to_thread(say, world.directory / "run" / "control.sock", data)
            assert said.split(b" ")[1] == status
            assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["message"]

    play(scene)


@pytest.mark.parametrize("target", ["/status", "/status?watch=1", "/metrics", "/nowhere"])
def test_head_is_answered_as_get_without_its_body(world: World, target: str) -> None:
    async def scene() -> None:
        async with world.running(service(Server())):
            path = world.directory / "run" / "control.sock"
            said = await asyncio.to_thread(say, path, f"HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert said.split(b" ")[1] == (b"404" if target == "/nowhere" else b"200")
            assert said.endswith(b"\r\n\r\n")
            assert said.count(b"\r\n\r\n") == 1

    play(scene)


def test_who_meets_a_defect_is_told_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: Request) -> Response:
        raise ZeroDivisionError("of the test")

    async def scene() -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "sock"))
        server = HttpServer(broken)
        await server.listen(sock)
        said = await asyncio.to_thread(say, tmp_path / "sock", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 500 " in said
        assert b"ZeroDivisionError: of the test" in said
        await server.close()

    play(scene)
    assert "GET /" in caplog.text


def test_a_body_beyond_the_bound_is_refused_before_it_is_read(world: World) -> None:
    async def scene() -> None:
        async with world.running(service(Server())):
            head = b"POST /apply HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
            said = await asyncio.to_thread(say, world.directory / "run" / "control.sock", head + chunk * 20)
            assert BODY < 20 << 20
            assert b" 413 " in said or said == b""

    play(scene)


def test_clients_that_never_finish_delay_nobody_and_are_sent_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "PATIENCE", 3.0)

    async def scene() -> None:
        server = Server()
        await server.live()
        async with world.running(service(server)):
            path = world.directory / "run" / "control.sock"
            held = [half_request(path, b"POST /apply HTTP/1.1\r\nHost: x\r\nContent-Le") for _ in range(CLIENTS - 1)]
            began = time.monotonic()
            await world.ask("GET", "/status")
            assert time.monotonic() - began < http_server.PATIENCE, "not only when they are sent away"
            # Checks go on meanwhile.
            await server.die()
            await until(lambda: world.weights() == {})
            held.append(half_request(path, b"GET"))
            deadline = time.monotonic() + 10
            for sock in held:
                sock.settimeout(max(0.1, deadline - time.monotonic()))
                assert await asyncio.to_thread(sock.recv, 1) == b""
                sock.close()
            assert (await world.ask("GET", "/status"))["services"]

    play(scene)


def test_more_clients_than_slots_are_told_so_at_once(world: World) -> None:
    async def scene() -> None:
        async with world.running(service(Server())):
            path = world.directory / "run" / "control.sock"
            held = [half_request(path, b"G") for _ in range(CLIENTS)]
            await asyncio.sleep(0.1)
            said = await asyncio.to_thread(say, path, b"")
            assert b" 503 " in said
            for sock in held:
                sock.close()
            await asyncio.sleep(0.1)
            assert (await world.ask("GET", "/status"))["services"]

    play(scene)


def test_a_watcher_gets_one_document_a_change_and_one_that_does_not_read_harms_nobody(world: World) -> None:
    async def scene() -> None:
        server = Server()
        await server.live()
        async with world.running(service(server)):
            path = world.directory / "run" / "control.sock"
            deaf = half_request(path, b"GET /status?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            seen: list[str] = []

            def watch() -> None:
                for status in ControlClient(path, timeout=20).watch():
                    seen.append(status["services"][0]["servers"][0]["status"])
                    if seen[-1] == "down":
                        return

            watching = asyncio.create_task(asyncio.to_thread(watch))
            await until(lambda: seen[-1:] == ["up"])
            await server.die()
            await watching
            assert seen[-1] == "down"
            assert len(seen) < 10
            deaf.close()

    play(scene)


def test_clients_that_read_slowly_get_their_answers_whole(tmp_path: Path) -> None:
    sizes = [(512 + 12 * number) << 10 for number in range(24)]

    async def scene() -> None:
        async def answer(request: Request) -> Response:
            return Response(200, b"x" * int(request.query["size"]))

        server = HttpServer(answer)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "s"))
        await server.listen(sock)

        def read(size: int) -> int:
            with half_request(tmp_path / "s", b"GET /?size=%d HTTP/1.1\r\nHost: x\r\n\r\n" % size) as client:
                said = b""
                while part := client.recv(4096):
                    said += part
                return len(said.partition(b"\r\n\r\n")[2])

        try:
            assert [await asyncio.to_thread(read, size) for size in sizes] == sizes
        finally:
            await server.close()

    play(scene)


def test_the_socket_is_for_root_and_the_daemons_user_alone(world: World) -> None:
    async def scene() -> None:
        async with world.running(service(Server())):
            assert (world.directory / "run" / "control.sock").stat().st_mode & 0o777 == 0o600

    play(scene)


def test_a_peer_is_told_by_its_credentials() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert peer_is(here, user=os.getuid(), group=None)
        if os.getuid() != 0:
            assert not peer_is(here, user=os.getuid() + 1, group=None)


@pytest.mark.root
def test_another_user_is_let_in_by_group_only() -> None:
    # Into the directories of other tests nobody else is let.
    with tempfile.TemporaryDirectory(dir="/tmp") as place, socket.socket(socket.AF_UNIX) as server:
        path = Path(place) / "s"
        path.parent.chmod(0o755)
        server.bind(str(path))
        path.chmod(0o666)
        server.listen()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([4242])
                os.setgid(65534)
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                    client.recv(1)
                code = 0
            finally:
                os._exit(code)
        peer, _ = server.accept()
        with peer:
            assert struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] == 65534
            assert not peer_is(peer, user=0, group=None)
            assert not peer_is(peer, user=0, group=4243)
            assert peer_is(peer, user=0, group=4242)
            assert peer_is(peer, user=0, group=65534)
        assert os.waitpid(child, 0)[1] == 0


def test_where_no_daemon_runs_the_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon):
        ControlClient(tmp_path / "none.sock").status()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left.sock"))
    with pytest.raises(NoDaemon):
        ControlClient(tmp_path / "left.sock").status()


def test_a_daemon_that_ends_in_the_middle_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        with pytest.raises(KernlbError):
            ControlClient(tmp_path / "s", timeout=0.3).status()


def test_metrics_are_labelled_by_configured_names(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        async with world.running(service(one, two)):
            await until(lambda: world.weights() == {one.address: 1})
            path = world.directory / "run" / "control.sock"
            said = (await asyncio.to_thread(say, path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).decode()
            assert 'kernlb_server_status{server="s1",service="web",status="up"} 1.0' in said
            assert 'kernlb_server_status{server="s2",service="web",status="down"} 1.0' in said
            assert 'kernlb_service_quorum{service="web"} 1.0' in said
            assert one.address not in said

    play(scene)
