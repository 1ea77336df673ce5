"""Real servers on loopback for the probes' tests, well behaved and hostile, and one way to run a probe."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

from kernlb.checks.base import Target, target_of
from kernlb.checks.kinds import Probers
from kernlb.checks.spec import Check
from kernlb.checks.verdict import Verdict

_POWERLESS = """
import asyncio
from kernlb.checks.spec import *
from tests.checks.servers import verdict
found = asyncio.run(verdict(Check(probe={probe}, timeout=5.0)))
print(found.outcome, found.text)
"""

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(
    handler: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """Yields the port. What a handler meets when the probe resets the connection is its own affair."""

    async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handled, host, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def saying(data: bytes) -> Handler:
    """Reads something, says `data`, waits for the end."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(data)
        await writer.drain()
        await reader.read(1)

    return handler


def endless(start: bytes, repeated: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(repeated)
            await writer.drain()
            await asyncio.sleep(0)  # drain alone need not give way to the probe in this loop

    return handler


def silent() -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    return handler


async def verdicts(*targets: Target) -> list[Verdict]:
    """Probes all of them at once, each through the prober of its kind."""
    found: dict[Target, Verdict] = {}
    complete = asyncio.Event()

    def report(done: object) -> None:
        for target, verdict in done:
            assert target not in found, "one verdict for each target started"
            found[target] = verdict
        if len(found) == len(targets):
            complete.set()

    probers = Probers(report)
    try:
        for target in targets:
            probers.of(target).start([target])
        await asyncio.wait_for(complete.wait(), 30)
    finally:
        probers.close()
    return [found[target] for target in targets]


async def verdict(check: Check, port: int = 0, host: str = "127.0.0.1") -> Verdict:
    return (await verdicts(target_of(check, ip_address(host), port)))[0]


def certificate(directory: Path, *, days: int = 30, name: str = "web.example") -> tuple[ssl.SSLContext, Path]:
    """A server's context with a self-signed certificate, and the file to trust."""
    key, file = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", file, "-days", str(days), "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return context, file


def powerless(probe: str) -> str:
    """What a probe says, its text evaluated, in a process without capabilities."""
    return without_capabilities(_POWERLESS.format(probe=probe))


def without_capabilities(code: str) -> str:
    """What Python code prints in a process like a unit's that was granted nothing."""
    bare = ["setpriv", "--securebits=+noroot"] if os.geteuid() == 0 else []
    done = subprocess.run([*bare, sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    return done.stdout.strip()
