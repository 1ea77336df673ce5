"""Forgets what connection tracking holds of a real server that IPVS has no more.

IPVS schedules the retransmitted SYN of a lost connection anew only where tracking does not know it yet; otherwise it
drops that packet (ip_vs_in_hook in net/netfilter/ipvs/ip_vs_core.c), and the client waits for its next attempt, 2 s or
4 s later. Nothing here is needed for more than that: where the kernel refuses, nothing is said.
"""

import socket
import struct
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from kernlb.engines.wire import netlink
from kernlb.engines.wire.netlink import Control, Flag
from kernlb.model import Fwmark, Protocol, ServerKey

_TRACKED = Path("/proc/sys/net/ipv4/vs/conntrack")
_NETLINK_NETFILTER = 12
# linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_ORIGINAL, _REPLY, _ZONE, _FILTER = 1, 2, 18, 25
_IP, _PROTO = 1, 2
_V4_SOURCE, _V4_DESTINATION, _V6_SOURCE, _V6_DESTINATION = 1, 2, 3, 4
_NUMBER, _SOURCE_PORT = 1, 2
_FILTER_REPLY = 2
_BY_SOURCE, _BY_PROTOCOL, _BY_SOURCE_PORT = 1 << 0, 1 << 3, 1 << 4  # in-kernel filters, Linux 5.8
_TIMEOUT = 2.0
_PATIENCE = 1.0
"""Seconds after which no further server is looked for: each costs a walk through the kernel's whole table."""
_BUFFER = 1 << 20
_TOGETHER = 200
_PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}


class Conntrack:
    """In the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.settimeout(_TIMEOUT)

    def close(self) -> None:
        self._socket.close()

    def forget(self, servers: Collection[ServerKey]) -> None:
        """The connections whose answers come from these and that were sent to another address: to a VIP."""
        try:
            if not servers or _TRACKED.read_text().strip() != "1":
                return
        except OSError:
            return
        deadline = time.monotonic() + _PATIENCE
        for server in servers:
            if time.monotonic() > deadline:
                return
            with suppress(OSError):
                self.forget_server(server)

    def forget_server(self, server: ServerKey) -> int:
        """How many connections were forgotten. Raises OSError."""
        family = socket.AF_INET if server.address.version == 4 else socket.AF_INET6
        service = server.service
        found = [
            _identity(each)
            for protocol in (Protocol if isinstance(service, Fwmark) else (service.protocol,))
            for each in self._dump(family, _answered_by(server, protocol))
            if _of(each, server)
        ]
        for start in range(0, len(found), _TOGETHER):
            self._delete(family, found[start : start + _TOGETHER])
        return len(found)

    def _dump(self, family: int, attributes: bytes) -> list[Mapping[int, memoryview]]:
        self._sequence += 1
        self._socket.send(netlink.request(_GET, _body(family, attributes), self._sequence, Flag.DUMP))
        found: list[Mapping[int, memoryview]] = []
        for message in self._answers():
            if message.kind == Control.DONE:
                break
            found.append(netlink.attributes(message.body[4:]))
        return found

    def _delete(self, family: int, connections: Collection[bytes]) -> None:
        first, last = self._sequence + 1, self._sequence + len(connections)
        self._sequence = last
        bodies = [_body(family, each) for each in connections]
        self._socket.send(netlink.batch(_DELETE, bodies, first, last=last))
        # One that has ended meanwhile is refused and as good as forgotten.
        while not any(message.sequence == last for message in self._messages()):
            pass

    def _answers(self) -> Iterator[netlink.Message]:
        while True:
            for message in self._messages():
                if message.sequence != self._sequence:
                    continue
                if message.kind == Control.ERROR and (number := netlink.errno_of(message)):
                    raise OSError(number, "conntrack")
                yield message

    def _messages(self) -> list[netlink.Message]:
        return list(netlink.messages(self._socket.recv(_BUFFER)))


def _body(family: int, attributes: bytes) -> bytes:
    return struct.pack("=BBH", family, 0, 0) + attributes


def _answered_by(server: ServerKey, protocol: Protocol) -> bytes:
    """What the kernel is to leave out of the dump already; `_of` looks at the rest."""
    transport = [netlink.u8(_NUMBER, _PROTOCOLS[protocol])]
    members, wanted = [], _BY_PROTOCOL
    if server.port:
        transport.append(netlink.attribute(_SOURCE_PORT, server.port.to_bytes(2, "big")))
        wanted |= _BY_SOURCE_PORT
    if server.address.version == 4:  # Of IPv6 addresses, kernels take those that differ (6.18 does).
        members.append(netlink.nested(_IP, netlink.attribute(_V4_SOURCE, server.address.packed)))
        wanted |= _BY_SOURCE
    reply = netlink.nested(_REPLY, *members, netlink.nested(_PROTO, *transport))
    return reply + netlink.nested(_FILTER, netlink.u32(_FILTER_REPLY, wanted))


def _of(connection: Mapping[int, memoryview], server: ServerKey) -> bool:
    """Whether it was sent to another address, and this server answers."""
    v4 = server.address.version == 4
    reply, original = (netlink.attributes(connection[kind]) for kind in (_REPLY, _ORIGINAL))
    source = bytes(netlink.attributes(reply[_IP]).get(_V4_SOURCE if v4 else _V6_SOURCE, b""))
    destination = bytes(netlink.attributes(original[_IP]).get(_V4_DESTINATION if v4 else _V6_DESTINATION, b""))
    port = bytes(netlink.attributes(reply[_PROTO]).get(_SOURCE_PORT, b""))
    ours = source == server.address.packed != destination
    return ours and (not server.port or port == server.port.to_bytes(2, "big"))


def _identity(connection: Mapping[int, memoryview]) -> bytes:
    zone = netlink.attribute(_ZONE, bytes(connection[_ZONE])) if _ZONE in connection else b""
    return netlink.nested(_ORIGINAL, bytes(connection[_ORIGINAL])) + zone
