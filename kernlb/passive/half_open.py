"""Connections that IPVS holds in SYN_RECV, by real server: the only sign that direct and tunnel servers give, whose
answers bypass this host.

Reads the beginning of the table and no more, so that the cost is bounded however many connections there are: they lie
in the order of a random hash, and a dead server's are among them soon.
"""

import os
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from kernlb.passive.packets import End

PERIOD = 0.5
"""Seconds between two looks: so long at least has the client not ended a handshake that both of them show."""
STALE = 10
"""Looks after which a connection says nothing new: IPVS holds it for a minute, and its server may be back."""
READS = 64
"""Of one page each; one takes the kernel the longer the later it is."""

_TABLE = Path("/proc/thread-self/net/ip_vs_conn")
# Pro FromIP FPrt ToIP TPrt DestIP DPrt State: an address of IPv6 is in brackets.
_HALF_OPEN = re.compile(rb"^TCP (\S+ \w{4} \S+ \w{4}) (\S+) (\w{4}) SYN_RECV", re.MULTILINE)


Connection = tuple[bytes, bytes, bytes]
"""Client and virtual service as the kernel writes them, address and port of the real server."""


class HalfOpen:
    """Made for one network namespace, that of the thread which calls `look`."""

    def __init__(self) -> None:
        self._looks: dict[Connection, int] = {}

    def look(self) -> set[End]:
        """The servers of connections that were half open the last time too."""
        return self.compare(_beginning())

    def compare(self, table: bytes) -> set[End]:
        """The same of what IPVS says now."""
        self._looks = {each: self._looks.get(each, -1) + 1 for each in half_open(table)}
        lasting = {each[1:] for each, looks in self._looks.items() if 0 < looks <= STALE}
        return {(_address(address), int(port, 16)) for address, port in lasting}


def half_open(table: bytes) -> Iterator[Connection]:
    return ((match[1], match[2], match[3]) for match in _HALF_OPEN.finditer(table))


def _beginning() -> bytes:
    try:
        descriptor = os.open(_TABLE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return b"".join(iter(_pages(descriptor)))
    finally:
        os.close(descriptor)


def _pages(descriptor: int) -> Iterator[bytes]:
    for _ in range(READS):
        page = os.read(descriptor, 1 << 16)
        if not page:
            return
        yield page


def _address(text: bytes) -> IPv4Address | IPv6Address:
    if text.startswith(b"["):
        return IPv6Address(text.strip(b"[]").decode())
    return IPv4Address(int(text, 16))
