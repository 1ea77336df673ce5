"""What the kernel knows of links, addresses, neighbours and routes, of the namespace it is made in. Changes nothing.

A plain socket and packed structures (linux/rtnetlink.h), as asked every second: pyroute2 takes 50 times as long.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

IPAddress = IPv4Address | IPv6Address

GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE: what a next hop depends on."""

_NETLINK_ROUTE = 0
_ERROR, _DONE = 2, 3
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_GETLINK, _GETADDR, _GETROUTE, _GETTFILTER = 18, 22, 26, 46
_REQUEST, _ACK, _DUMP, _CREATE = 1, 4, 0x300, 0x400
_NTF_USE = 1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_PATIENCE = 5.0
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

IFF_UP, IFF_LOOPBACK = 0x1, 0x8
ARPHRD_ETHER = 1
# NUD_REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT of linux/neighbour.h: the address is known.
_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`peer_elsewhere`: the other end of a veth lies in another namespace. `master`: a bridge or bond it belongs to.
    `xdp_programs`: the kernel's numbers of those attached."""

    index: int
    name: str
    mac: bytes
    mtu: int
    up: bool
    loopback: bool
    ethernet: bool
    kind: str
    peer_elsewhere: bool
    master: int
    xdp_programs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """`gateway` is None where the destination is a neighbour itself."""

    interface: int
    gateway: IPAddress | None
    source: IPAddress | None
    mtu: int
    local: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """By interface and address; `mac` is None where none is known (any more)."""

    key: tuple[int, IPAddress]
    mac: bytes | None


class Rtnetlink:
    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
        self._socket.settimeout(_PATIENCE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Rtnetlink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def links(self) -> dict[int, Link]:
        found = {}
        for body in self._ask(_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0), _DUMP):
            _, hardware, index, flags, _ = struct.unpack_from("=BxHiII", body)
            attributes = dict(_attributes(body[16:]))
            kind = dict(_attributes(attributes.get(18, b""))).get(1, b"")  # IFLA_LINKINFO, IFLA_INFO_KIND
            found[index] = Link(
                index=index,
                name=_text(attributes.get(3, b"")),
                mac=attributes.get(1, bytes(6)),
                mtu=_number(attributes.get(4)),
                up=bool(flags & IFF_UP),
                loopback=bool(flags & IFF_LOOPBACK),
                ethernet=hardware == ARPHRD_ETHER,
                kind=_text(kind),
                peer_elsewhere=_text(kind) == "veth" and 37 in attributes,  # IFLA_LINK_NETNSID
                master=_number(attributes.get(10)),
                xdp_programs=_xdp_programs(attributes.get(43, b"")),
            )
        return found

    def addresses(self) -> list[tuple[int, IPAddress]]:
        """Every address and its interface; link-local ones of IPv6 too."""
        found = []
        for body in self._ask(_GETADDR, struct.pack("=BBBBi", 0, 0, 0, 0, 0), _DUMP):
            family, _, _, _, index = struct.unpack_from("=BBBBi", body)
            attributes = dict(_attributes(body[8:]))
            # IFA_LOCAL; on a point-to-point link IFA_ADDRESS is the peer's.
            packed = attributes.get(2, attributes.get(1))
            if family in _FAMILIES.values() and packed:
                found.append((index, _address(packed)))
        return found

    def neighbours(self) -> dict[tuple[int, IPAddress], bytes]:
        """The MAC address of each neighbour that has a known one."""
        told = map(_neighbour, self._ask(_GETNEIGH, struct.pack("=B3xiHBB", 0, 0, 0, 0, 0), _DUMP))
        return {each.key: each.mac for each in told if each is not None and each.mac is not None}

    def route(self, destination: IPAddress) -> Route | None:
        """Where a packet of this machine's own would go; None where the kernel has no way."""
        head = struct.pack("=BBBBBBBBI", _FAMILIES[destination.version], len(destination.packed) * 8, *[0] * 6, 0)
        try:
            (body,) = self._ask(_GETROUTE, head + _attribute(1, destination.packed), 0)
        except OSError:
            return None
        kind = body[7]
        attributes = dict(_attributes(body[12:]))
        metrics = dict(_attributes(attributes.get(8, b"")))
        gateway = attributes.get(5)
        if 18 in attributes:  # RTA_VIA: an IPv4 destination behind an IPv6 gateway
            gateway = attributes[18][2:]
        source = attributes.get(7)
        if kind not in (1, 2):  # RTN_UNICAST, RTN_LOCAL
            return None
        return Route(
            interface=_number(attributes.get(4)),
            gateway=_address(gateway) if gateway else None,
            source=_address(source) if source else None,
            mtu=_number(metrics.get(2)),
            local=kind == 2,
        )

    def has_filters(self, interface: int) -> bool:
        """Whether anything hangs at the clsact qdisc of an interface."""
        for parent in (0xFFFFFFF2, 0xFFFFFFF3):  # ingress, egress
            with suppress(OSError):
                if self._ask(_GETTFILTER, struct.pack("=BxxxiIII", 0, interface, 0, parent, 0), _DUMP):
                    return True
        return False

    def resolve(self, interface: int, neighbour: IPAddress) -> None:
        """Have the kernel ask for a neighbour's MAC address; `neighbours` has it once it has answered."""
        head = struct.pack("=B3xiHBB", _FAMILIES[neighbour.version], interface, 0, _NTF_USE, 0)
        # Refused where the interface is going away: then there is nothing to resolve.
        with suppress(OSError):
            list(self._ask(_NEWNEIGH, head + _attribute(1, neighbour.packed), _ACK | _CREATE))

    def _ask(self, kind: int, body: bytes, flags: int) -> list[bytes]:
        self._sequence += 1
        message = _HEADER.pack(16 + len(body), kind, _REQUEST | flags, self._sequence, 0) + body
        self._socket.send(message)
        found: list[bytes] = []
        while True:
            for answer, sequence, content in _messages(self._socket.recv(1 << 16)):
                if sequence != self._sequence:
                    continue
                if answer == _ERROR:
                    (errno,) = struct.unpack_from("=i", content)
                    if errno:
                        raise OSError(-errno, os.strerror(-errno))
                    return found
                if answer == _DONE:
                    return found
                found.append(content)
                if not flags:
                    return found


