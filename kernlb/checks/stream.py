"""A byte stream to a target, TLS or not, that reads only within a budget and ends by reset."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache

from kernlb.checks.certificate import days_left
from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.spec import TlsOptions
from kernlb.checks.verdict import Code

BUDGET = 65536  # bytes a probe reads unless it says otherwise
CHUNK = 16384


class Stream:
    """What is beyond `budget` bytes is never read."""

    def __init__(
        self, conversation: Conversation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int
    ) -> None:
        self._conversation = conversation
        self._reader = reader
        self._writer = writer
        self._left = budget

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    async def read(self) -> bytes:
        """The next bytes; empty at the end of the stream. Failed where the budget is spent."""
        if self._left <= 0:
            raise Failed(self._conversation.layer, "answers without end")
        data = await self._reader.read(min(CHUNK, self._left))
        self._left -= len(data)
        if data:
            self._conversation.first_byte()
        return data

    async def line(self) -> bytes:
        """One line without its end; EOFError where the stream ends first."""
        if self._left <= 0:
            raise Failed(self._conversation.layer, "answers without end")
        try:
            data = await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise Failed(self._conversation.layer, "sends a line without end") from None
        self._left -= len(data)
        self._conversation.first_byte()
        return data.rstrip(b"\r\n")

    async def start_tls(self, options: TlsOptions) -> None:
        name = _name(self._conversation, options)
        self._conversation.layer = Code.L6RSP
        await self._writer.start_tls(context_of(options), server_hostname=name)
        _inspect(self._writer, options)
        self._conversation.layer = Code.L7RSP

    @property
    def protocol(self) -> str | None:
        """What ALPN agreed on."""
        tls = self._writer.get_extra_info("ssl_object")
        return None if tls is None else tls.selected_alpn_protocol()


@asynccontextmanager
async def connected(
    conversation: Conversation, tls: TlsOptions | None = None, *, budget: int = BUDGET
) -> AsyncIterator[Stream]:
    sock = await conversation.connect()
    try:
        if tls is None:
            reader, writer = await asyncio.open_connection(sock=sock, limit=CHUNK)
        else:
            conversation.layer = Code.L6RSP
            reader, writer = await asyncio.open_connection(
                sock=sock, limit=CHUNK, ssl=context_of(tls), server_hostname=_name(conversation, tls)
            )
    except BaseException:
        sock.close()
        raise
    try:
        if tls is not None:
            _inspect(writer, tls)
            conversation.layer = Code.L7RSP
        yield Stream(conversation, reader, writer, budget)
    finally:
        writer.transport.abort()


def _name(conversation: Conversation, options: TlsOptions) -> str:
    return options.server_name or str(conversation.target.address)


@lru_cache(maxsize=256)
def context_of(options: TlsOptions) -> ssl.SSLContext:
    """Raises OSError where the authorities' file cannot be read. Reads it once, until `forget_authorities`."""
    if options.verify:
        context = ssl.create_default_context(cafile=options.ca_file)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.alpn:
        context.set_alpn_protocols(list(options.alpn))
    return context


def forget_authorities() -> None:
    """What was read of their files: they may have been renewed."""
    context_of.cache_clear()


def _inspect(writer: asyncio.StreamWriter, options: TlsOptions) -> None:
    if options.certificate_days is None:
        return
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    left = None if certificate is None else days_left(certificate)
    if left is None:
        raise Failed(Code.L6RSP, "the certificate's dates cannot be read")
    if left < options.certificate_days:
        raise Failed(Code.L6RSP, f"the certificate ends in {left:.1f} days, {options.certificate_days} are asked for")
