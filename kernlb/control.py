"""The control socket: HTTP and JSON on a unix socket, for root, the daemon's own user and, if asked, one group.

Knows the routes and what a request must hold; what is done is the daemon's.

    GET  /status            what `kernlb status --json` prints; ?watch=1: one document a line, at every change, a second
                            apart at least; ?service=S&server=N: of this server alone
    GET  /metrics           Prometheus' text format
    POST /drain             {"service", "server", "deadline": seconds, "check"}
    POST /resume /disable /enable                {"service", "server", "check"}
    POST /weight            {"service", "server", "weight": units or null, "check"}
    POST /reload            the daemon's own file again
    POST /apply             {"file", "format", "content", "temporary", "confirm": seconds}
    POST /confirm           {"keep"}: what is on probation stays, or goes
    POST /plan              {"file", "format", "content"}: what apply would do
"""

import asyncio
import grp
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypedDict

from kernlb.checks.spec import HEAVIEST
from kernlb.errors import ConfigError, KernlbError, Unsupported
from kernlb.http_server import HttpServer, Request, Response, document, peer_is

WATCHERS = 16
_PACE = 1.0  # seconds between a watcher's documents at least: ten thousand servers change all the time
_HEARTBEAT = 10.0  # seconds; an empty line shows a watcher's end that nobody announced


class Controlled(Protocol):
    """What the socket asks of the daemon. Each returns a JSON document or raises KernlbError."""

    async def status(self) -> bytes:
        """In JSON, a line."""
        ...

    async def standing(self, service: str, server: str) -> dict[str, Any]:
        """Of the status what tells of one server."""
        ...

    async def changed(self) -> None:
        """Returns when the status is next worth looking at."""
        ...

    async def metrics(self) -> bytes: ...

    async def drain(self, service: str, server: str, *, deadline: float, check: bool) -> dict[str, Any]:
        """`check`, as in all orders: say what would be, order nothing."""
        ...

    async def resume(self, service: str, server: str, *, check: bool) -> dict[str, Any]: ...

    async def disable(self, service: str, server: str, *, check: bool) -> dict[str, Any]: ...

    async def weigh(self, service: str, server: str, *, weight: int | None, check: bool) -> dict[str, Any]: ...

    async def reload(self) -> dict[str, Any]: ...

    async def plan(self, *, file: str, format: str | None, content: str) -> dict[str, Any]: ...

    async def apply(
        self, *, file: str, format: str | None, content: str, temporary: bool, confirm: float | None
    ) -> dict[str, Any]: ...

    async def confirm(self, *, keep: bool) -> dict[str, Any]: ...


class Malformed(KernlbError):
    """A request that is none of the control socket's."""

    kind = "request"


