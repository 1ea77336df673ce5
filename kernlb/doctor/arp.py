"""Who answers ARP for an IPv4 address: asked as duplicate address detection asks (RFC 5227), which teaches nobody."""

import socket
import struct
import time
from ipaddress import IPv4Address

from kernlb.engines.rtnetlink import Link

_ETH_P_ARP = 0x0806
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
_EVERYBODY = b"\xff" * 6
_SECONDS = 0.5


def answering(address: IPv4Address, link: Link) -> set[bytes]:
    """The MAC addresses of other machines that answer for it on a link."""
    found: set[bytes] = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(_ETH_P_ARP)) as sock:
        sock.bind((link.name, _ETH_P_ARP))
        asked = _ARP.pack(1, 0x0800, 6, 4, _REQUEST, link.mac, bytes(4), bytes(6), address.packed)
        sock.send(_EVERYBODY + link.mac + struct.pack("!H", _ETH_P_ARP) + asked)
        end = time.monotonic() + _SECONDS
        while (left := end - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                frame = sock.recv(2048)
            except TimeoutError:
                break
            if len(frame) < 14 + _ARP.size:
                continue
            _, _, _, _, operation, mac, sender, _, _ = _ARP.unpack_from(frame, 14)
            if operation == _REPLY and sender == address.packed and mac != link.mac:
                found.add(mac)
    return found
