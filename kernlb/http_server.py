"""A small HTTP/1.1 server on asyncio streams: bounded in clients, request size and patience. Knows no routes.

One request a connection. A client that is slow or never finishes costs one slot until its time is up, and delays
nobody; clients beyond the slots are answered 503 at once.
"""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import h11

HEADERS = 16 << 10
BODY = 16 << 20
PATIENCE = 10.0
"""Seconds for a client to send its request, and to take each part of the answer."""
CLIENTS = 32

_CHUNK = 64 << 10
_UCRED = struct.Struct("3i")
_SO_PEERGROUPS = 59  # linux/asm-generic/socket.h, since 4.13


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """`body` whole, or in parts as they come; the connection ends with it."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str = "application/json"


Handler = Callable[[Request], Awaitable[Response]]
Admit = Callable[[socket.socket], bool]
"""Whether this peer may ask at all."""


def document(content: object, *, status: int = 200) -> Response:
    return Response(status, encoded(json.dumps(content, ensure_ascii=False)) + b"\n")


def encoded(text: str) -> bytes:
    """JSON in UTF-8. What is no text, as in the name of a file, is written \\udcff: JSON's own notation."""
    return text.encode(errors="backslashreplace")


def peer_is(sock: socket.socket, *, user: int, group: int | None) -> bool:
    """Whether the peer of a unix socket runs as root, as `user` or in `group`."""
    _, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid in (0, user) or gid == group:
        return True
    if group is None:
        return False
    with suppress(OSError):
        listed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)  # the most that Python takes
        return group in struct.unpack(f"{len(listed) // 4}I", listed)
    return False


class HttpServer:
    def __init__(self, handler: Handler, *, admit: Admit | None = None, clients: int = CLIENTS) -> None:
        self._handler = handler
        self._admit = admit
        self._room = clients
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Serve on a bound socket, which is closed with the server."""
        self._server = await asyncio.start_server(self._met, sock=sock, limit=_CHUNK, backlog=128)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        refusal = None
        if self._admit is not None and not self._admit(writer.get_extra_info("socket")):
            refusal = _refusal(HTTPStatus.FORBIDDEN, "permission", "this user may not control kernlb", "be root")
        elif len(self._tasks) >= self._room:
            refusal = _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "too many clients", "try again")
        else:
            self._tasks.add(task)
        try:
            # What is written is gone when `drain` returns, not only less than the transport likes to keep.
            writer.transport.set_write_buffer_limits(high=0)
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADERS)
            if refusal is None:
                await self._serve(connection, reader, writer)
            else:
                writer.write(_whole(connection, refusal))
                await asyncio.wait_for(writer.drain(), 1.0)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, h11.LocalProtocolError):
            pass  # The client went away, or took too long.
        finally:
            self._tasks.discard(task)
            # Not close(): that would wait for a client that does not read.
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _serve(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                request = await _request(connection, reader)
        except h11.RemoteProtocolError as error:
            response = _refusal(error.error_status_hint or 400, "request", str(error), None)
        except _TooLarge:
            response = _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request", f"larger than {BODY} bytes", None)
        else:
            if request is None:
                return
            response = await self._answered(request)
            if request.method == "HEAD":
                if not isinstance(response.body, bytes):
                    await response.body.aclose()  # type: ignore[attr-defined]
                writer.write(connection.send(_head(response)) or b"")
                writer.write(connection.send(h11.EndOfMessage()) or b"")
                await asyncio.wait_for(writer.drain(), PATIENCE)
                return
        if isinstance(response.body, bytes):
            writer.write(_whole(connection, response))
            await asyncio.wait_for(writer.drain(), PATIENCE)
            return
        writer.write(connection.send(_head(response)) or b"")
        try:
            async for part in response.body:
                writer.write(connection.send(h11.Data(data=part)) or b"")
                await asyncio.wait_for(writer.drain(), PATIENCE)
        finally:
            await response.body.aclose()  # type: ignore[attr-defined]
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await asyncio.wait_for(writer.drain(), PATIENCE)

    async def _answered(self, request: Request) -> Response:
        """HEAD is asked as GET is."""
        try:
            return await self._handler(replace(request, method="GET") if request.method == "HEAD" else request)
        except Exception as error:  # Whoever asked is told, whatever is wrong with kernlb.
            told = {"message": f"{request.method} {request.path}", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)
            said = f"{type(error).__name__}: {error}"
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "defect", said, "this is a defect of kernlb")


class _TooLarge(Exception):
    """The body exceeds what a request may hold."""


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    """None where the client left before it asked anything."""
    head: h11.Request | None = None
    body: list[bytes] = []
    size = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                raise h11.RemoteProtocolError("Expect is not served", error_status_hint=417)
            received = await reader.read(_CHUNK)
            if not received and head is None and not connection.trailing_data[0]:
                return None
            connection.receive_data(received)
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size > BODY:
                raise _TooLarge
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            return None
    assert head is not None
    try:
        target = urlsplit(head.target.decode("ascii", "replace"))
    except ValueError as error:
        raise h11.RemoteProtocolError(str(error), error_status_hint=400) from error
    return Request(head.method.decode("ascii"), target.path, dict(parse_qsl(target.query)), b"".join(body))


def _head(response: Response) -> h11.Response:
    headers = [("Content-Type", response.content_type), ("Connection", "close")]
    if isinstance(response.body, bytes):
        headers.append(("Content-Length", str(len(response.body))))
    return h11.Response(status_code=int(response.status), headers=headers)


def _whole(connection: h11.Connection, response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    parts: list[Any] = [_head(response), h11.Data(data=response.body), h11.EndOfMessage()]
    return b"".join(connection.send(part) or b"" for part in parts)


def _refusal(status: int, kind: str, message: str, hint: str | None) -> Response:
    return document({"error": {"kind": kind, "message": message, "where": None, "hint": hint}}, status=int(status))