class Control:
    """Serves one daemon. Other daemons' sockets are left alone: the lock says whose the place is."""

    def __init__(self, daemon: Controlled, path: Path, *, group: str | None = None) -> None:
        self._daemon = daemon
        self._path = path
        self._group = None if group is None else _group(group)
        self._watchers = 0
        self._server = HttpServer(self._answer, admit=self._admit)

    async def open(self) -> None:
        """Raises Unsupported where the place is not writable."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                sock.bind(str(self._path))
            finally:
                os.umask(before)
            if self._group is not None:
                os.chown(self._path, -1, self._group)
                self._path.chmod(0o660)
        except OSError as error:
            sock.close()
            raise Unsupported(
                f"cannot open the control socket: {error.strerror}", where=str(self._path), hint="choose --run-dir"
            ) from error
        await self._server.listen(sock)

    async def close(self) -> None:
        self._path.unlink(missing_ok=True)
        await self._server.close()

    def _admit(self, sock: socket.socket) -> bool:
        return peer_is(sock, user=os.geteuid(), group=self._group)

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._route(request)
        except KernlbError as error:
            status = 400 if isinstance(error, ConfigError | Malformed) else 409
            return document({"error": error_document(error)}, status=status)

    async def _route(self, request: Request) -> Response:
        daemon = self._daemon
        match request.method, request.path:
            case "GET", "/status" if request.query.get("watch"):
                if self._watchers >= WATCHERS:
                    raise Malformed(f"{WATCHERS} watchers are there already", hint="end one of them")
                return Response(200, self._watch(), "application/x-ndjson")
            case "GET", "/status" if request.query.get("server"):
                return document(await daemon.standing(request.query.get("service", ""), request.query["server"]))
            case "GET", "/status":
                return Response(200, await daemon.status())
            case "GET", "/metrics":
                return Response(200, await daemon.metrics(), "text/plain; version=0.0.4; charset=utf-8")
            case "POST", "/drain":
                body = _Body(request)
                deadline = body.number("deadline")
                return document(await daemon.drain(*body.server(), deadline=deadline, check=body.has("check")))
            case "POST", "/resume" | "/enable":
                body = _Body(request)
                return document(await daemon.resume(*body.server(), check=body.has("check")))
            case "POST", "/disable":
                body = _Body(request)
                return document(await daemon.disable(*body.server(), check=body.has("check")))
            case "POST", "/weight":
                body = _Body(request)
                return document(await daemon.weigh(*body.server(), weight=body.weight(), check=body.has("check")))
            case "POST", "/reload":
                return document(await daemon.reload())
            case "POST", "/plan":
                body = _Body(request)
                return document(await daemon.plan(**body.file()))
            case "POST", "/apply":
                body = _Body(request)
                confirm = body.number("confirm") if body.has("confirm") else None
                return document(await daemon.apply(**body.file(), temporary=body.has("temporary"), confirm=confirm))
            case "POST", "/confirm":
                return document(await daemon.confirm(keep=_Body(request).has("keep")))
        return document(
            {"error": error_document(Malformed(f"no {request.method} {request.path} here", where="control socket"))},
            status=404,
        )

    async def _watch(self) -> AsyncIterator[bytes]:
        self._watchers += 1
        try:
            last = b""
            while True:
                changed = asyncio.ensure_future(self._daemon.changed())
                try:
                    said = await self._daemon.status()
                    yield said if said != last else b"\n"
                    last = said
                    await asyncio.sleep(_PACE)
                    await asyncio.wait([changed], timeout=_HEARTBEAT)
                finally:
                    changed.cancel()
        finally:
            self._watchers -= 1


class _File(TypedDict):
    file: str
    format: str | None
    content: str


class _Body:
    """The JSON object of a request. Raises Malformed for what is not as it should be."""

    def __init__(self, request: Request) -> None:
        try:
            content = json.loads(request.body or b"{}")
        except (ValueError, RecursionError) as error:
            raise Malformed("the body is no JSON", where=request.path) from error
        if not isinstance(content, dict):
            raise Malformed("the body is no JSON object", where=request.path)
        self._content: Mapping[str, Any] = content

    def has(self, key: str) -> bool:
        return bool(self._content.get(key))

    def text(self, key: str) -> str:
        found = self._content.get(key)
        if not isinstance(found, str):
            raise Malformed(f"{key} must be text", where=key)
        return found

    def file(self) -> "_File":
        file, content = self.text("file"), self.text("content")
        format = self.text("format") if self.has("format") else None
        if "\0" in file:
            raise Malformed("file must be a path", where="file")
        try:
            content.encode(errors="surrogateescape")
        except UnicodeEncodeError as error:
            raise Malformed("content must be what a file can hold", where="content") from error
        return {"file": file, "format": format, "content": content}

    def server(self) -> tuple[str, str]:
        return self.text("service"), self.text("server")

    def number(self, key: str) -> float:
        found = self._content.get(key)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 1e9:
            raise Malformed(f"{key} must be seconds, 0 or more", where=key)
        return float(found)

    def weight(self) -> int | None:
        found = self._content.get("weight")
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= HEAVIEST:
            raise Malformed(f"weight must be 0 to {HEAVIEST}", where="weight")
        return found


def error_document(error: KernlbError) -> dict[str, Any]:
    said: dict[str, Any] = {
        "kind": error.kind,
        "message": error.message,
        "where": error.where,
        "hint": error.hint,
    }
    if isinstance(error, ConfigError):
        said["file"] = error.file
        said["mistakes"] = [
            {"path": m.path, "line": m.line, "message": m.message, "hint": m.hint} for m in error.mistakes
        ]
    return said


def _group(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise Unsupported(f"there is no group {name!r}", hint="make it with groupadd") from error
