"""Talks to the daemon of a namespace over its control socket. Errors that the daemon answers with are raised here."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kernlb.errors import ConfigError, KernlbError, Mistake, Unsupported

PATIENCE = 120.0
"""Seconds to wait for an answer: a reload writes a large table before it answers."""


class NoDaemon(KernlbError):
    """Nobody serves the control socket."""

    kind = "no-daemon"


class NoAnswer(KernlbError):
    """Somebody serves the control socket, and said nothing, or no end of it."""

    kind = "no-answer"


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except BaseException:
            self.sock.close()
            raise


class ControlClient:
    def __init__(self, path: Path, *, timeout: float = PATIENCE) -> None:
        self._path = path
        self._timeout = timeout

    def serves(self) -> bool:
        """Whether a daemon listens."""
        connection = _UnixConnection(self._path, self._timeout)
        try:
            connection.connect()
        except OSError:
            return False
        connection.close()
        return True

    def status(self) -> dict[str, Any]:
        return self.ask("GET", "/status")

    def standing(self, service: str, server: str) -> list[dict[str, Any]]:
        """What the status says of one server, in each virtual service that it is in. Raises what speaks against it."""
        query = urlencode({"service": service, "server": server})
        return [each for shown in self.ask("GET", f"/status?{query}")["services"] for each in shown["servers"]]

    def ask(self, method: str, path: str, **body: object) -> dict[str, Any]:
        """Raises NoDaemon where nobody listens, and the daemon's own errors."""
        with closing(self._open(method, path, body)) as connection:
            return self._document(self._answer(connection))

    def watch(self) -> Iterator[dict[str, Any]]:
        """The status at every change, until the daemon ends or the caller has seen enough."""
        with closing(self._open("GET", "/status?watch=1", {})) as connection:
            response = self._answer(connection)
            if response.status != 200:
                self._document(response)
            try:
                while line := response.readline():
                    if line.strip():
                        yield json.loads(line)
            except (OSError, HTTPException, ValueError) as error:
                raise self._broken(error) from error

    def _open(self, method: str, path: str, body: dict[str, object]) -> HTTPConnection:
        connection = _UnixConnection(self._path, self._timeout)
        text = json.dumps(body) if method == "POST" else None
        try:
            connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        except (FileNotFoundError, ConnectionRefusedError) as error:
            connection.close()
            raise NoDaemon("no daemon runs here", where=str(self._path), hint="kernlb run FILE starts one") from error
        except OSError as error:
            connection.close()
            hint = "run as root" if isinstance(error, PermissionError) else None
            raise Unsupported(
                f"cannot reach the daemon: {error.strerror or error}", where=str(self._path), hint=hint
            ) from error
        return connection

    def _answer(self, connection: HTTPConnection) -> HTTPResponse:
        try:
            return connection.getresponse()
        except (OSError, HTTPException) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> NoAnswer:
        what = str(error) or type(error).__name__
        return NoAnswer(f"the daemon gave no answer: {what}", where=str(self._path), hint="see the daemon's log")

    def _document(self, response: HTTPResponse) -> dict[str, Any]:
        try:
            said = json.loads(response.read())
        except (OSError, HTTPException, ValueError) as error:
            raise self._broken(error) from error
        if response.status != 200:
            raise error_of(said.get("error", {}))
        found: dict[str, Any] = said
        return found


def error_of(said: dict[str, Any]) -> KernlbError:
    """The error that a document of the daemon tells of."""
    if "mistakes" in said:
        mistakes = [Mistake(m["path"], m["message"], m["line"], m["hint"]) for m in said["mistakes"]]
        return ConfigError(said["file"], mistakes)
    error = KernlbError(said.get("message", "the daemon refused"), where=said.get("where"), hint=said.get("hint"))
    error.kind = said.get("kind", "error")
    return error
