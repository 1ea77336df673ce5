"""Signs of a dead real server in the traffic itself: connections refused, and SYNs sent again. Decides nothing.

A packet socket with a classic BPF filter: the kernel hands over only resets that answer a SYN (sequence number 0) and
the SYNs that leave for servers, of the latter no more than a share that keeps the cost bounded. Scanning
/proc/net/ip_vs_conn would cost as much as there are connections, and conntrack events as much as there are new ones.
It sees what passes through this host with the server's address: nat, fullnat and the resets of both.
"""

import asyncio
import ctypes
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from kernlb.model import IPAddress, ServerKey
from kernlb.pool import ServerName

PAUSE = 1.0
"""Seconds between two suspicions of one server."""
BUDGET = 400
"""SYNs a second that are looked at; beyond it, only those of every other client port, and so on."""
REMEMBERED = 8192
AGAIN = 10.0  # seconds within which the same SYN is the same attempt

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SO_ATTACH_FILTER = 26
_OUTGOING = 4  # PACKET_OUTGOING of linux/if_packet.h
_PROTOCOL, _PKTTYPE = 0xFFFFF000, 0xFFFFF004  # SKF_AD_PROTOCOL and SKF_AD_PKTTYPE of linux/filter.h
_SNAP = 96
_BATCH = 256

# linux/bpf_common.h
_LD_W, _LD_H, _LD_B = 0x20, 0x28, 0x30
_LDX_IPLEN, _LDX_IMM, _LDI_W, _LDI_H, _LDI_B = 0xB1, 0x01, 0x40, 0x48, 0x50
_JEQ, _JSET, _JA, _AND, _RET = 0x15, 0x45, 0x05, 0x54, 0x06


@dataclass(frozen=True, slots=True)
class Sighting:
    """`source` and `target` are address and port. `refused`: a reset that answered a SYN; else a SYN."""

    refused: bool
    source: tuple[IPAddress, int]
    target: tuple[IPAddress, int]
    sequence: int


def sighting(packet: bytes) -> Sighting | None:
    """What the filter let through, from the network header on; None for what is cut off or of another kind."""
    try:
        if packet[0] >> 4 == 4:
            at = (packet[0] & 15) * 4
            source: IPAddress = IPv4Address(packet[12:16])
            target: IPAddress = IPv4Address(packet[16:20])
        else:
            at = 40
            source, target = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        sport, dport, sequence = struct.unpack_from("!HHI", packet, at)
        flags = packet[at + 13]
    except (IndexError, struct.error, ValueError):
        return None
    return Sighting(bool(flags & 0x04), (source, sport), (target, dport), sequence)


class Suspicion:
    """Which servers the sightings speak against. Pure: times come in."""

    def __init__(self) -> None:
        self._servers: dict[tuple[IPAddress, int], list[ServerName]] = {}
        self._ports: dict[IPAddress, list[ServerName]] = {}
        self._seen: OrderedDict[Sighting, float] = OrderedDict()
        self._last: dict[ServerName, float] = {}

    def aim(self, servers: Mapping[ServerName, Sequence[ServerKey]]) -> None:
        """The servers to look for. Port 0 means every port."""
        self._servers, self._ports = {}, {}
        for name, keys in servers.items():
            for key in keys:
                names = (
                    self._servers.setdefault((key.address, key.port), [])
                    if key.port
                    else self._ports.setdefault(key.address, [])
                )
                if name not in names:
                    names.append(name)
        self._last = {name: at for name, at in self._last.items() if name in servers}

    def see(self, seen: Sighting, now: float) -> list[ServerName]:
        """The servers that this makes suspect, each at most once in PAUSE seconds."""
        names = self._of(seen.source if seen.refused else seen.target)
        if not names or (not seen.refused and not self._repeated(seen, now)):
            return []
        found = [name for name in names if now - self._last.get(name, float("-inf")) >= PAUSE]
        self._last.update((name, now) for name in found)
        return found

    def _of(self, end: tuple[IPAddress, int]) -> list[ServerName]:
        return self._servers.get(end) or self._ports.get(end[0]) or []

    def _repeated(self, seen: Sighting, now: float) -> bool:
        before = self._seen.get(seen)
        self._seen[seen] = now
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return before is not None and now - before < AGAIN


