"""What IPVS tells in /proc/net: a cheap digest of its table against drift, and its connections one by one."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from kernlb.model import Endpoint, EngineName, Family, Fwmark, IPAddress, Protocol, ServerKey, ServiceKey

# Of the calling thread: a worker may have entered another network namespace than the process.
_PROC = Path("/proc/thread-self/net")
_TABLE = "ip_vs"
_CONNECTIONS = "ip_vs_conn"
_AT_ONCE = 1 << 16
# ActiveConn and InActConn, "%-10d %-10d", which change without anybody configuring anything. Cutting columns is ten
# times as fast as a regular expression.
_COUNTS_WIDTH = 21
_SERVICE_STARTS = re.compile(rb"\n(?=[A-Z])")
_PROTOCOLS = {protocol.upper(): protocol for protocol in Protocol}


@dataclass(frozen=True, slots=True)
class Connection:
    """`expires` in seconds, unless packets come. `state` as the kernel names it: ESTABLISHED, FIN_WAIT, UDP..."""

    protocol: Protocol
    client: IPAddress
    client_port: int
    virtual: IPAddress
    virtual_port: int
    server: IPAddress
    server_port: int
    state: str
    expires: int


class Digest:
    """A number a virtual service, empty where there are none or no IPVS. Numbers mean nothing outside this process.

    Remembers the blocks that the kernel handed out the last time: one that is as it was is not looked into again.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, list[tuple[ServiceKey, int]]] = {}
        self._found: Mapping[ServiceKey, int] = {}

    def read(self) -> Mapping[ServiceKey, int]:
        try:
            descriptor = os.open(_PROC / _TABLE, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self.of([])
        try:
            return self.of(_blocks(iter(lambda: os.read(descriptor, _AT_ONCE), b"")))
        finally:
            os.close(descriptor)

    def of(self, blocks: Iterable[bytes]) -> Mapping[ServiceKey, int]:
        """Each block is whole virtual services. The same object as the last time where no number is another."""
        before = self._known
        known = {block: before.get(block) or list(_numbers(block)) for block in blocks}
        if known.keys() != before.keys():
            found: dict[ServiceKey, int] = {}
            for numbers in known.values():
                for key, number in numbers:
                    # A mark of each family looks alike here: both are named when either changes.
                    found[key] = hash((found.get(key, 0), number))
            self._known = known
            if found != self._found:
                self._found = found
        return self._found


def connections(server: ServerKey) -> Sequence[Connection]:
    try:
        text = (_PROC / _CONNECTIONS).read_text()
    except FileNotFoundError:
        return ()
    found = (parse_connection(line) for line in text.splitlines()[1:])
    return tuple(connection for connection in found if connection is not None and _belongs(connection, server))


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The kernel hands out a page of whole services, but a service that is larger than what was asked for in pieces."""
    block = b""
    for piece in pieces:
        if block.endswith(b"\n") and piece[:1].isupper():
            yield block
            block = b""
        block += piece
    yield block


def _numbers(block: bytes) -> Iterator[tuple[ServiceKey, int]]:
    for service in _SERVICE_STARTS.split(block.removesuffix(b"\n")):
        head, *lines = service.split(b"\n")
        number = hash((head, *[line[:-_COUNTS_WIDTH] for line in lines]))
        for key in _keys(head):
            yield key, number


def parse_connection(line: str) -> Connection | None:
    """None for persistence templates and for protocols that the model does not know."""
    match line.split():
        case [protocol, client, client_port, virtual, virtual_port, server, server_port, state, expires, *_] if (
            protocol in _PROTOCOLS
        ):
            return Connection(
                _PROTOCOLS[protocol],
                _address(client),
                int(client_port, 16),
                _address(virtual),
                int(virtual_port, 16),
                _address(server),
                int(server_port, 16),
                state,
                int(expires),
            )
    return None


@lru_cache(maxsize=1 << 14)
def _keys(head: bytes) -> tuple[ServiceKey, ...]:
    """The virtual services that a line may speak of: none for a heading, two for a mark."""
    match head.decode("ascii", "replace").split():
        case ["FWM", mark, *_]:
            return tuple(Fwmark(family, int(mark, 16)) for family in Family)
        case [protocol, where, *_] if protocol in _PROTOCOLS and ":" in where:
            address, _, port = where.rpartition(":")
            return (Endpoint(EngineName.IPVS, _PROTOCOLS[protocol], _address(address), int(port, 16)),)
    return ()


def _address(text: str) -> IPAddress:
    return IPv6Address(text.strip("[]")) if ":" in text else IPv4Address(int(text, 16))


def _belongs(connection: Connection, server: ServerKey) -> bool:
    if connection.server != server.address or connection.client_port == 0:
        return False
    if server.port not in (0, connection.server_port):
        return False
    service = server.service
    if isinstance(service, Fwmark):
        return True
    return (
        connection.protocol is service.protocol
        and connection.virtual == service.address
        and service.port in (0, connection.virtual_port)
    )
