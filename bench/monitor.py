"""Counts the IPVS requests that write, as an nlmon device sees them enter the kernel."""

import socket
import subprocess
from types import TracebackType
from typing import Self

from kernlb.engines.ipvs import Ipvs
from kernlb.engines.wire import netlink
from kernlb.engines.wire.header import Command

DEVICE = "nlmon-bench"
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 256 << 20
LARGEST_DATAGRAM = 1 << 20
REQUEST = int(netlink.Flag.REQUEST)
WRITING = frozenset(Command) - {
    Command.GET_SERVICE,
    Command.GET_DEST,
    Command.GET_DAEMON,
    Command.GET_CONFIG,
    Command.GET_INFO,
    Command.SET_INFO,
}


class NetlinkMonitor:
    """Of the network namespace that it is entered in."""

    def __init__(self, engine: Ipvs) -> None:
        self._family = engine.family

    def __enter__(self) -> Self:
        subprocess.run(["ip", "link", "add", DEVICE, "type", "nlmon"], check=True, timeout=30)
        subprocess.run(["ip", "link", "set", DEVICE, "up"], check=True, timeout=30)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._socket.bind((DEVICE, ETH_P_ALL))
        self._socket.setblocking(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        subprocess.run(["ip", "link", "del", DEVICE], check=True, timeout=30)

    def writes(self) -> int:
        """Since the last call. Netlink is synchronous: what was answered has been seen."""
        count = 0
        while True:
            try:
                datagram = self._socket.recv(LARGEST_DATAGRAM)
            except BlockingIOError:
                return count
            # The packet type says nothing of the direction here; only what goes to the kernel is a request.
            count += sum(
                message.kind == self._family and bool(message.flags & REQUEST) and message.body[0] in WRITING
                for message in netlink.messages(datagram)
            )