class Passive:
    """Made inside a running loop, in the network namespace to watch. Where packet sockets are not allowed, `off` says
    why and nothing is seen."""

    def __init__(self, suspected: Callable[[ServerName], None]) -> None:
        self._suspected = suspected
        self._suspicion = Suspicion()
        self._loop = asyncio.get_running_loop()
        self._shift = 0
        self._count = 0
        self._second = 0
        self.off: str | None = None
        self._socket: socket.socket | None = None
        try:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
            _attach(self._socket, program(0))
            self._drop()
        except OSError as error:
            self.off = f"no packet socket: {error.strerror}"
            self.close()
            return
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def aim(self, servers: Mapping[ServerName, Sequence[ServerKey]]) -> None:
        self._suspicion.aim(servers)

    def close(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _drop(self) -> None:
        """What came in before the filter was there."""
        assert self._socket is not None
        with suppress(BlockingIOError):
            for _ in range(1 << 16):
                self._socket.recv(1)

    def _readable(self) -> None:
        assert self._socket is not None
        now = time.monotonic()
        for _ in range(_BATCH):
            try:
                packet = self._socket.recv(_SNAP)
            except OSError:
                break
            self._count += 1
            seen = sighting(packet)
            for name in self._suspicion.see(seen, now) if seen else ():
                self._suspected(name)
        self._pace(int(now))

    def _pace(self, second: int) -> None:
        """Once a second: look at fewer client ports where there is too much, at more where there is little."""
        if second == self._second or self._socket is None:
            return
        shift = self._shift
        if self._count > BUDGET and shift < 10:
            shift += max(1, (self._count // BUDGET).bit_length() - 1)
        elif self._count < BUDGET // 4 and shift:
            shift -= 1
        self._second, self._count = second, 0
        if min(shift, 10) != self._shift:
            self._shift = min(shift, 10)
            _attach(self._socket, program(self._shift))


def program(shift: int) -> list[tuple[int, int, int, int]]:
    """The filter: resets of SYNs that come in, and SYNs that go out, of one client port in 2**shift."""
    tail: list[tuple[int, str | int, str | int, int]]
    tail = [
        (_LDI_B, 0, 0, 13),
        (_AND, 0, 0, 0x17),  # FIN, SYN, RST, ACK
        (_JEQ, 0, "syn", 0x14),
        (_LDI_W, 0, 0, 4),
        (_JEQ, 0, "drop", 0),
        (_LD_W, 0, 0, _PKTTYPE),
        (_JEQ, "drop", "take", _OUTGOING),
        (_JEQ, 0, "drop", 0x02),  # syn
        (_LD_W, 0, 0, _PKTTYPE),
        (_JEQ, 0, "drop", _OUTGOING),
        (_LDI_H, 0, 0, 0),
        (_JSET, "drop", "take", (1 << shift) - 1),
    ]
    lines: list[tuple[int, str | int, str | int, int]] = [
        (_LD_W, 0, 0, _PROTOCOL),
        (_JEQ, 0, 6, _ETH_P_IP),
        (_LD_B, 0, 0, 9),
        (_JEQ, 0, "drop", socket.IPPROTO_TCP),
        (_LD_H, 0, 0, 6),
        (_JSET, "drop", 0, 0x1FFF),  # later fragments
        (_LDX_IPLEN, 0, 0, 0),
        (_JA, 0, 0, 4),
        (_JEQ, 0, "drop", _ETH_P_IPV6),
        (_LD_B, 0, 0, 6),
        (_JEQ, 0, "drop", socket.IPPROTO_TCP),
        (_LDX_IMM, 0, 0, 40),
        *tail,
        (_RET, 0, 0, _SNAP),
        (_RET, 0, 0, 0),
    ]
    places = {"take": len(lines) - 2, "drop": len(lines) - 1, "syn": len(lines) - len(tail) - 2 + 7}

    def jump(to: str | int, here: int) -> int:
        return to if isinstance(to, int) else places[to] - here - 1

    return [(code, jump(yes, n), jump(no, n), value) for n, (code, yes, no, value) in enumerate(lines)]


def _attach(sock: socket.socket, code: Sequence[tuple[int, int, int, int]]) -> None:
    packed = b"".join(struct.pack("HBBI", *line) for line in code)
    held = ctypes.create_string_buffer(packed)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(code), ctypes.addressof(held)))
