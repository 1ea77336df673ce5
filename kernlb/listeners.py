"""Which local processes listen on a port, in the network namespace of the calling thread."""

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from kernlb.model import Family, IPAddress, Protocol, family_of

_PROC = Path("/proc")
# Of the calling thread: it may have entered another network namespace than the process.
_NET = _PROC / "thread-self" / "net"
_FILES = {
    Protocol.TCP: {Family.IPV4: "tcp", Family.IPV6: "tcp6"},
    Protocol.UDP: {Family.IPV4: "udp", Family.IPV6: "udp6"},
}
_SCTP = "sctp/eps"
# TCP_LISTEN; an unconnected UDP socket is TCP_CLOSE. include/net/tcp_states.h
_WAITING = {Protocol.TCP: "0A", Protocol.UDP: "07"}
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Listener:
    """`pid` is None where /proc does not tell (another user's process, or the kernel's own socket)."""

    name: str
    pid: int | None
    address: IPAddress
    port: int


def listeners(protocol: Protocol, *, first: int, last: int, family: Family | None = None) -> tuple[Listener, ...]:
    """Those on ports first..last (0..0: any) that serve a family, None for both.

    Listeners on loopback addresses are left out: no wildcard takes traffic from them. One on [::] counts for IPv4 too,
    since /proc does not say whether it is for IPv6 alone.
    """
    ports = range(first, last + 1) if last else range(1, 1 << 16)
    found = [
        (inode, address, port)
        for inode, address, port in _sockets(protocol)
        if port in ports and not _loopback(address) and family in (None, *_served(address))
    ]
    owners = _owners({inode for inode, _, _ in found}) if found else {}
    listening = {
        Listener(name, pid, address, port)
        for inode, address, port in found
        for name, pid in owners.get(inode, [("unknown", None)])
    }
    return tuple(sorted(listening, key=lambda one: (one.port, one.pid or 0, str(one.address))))


def _served(address: IPAddress) -> tuple[Family, ...]:
    if address == IPv6Address("::"):
        return (Family.IPV4, Family.IPV6)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return (Family.IPV4,)
    return (family_of(address),)


def _loopback(address: IPAddress) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _sockets(protocol: Protocol) -> Iterator[tuple[int, IPAddress, int]]:
    """Inode, address and port of each socket that waits for clients."""
    if protocol is Protocol.SCTP:
        yield from _sctp()
        return
    for name in _FILES[protocol].values():
        for line in _lines(name):
            words = line.split()
            address, _, port = words[1].partition(":")
            if words[3] == _WAITING[protocol]:
                yield int(words[9]), _address(address), int(port, 16)


def _sctp() -> Iterator[tuple[int, IPAddress, int]]:
    """ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS: a listening socket is in state 10."""
    for line in _lines(_SCTP):
        words = line.split()
        if words[3] == "10":
            for address in words[8:]:
                text = address.strip("[]*")
                yield int(words[7]), IPv6Address(text) if ":" in text else IPv4Address(text), int(words[5])


def _lines(name: str) -> list[str]:
    try:
        return (_NET / name).read_text().splitlines()[1:]
    except FileNotFoundError:
        return []


def _address(text: str) -> IPAddress:
    """Words of 32 bits in hexadecimal, each as this machine's memory has it."""
    words = (int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    packed = b"".join(words)
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _owners(inodes: set[int]) -> dict[int, list[tuple[str, int | None]]]:
    """Name and pid of the processes that hold each socket open."""
    owners: dict[int, list[tuple[str, int | None]]] = {}
    for process in _PROC.iterdir():
        if not process.name.isdigit():
            continue
        # Processes end, and other users' are not ours to see.
        with suppress(OSError):
            held = {_inode(descriptor) for descriptor in (process / "fd").iterdir()} & inodes
            if held:
                name = (process / "comm").read_text().strip()
                for inode in held:
                    owners.setdefault(inode, []).append((name, int(process.name)))
    return owners


def _inode(descriptor: Path) -> int:
    """-1 for what is no socket."""
    try:
        found = _SOCKET.fullmatch(str(descriptor.readlink()))
    except OSError:
        return -1
    return int(found[1]) if found else -1
