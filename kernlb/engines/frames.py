"""Packets as a client would send them, to ask the program about. Pure."""

import struct
from ipaddress import IPv4Address, IPv6Address

TCP, UDP = 6, 17
SYN, ACK = 0x02, 0x10
_HARDWARE = bytes.fromhex("020000000001020000000002")
_TTL = 64

IPAddress = IPv4Address | IPv6Address


def frame(client: IPAddress, port: int, vip: IPAddress, vip_port: int, *, protocol: int, flags: int) -> bytes:
    """An Ethernet frame without payload; `flags` are TCP's. It has no checksum of its transport."""
    if protocol == TCP:
        transport = struct.pack("!HHIIBBHHH", port, vip_port, 1, 1, 5 << 4, flags, 65535, 0, 0)
    else:
        transport = struct.pack("!HHHH", port, vip_port, 8, 0)
    if isinstance(client, IPv6Address):
        head = struct.pack("!IHBB", 6 << 28, len(transport), protocol, _TTL) + client.packed + vip.packed
        return _HARDWARE + b"\x86\xdd" + head + transport
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), 0, 0x4000, _TTL, protocol, 0)
    head += client.packed + vip.packed
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return _HARDWARE + b"\x08\x00" + head + transport
