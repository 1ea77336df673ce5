"""Telling neighbours that an address is here now: gratuitous ARP (RFC 5944, 4.6), unsolicited NA (RFC 4861, 7.2.6).

Best effort: the address works without it as soon as the neighbours' caches expire.
"""

import logging
import socket
import struct
from collections.abc import Iterator
from fcntl import ioctl
from ipaddress import IPv4Address, IPv6Address

from kernlb.model import IPAddress

_log = logging.getLogger(__name__)

_ETH_P_ARP = 0x0806
_ETH_P_IPV6 = 0x86DD
_ARPHRD_ETHER = 1
_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80
_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_NEIGHBOUR_ADVERTISEMENT = 136
_OVERRIDE = 0x20000000
_ICMPV6 = 58


def announce(interface: str, address: IPAddress) -> None:
    """Does nothing on interfaces without neighbours: loopback, tunnels, down."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packet:
            if not _has_neighbours(packet, interface):
                return
            packet.bind((interface, 0))
            _, _, _, hardware, mac = packet.getsockname()
            if hardware != _ARPHRD_ETHER:
                return
            for frame in frames(mac, address):
                packet.send(frame)
    except OSError as error:
        _log.warning("the neighbours on %s were not told of %s: %s", interface, address, error.strerror)


def frames(mac: bytes, address: IPAddress) -> Iterator[bytes]:
    """The Ethernet frames that tell of an address at `mac`."""
    if isinstance(address, IPv6Address):
        yield _ALL_NODES_MAC + mac + struct.pack("!H", _ETH_P_IPV6) + _advertisement(mac, address)
        return
    # Some hosts heed only the request, some only the reply.
    for operation, target in ((1, b"\0" * 6), (2, _BROADCAST)):
        yield _BROADCAST + mac + struct.pack("!H", _ETH_P_ARP) + _arp(operation, mac, address, target)


def _has_neighbours(packet: socket.socket, interface: str) -> bool:
    answer = ioctl(packet, _SIOCGIFFLAGS, struct.pack("16s24x", interface.encode()))
    flags: int = struct.unpack_from("H", answer, 16)[0]
    return bool(flags & _IFF_UP) and not flags & (_IFF_LOOPBACK | _IFF_NOARP)


def _arp(operation: int, mac: bytes, address: IPv4Address, target: bytes) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return head + mac + address.packed + target + address.packed


def _advertisement(mac: bytes, address: IPv6Address) -> bytes:
    body = struct.pack("!I", _OVERRIDE) + address.packed + struct.pack("!BB", 2, 1) + mac
    length = 4 + len(body)
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", length, _ICMPV6)
    checksum = _checksum(pseudo + struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, 0) + body)
    message = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, checksum) + body
    # Hop limit 255: neighbours refuse what a router has passed on.
    return struct.pack("!IHBB", 6 << 28, length, _ICMPV6, 255) + address.packed + _ALL_NODES.packed + message


def _checksum(data: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
