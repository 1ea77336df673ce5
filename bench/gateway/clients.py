"""Many clients: new connections from thousands of addresses at a constant rate, whatever becomes of those before.

    python3 clients.py ADDRESS PORT NETWORK COUNT RATE SECONDS

Runs in the clients' namespace, where NETWORK is routed to itself. Each connection asks once and waits until the server
closes, so TIME_WAIT is the server's. Prints one JSON object.
"""

import errno
import json
import select
import socket
import sys
import time
from collections import Counter
from ipaddress import ip_network

REQUEST = b"GET / HTTP/1.0\r\n\r\n"
LATE = 0.9
"""Seconds: nobody is so late who did not have to send something again."""
PATIENCE = 8.0
IP_BIND_ADDRESS_NO_PORT = 24


class Clients:
    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.results: Counter[str] = Counter()
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float]] = {}

    def begin(self, source: str, now: float) -> None:
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        client.bind((source, 0))
        error = client.connect_ex(self.target)
        if error not in (0, errno.EINPROGRESS):
            self.results[errno.errorcode[error]] += 1
            client.close()
            return
        self._open[client.fileno()] = client, now
        self._poll.register(client.fileno(), select.EPOLLOUT)

    def work(self, wait: float) -> None:
        for number, _ in self._poll.poll(wait):
            client, began = self._open[number]
            try:
                if self._further(client):
                    self._end(number, "late" if time.monotonic() - began > LATE else "answered")
            except OSError as error:
                self._end(number, errno.errorcode[error.errno or 0])

    def give_up(self, before: float) -> None:
        for number in [number for number, (_, began) in self._open.items() if began < before]:
            self._end(number, "unanswered")

    @property
    def waiting(self) -> int:
        return len(self._open)

    def _further(self, client: socket.socket) -> bool:
        """Whether all has been said."""
        try:
            answer = client.recv(4096)
        except BlockingIOError:
            client.send(REQUEST)
            self._poll.modify(client.fileno(), select.EPOLLIN)
            return False
        return not answer

    def _end(self, number: int, how: str) -> None:
        client, _ = self._open.pop(number)
        client.close()
        self.results[how] += 1


def main() -> None:
    address, port, network, count, rate, seconds = sys.argv[1:]
    sources = [str(ip_network(network)[n]) for n in range(1, int(count) + 1)]
    clients = Clients((address, int(port)))
    begun, total, pace = time.monotonic(), int(float(rate) * float(seconds)), float(rate)
    behind = 0.0
    for number in range(total):
        due = begun + number / pace
        while (now := time.monotonic()) < due:
            clients.work(due - now)
        behind = max(behind, now - due)
        if not number % 8:
            clients.work(0)
        clients.begin(sources[number % len(sources)], now)
        if not number % 4096:
            clients.give_up(now - PATIENCE)
    took = time.monotonic() - begun
    deadline = time.monotonic() + PATIENCE
    while clients.waiting and time.monotonic() < deadline:
        clients.work(0.1)
    clients.give_up(deadline + PATIENCE)
    print(json.dumps({"asked": total, "rate": total / took, "behind": behind, **clients.results}))


if __name__ == "__main__":
    main()
