"""The far ends of tunnels, for kernels that have none: what is inside arrives on a TUN device, as it would on a wire.

So the kernel judges what was inside as any other packet, checksums and all. The outer headers are IPIP (RFC 2003), IPv4
and IPv6 in IPv6 (RFC 2473), and GUE variant 0 without options (draft-ietf-intarea-gue) over either family.
"""

import fcntl
import os
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.system.network import PATIENCE, inside, run

GUE_PORT = 6080
SO_RCVBUFFORCE = 33
WAITING = 1 << 24
"""Bytes that a tunnel's end may be behind with: it is slower than the gateway."""
_DEVICE = "unpacked"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000  # linux/if_tun.h
_UDP_NO_CHECK6_RX = 102  # linux/udp.h
_INNER = (socket.IPPROTO_IPIP, socket.IPPROTO_IPV6)


class TunnelEnds:
    """Every kind of tunnel, opened where the calling thread is."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._device = os.open("/dev/net/tun", os.O_RDWR)
        self._undo.callback(os.close, self._device)
        fcntl.ioctl(self._device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        # What comes out of a tunnel is from clients to whom another interface leads.
        for name in ("all", _DEVICE):
            Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
        run("ip", "link", "set", _DEVICE, "up")
        self._ready = self._undo.enter_context(selectors.DefaultSelector())
        v4, v6 = socket.AF_INET, socket.AF_INET6
        self._open(v4, socket.SOCK_RAW, socket.IPPROTO_IPIP, unpack=lambda outer: outer[(outer[0] & 15) * 4 :])
        for protocol in _INNER:
            self._open(v6, socket.SOCK_RAW, protocol, unpack=lambda inner: inner)
        for family in (v4, v6):
            self._open(family, socket.SOCK_DGRAM, socket.IPPROTO_UDP, unpack=unpack_gue)

    def _open(self, family: int, kind: int, protocol: int, *, unpack: Callable[[bytes], bytes]) -> None:
        sock = self._undo.enter_context(socket.socket(family, kind, protocol))
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, WAITING)
        if kind == socket.SOCK_DGRAM:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, 1)
            sock.bind(("", GUE_PORT))
        self._ready.register(sock, selectors.EVENT_READ, lambda: self._deliver(unpack(sock.recv(1 << 16))))

    def _deliver(self, packet: bytes) -> None:
        # The device refuses what is no IP packet.
        with suppress(OSError):
            os.write(self._device, packet)

    def pump(self, seconds: float | None = None) -> None:
        """Unpacks what has come; waits for it no longer than this."""
        for key, _ in self._ready.select(seconds):
            key.data()

    def close(self) -> None:
        self._undo.close()


def unpack_gue(datagram: bytes) -> bytes:
    """The packet inside; nothing where the header says more than which protocol it carries."""
    head, protocol, flags = struct.unpack_from("!BBH", datagram)
    return datagram[4:] if head == 0 and flags == 0 and protocol in _INNER else b""


def open_tunnels() -> None:
    """What a process at a server does until it is killed."""
    ends = TunnelEnds()
    while True:
        ends.pump()


@contextmanager
def tunnels(*servers: str) -> Iterator[None]:
    """In these namespaces, until the block ends."""
    ending = threading.Event()

    def serve(ends: TunnelEnds) -> None:
        while not ending.is_set():
            ends.pump(0.1)

    with ExitStack() as undo:
        for server in servers:
            with inside(server):
                ends = TunnelEnds()
            undo.callback(ends.close)
            thread = threading.Thread(target=serve, args=(ends,), daemon=True)
            thread.start()
            undo.callback(thread.join, PATIENCE)
        undo.callback(ending.set)
        yield
