"""New connections and nothing else: as many a second as asked for, whatever becomes of those before.

    python3 connector.py ADDRESS PORT NETWORK FIRST COUNT RATE SECONDS

Runs in the clients' namespace, where NETWORK is routed to itself; the source addresses are COUNT of it, from the FIRST.
Each connection ends with a reset as soon as the server's SYN+ACK is there. Prints one JSON object.
"""

import errno
import json
import resource
import select
import socket
import struct
import sys
import time
from collections import Counter
from ipaddress import ip_network

LATE = 0.9
"""Seconds: nobody is so late whose SYN did not have to be sent again."""
PATIENCE = 8.0
BATCH = 64
MOST = 8192
"""Connections that are under way: of any more it is clear that nobody answers."""
IP_BIND_ADDRESS_NO_PORT = 24
RESET = struct.pack("ii", 1, 0)


class Connector:
    def __init__(self, target: tuple[str, int], sources: list[str]) -> None:
        self.results: Counter[str] = Counter()
        self._target = target
        self._sources = sources
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float]] = {}

    @property
    def waiting(self) -> int:
        return len(self._open)

    def begin(self, number: int, now: float) -> None:
        if len(self._open) >= MOST:
            self.results["not tried"] += 1
            return
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        client.bind((self._sources[number % len(self._sources)], 0))
        error = client.connect_ex(self._target)
        if error not in (0, errno.EINPROGRESS):
            self.results[errno.errorcode[error]] += 1
            client.close()
            return
        self._open[client.fileno()] = client, now
        self._poll.register(client.fileno(), select.EPOLLOUT)

    def work(self, wait: float) -> None:
        ready = self._poll.poll(wait, BATCH)
        now = time.monotonic()
        for number, event in ready:
            client, began = self._open.pop(number)
            if event & (select.EPOLLERR | select.EPOLLHUP):
                self.results[errno.errorcode[client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]] += 1
            else:
                self.results["late" if now - began > LATE else "connected"] += 1
            client.close()


def main() -> None:
    address, port, network, first, count, rate, seconds = sys.argv[1:]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    begins = int(first)
    sources = [str(ip_network(network)[n]) for n in range(begins, begins + int(count))]
    connector = Connector((address, int(port)), sources)
    total, pace = int(float(rate) * float(seconds)), float(rate)
    begun, number = time.monotonic(), 0
    behind = 0.0
    while number < total:
        now = time.monotonic()
        due = min(total, int((now - begun) * pace) + 1, number + BATCH)
        behind = max(behind, now - begun - number / pace)
        for each in range(number, due):
            connector.begin(each, now)
        number = max(number, due)
        connector.work(max(0.0, begun + number / pace - time.monotonic()))
    took = time.monotonic() - begun
    deadline = time.monotonic() + PATIENCE
    while connector.waiting and time.monotonic() < deadline:
        connector.work(0.1)
    connector.results["unanswered"] += connector.waiting
    print(json.dumps({"asked": total, "took": took, "behind": behind, **connector.results}))


if __name__ == "__main__":
    main()
