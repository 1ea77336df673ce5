"""How BFD packets travel: UDP ports, source ports and TTLs (RFC 5881, RFC 5883). Knows no session."""

import errno
import random
import socket
import sys

from kernlb.checks.base import Target

SINGLE_HOP, MULTIHOP = 3784, 4784  # RFC 5881 4, RFC 5883 5
_SOURCES = range(49152, 65536)  # RFC 5881 4
_TRIES = 64  # source ports, until one is free
_TTL = 255  # RFC 5881 5
_BUFFER = 1 << 20  # bytes
_DATAGRAM = 256  # bytes of a packet that are read
_IP_RECVTTL = 12  # linux/in.h
_HOPS = {(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)}


def listener(family: socket.AddressFamily, port: int) -> socket.socket:
    """For the packets of all sessions: they name theirs. Raises OSError."""
    sock = _datagrams(family)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.bind(("", port))
    except BaseException:
        sock.close()
        raise
    return sock


def received(sock: socket.socket) -> tuple[bytes, int, str] | None:
    """A packet, the TTL or hop limit that it came with (0: not told), and its source; None where none waits."""
    try:
        data, ancillary, _, source = sock.recvmsg(_DATAGRAM, socket.CMSG_SPACE(4))
    except OSError:
        return None
    hops = [int.from_bytes(value, sys.byteorder) for level, kind, value in ancillary if (level, kind) in _HOPS]
    return data, hops[0] if hops else 0, source[0].partition("%")[0]


def sender(target: Target) -> socket.socket:
    """With a source port for one session alone, on the path of its check. Raises OSError."""
    sock = _datagrams(target.family)
    try:
        for level, name, value in target.options:
            sock.setsockopt(level, name, value)
        if target.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _TTL)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _TTL)
        _bind(sock, "" if target.source is None else target.source[0])
    except BaseException:
        sock.close()
        raise
    return sock


def _datagrams(family: socket.AddressFamily) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _bind(sock: socket.socket, host: str) -> None:
    """The kernel's own choice of ports is a wider one."""
    for port in random.sample(_SOURCES, _TRIES):
        try:
            return sock.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no source port is free")