class Notifications:
    """What the kernel tells of GROUPS from now on."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
        self._socket.bind((0, GROUPS))

    def close(self) -> None:
        self._socket.close()

    def read(self) -> Iterator[Neighbour | None]:
        """What has been told since the last call: a neighbour, or None for anything else, a loss too."""
        while True:
            try:
                datagram = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                yield None
                continue
            for kind, _, body in _messages(datagram):
                told = _neighbour(body) if kind in (_NEWNEIGH, _DELNEIGH) else None
                if told is not None or kind not in (_NEWNEIGH, _DELNEIGH):
                    yield told


def _messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence and content of each."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, _, sequence, _ = _HEADER.unpack_from(datagram, at)
        yield kind, sequence, datagram[at + _HEADER.size : at + length]
        at += max(length + 3 & ~3, _HEADER.size)


def _neighbour(body: bytes) -> Neighbour | None:
    """None where it is none of IP."""
    family, index, state, _, _ = struct.unpack_from("=B3xiHBB", body)
    attributes = dict(_attributes(body[12:]))
    if family not in _FAMILIES.values() or 1 not in attributes:
        return None
    mac = attributes.get(2, b"")
    return Neighbour((index, _address(attributes[1])), mac if state & _KNOWN and len(mac) == 6 else None)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def _address(packed: bytes) -> IPAddress:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _xdp_programs(told: bytes) -> tuple[int, ...]:
    """IFLA_XDP: the number in each mode (IFLA_XDP_DRV_PROG_ID, SKB, HW), or the one there is (IFLA_XDP_PROG_ID)."""
    numbers = dict(_attributes(told))
    return tuple(sorted({_number(numbers[kind]) for kind in (4, 5, 6, 7) if kind in numbers} - {0}))


def _number(data: bytes | None) -> int:
    return struct.unpack("=I", data)[0] if data else 0
