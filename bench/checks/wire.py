"""What the wire and the kernel say of any checker alike: when SYNs leave, and what connection tracking keeps."""

import ctypes
import socket
import struct
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Self

ETH_P_IP = 0x0800
SO_ATTACH_FILTER = 26
LISTED = Path("/proc/thread-self/net/nf_conntrack")
COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")


class Lateness:
    """Times the outgoing SYNs to one /24 on lo while it is entered."""

    def __init__(self, network: str) -> None:
        self._network = int.from_bytes(socket.inet_aton(network), "big")
        self._seen: dict[bytes, list[float]] = defaultdict(list)
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        self._sock.bind(("lo", ETH_P_IP))
        # struct sock_filter: code, jt, jf, k. The packet begins with its IP header, 20 bytes long.
        program = (
            (0x20, 0, 0, 16),  # the destination
            (0x54, 0, 0, 0xFFFFFF00),
            (0x15, 0, 3, self._network),
            (0x30, 0, 0, 33),  # TCP's flags
            (0x15, 0, 1, 0x02),
            (0x06, 0, 0, 64),
            (0x06, 0, 0, 0),
        )
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
        self._sock.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code))
        )
        self._sock.settimeout(0.2)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._sock.close()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                packet = self._sock.recv(64)
            except TimeoutError:
                continue
            self._seen[packet[16:20]].append(time.monotonic())

    def milliseconds(self, interval: float) -> list[float]:
        """How much longer than the interval it took from one SYN of a target to its next."""
        gaps = (after - before for times in self._seen.values() for before, after in pairwise(times))
        return sorted((gap - interval) * 1000 for gap in gaps)


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


@contextmanager
def tracked() -> Iterator[None]:
    """Connection tracking is at work in this network namespace."""
    rules = "table inet bench { chain output { type filter hook output priority 0; ct state new accept; }; }"
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, timeout=30)
    yield


def conntrack_entries() -> tuple[int, int]:
    """Those that are counted, and the live ones among them: the others have expired, and go when room is needed or
    somebody comes by (nf_ct_should_gc, net/netfilter/nf_conntrack_core.c)."""
    counted = int(COUNT.read_text())
    with LISTED.open("rb") as listed:
        return counted, sum(1 for _ in listed)
