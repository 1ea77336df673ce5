"""Where the daemon answers Prometheus: GET /metrics and nothing else, to whoever may reach the address."""

import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address

from kernlb.config.values import Metrics
from kernlb.daemon.daemon import Daemon
from kernlb.errors import Unsupported
from kernlb.http_server import HttpServer, Request, Response, document
from kernlb.journal import Journal, Level

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Listener:
    """`told` on the command line holds against every file; else it is where the file in force says."""

    def __init__(self, exposition: Callable[[], Awaitable[bytes]], *, told: Metrics | None = None) -> None:
        self._exposition = exposition
        self._told = told
        self._server: HttpServer | None = None
        self._at: Metrics | None = None

    async def move(self, configured: Metrics | None) -> None:
        """Raises Unsupported where one cannot listen there; then nobody is answered."""
        wanted = self._told or configured
        if wanted == self._at:
            return
        await self.close()
        self._at = wanted
        if wanted is not None:
            server = HttpServer(self._answer)
            await server.listen(_listening(wanted))
            self._server = server

    async def follow(self, daemon: Daemon, journal: Journal) -> None:
        """Each configuration that the daemon takes, until cancelled."""
        while True:
            configured = daemon.source.config.metrics
            try:
                await self.move(configured)
            except Unsupported as error:
                journal.say("metrics-off", level=Level.ERROR, message=error.message)
            # While it moved, another may have come.
            if daemon.source.config.metrics == configured:
                await daemon.changed()

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
        self._server, self._at = None, None

    async def _answer(self, request: Request) -> Response:
        if request.method == "GET" and request.path in ("/", "/metrics"):
            return Response(200, await self._exposition(), _TYPE)
        return document({"error": {"kind": "request", "message": "only GET /metrics is here"}}, status=404)


def _listening(place: Metrics) -> socket.socket:
    family = socket.AF_INET6 if isinstance(place.address, IPv6Address) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(place.address), place.port))
    except OSError as error:
        sock.close()
        raise Unsupported(
            f"cannot serve metrics on {place.address} port {place.port}: {error.strerror}",
            where="metrics.listen",
            hint="write another address, or --metrics ADDRESS:PORT",
        ) from error
    return sock
