"""The bench's network: namespaces, wires between them, and programs inside. It takes all of it away again.

client 192.0.2.10 -- 192.0.2.1 gateway 10.0.1.254 -- 10.0.1.1 server1
                                       10.0.2.254 -- 10.0.2.1 server2
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from kernlb.places import Places

CLIENT, FRONT = "192.0.2.10", "192.0.2.1"
CLIENTS = "10.64.0.0/14"
"""All of them the client's own, whatever it binds."""
SERVERS = {"server1": "10.0.1.1", "server2": "10.0.2.1"}
SOURCES = tuple(f"10.0.9.{number}" for number in range(1, 5))
"""For 30,000 connections/s: the ports of one address that were used within the last seconds would be too many."""
VIP = "198.51.100.80"
HTTP, BULK, BARE = PORTS = 80, 5001, 5002
_PATIENCE = 20.0

_SERVER = """
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend http
  bind :{port}
  http-request return status 200 content-type text/plain string "ok"
"""
_SENDER = """
import socket, threading
data = bytes(1 << 20)
def serve(connection):
    try:
        while True:
            connection.sendall(data)
    except OSError:
        connection.close()
listener = socket.create_server(("", {port}), backlog=64)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
# Closes nothing before its client has: what is left to close has been reset long since.
_ACCEPTOR = """
import collections, os, socket
listener = socket.create_server(("", {port}), backlog=4096)
held = collections.deque()
while True:
    held.append(listener._accept()[0])
    if len(held) > 8000:
        os.close(held.popleft())
"""


class Network:
    def __init__(self, label: str = "", *, sources: Sequence[str] = ()) -> None:
        """`label` tells networks of one process apart. `sources` are where full NAT comes from; without any, the
        address of the route out."""
        self.sources = sources
        self.tag = f"kernlb-bench-{os.getpid()}{label}"
        self.directory = Path(tempfile.mkdtemp(prefix="kernlb-bench-"))
        self._running: list[subprocess.Popen[bytes]] = []
        self._before: dict[str, int] = {}

    def name(self, part: str) -> str:
        return f"{self.tag}-{part}"

    def __enter__(self) -> "Network":
        try:
            self._build()
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def ip(self, part: str, *lines: str) -> None:
        subprocess.run(
            ["ip", "-n", self.name(part), "-batch", "-"],
            input="\n".join(lines) + "\n",
            text=True,
            check=True,
            timeout=30,
        )

    def run(self, part: str, *command: str, text: str | None = None, timeout: float = 60.0) -> str:
        inside = ["ip", "netns", "exec", self.name(part), *command]
        done = subprocess.run(inside, input=text, text=True, check=True, timeout=timeout, stdout=subprocess.PIPE)
        return done.stdout

    def run_together(self, part: str, *commands: Sequence[str], timeout: float = 60.0) -> list[str]:
        """What each of them says; they run at the same time."""
        with ThreadPoolExecutor(len(commands)) as threads:
            return list(threads.map(lambda command: self.run(part, *command, timeout=timeout), commands))

    def start(self, part: str, *command: str) -> None:
        inside = ["ip", "netns", "exec", self.name(part), *command]
        self._running.append(subprocess.Popen(inside, stdin=subprocess.DEVNULL))

    def sysctl(self, part: str, **settings: str) -> None:
        self.run(part, "sysctl", "-qw", *(f"{key.replace('__', '.')}={value}" for key, value in settings.items()))

    def counter(self, part: str, protocol: str, name: str) -> int:
        """Of /proc/net/snmp and /proc/net/netstat."""
        rows = self.run(part, "cat", "/proc/net/snmp", "/proc/net/netstat").splitlines()
        for head, values in zip(rows[::2], rows[1::2], strict=True):
            if head.startswith(f"{protocol}:") and name in head.split():
                return int(values.split()[head.split().index(name)])
        raise KeyError(name)

    def retransmitted_syns(self) -> int:
        """With and without ACK, of both ends."""
        return sum(self.counter(part, "TcpExt", "TCPSynRetrans") for part in ("client", *SERVERS))

    def checksum_errors(self) -> int:
        ends = ("client", *SERVERS)
        return sum(self.counter(part, group, "InCsumErrors") for part in ends for group in ("Tcp", "Udp", "Icmp"))

    def await_answer(self, address: str, port: int, *, at: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        probe = ("python3", "-c", f"import socket; socket.create_connection(({address!r}, {port}), 1)")
        while subprocess.run(
            ["ip", "netns", "exec", self.name(at), *probe], stderr=subprocess.DEVNULL, check=False
        ).returncode:
            if time.monotonic() > deadline:
                raise SystemExit(f"bench: {address} port {port} did not answer within {_PATIENCE:g} s")
            time.sleep(0.05)

    def destroy(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        for part in ("client", "gateway", *SERVERS):
            subprocess.run(["ip", "netns", "del", self.name(part)], check=False, stderr=subprocess.DEVNULL)
            shutil.rmtree(Places(namespace=self.name(part)).pins, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _build(self) -> None:
        for part in ("client", "gateway", *SERVERS):
            subprocess.run(["ip", "netns", "add", self.name(part)], check=True)
            self.ip(part, "link set lo up")
        self._wire("client", f"{CLIENT}/24", "front", f"{FRONT}/24", FRONT)
        self.sysctl("client", net__ipv4__ip_local_port_range="1024 65000", net__ipv4__tcp_tw_reuse="1")
        self.ip("client", f"route add local {CLIENTS} dev lo")
        self.ip("gateway", f"route add {CLIENTS} via {CLIENT}")
        for number, (server, address) in enumerate(SERVERS.items(), 1):
            gateway = f"10.0.{number}.254"
            self._wire(server, f"{address}/24", server, f"{gateway}/24", gateway)
            self.ip(server, f"addr add {VIP}/32 dev lo")
            self.sysctl(server, net__ipv4__tcp_max_tw_buckets="1000000")
            config = self.directory / "server.cfg"
            config.write_text(_SERVER.format(port=HTTP))
            self.start(server, "haproxy", "-db", "-q", "-f", str(config))
            self.start(server, "python3", "-c", _SENDER.format(port=BULK))
            self.start(server, "prlimit", "--nofile=10000", "python3", "-c", _ACCEPTOR.format(port=BARE))
        self.ip("gateway", *(f"addr add {address}/32 dev lo" for address in self.sources))
        self.sysctl("gateway", net__ipv4__ip_forward="1", net__ipv4__fib_multipath_hash_policy="1")
        for address in SERVERS.values():
            for port in PORTS:
                self.await_answer(address, port, at="gateway")

    def _wire(self, part: str, address: str, end: str, end_address: str, gateway: str) -> None:
        self.ip(part, f"link add eth0 type veth peer name {end} netns {self.name('gateway')}")
        self.ip("gateway", f"addr add {end_address} dev {end}", f"link set {end} up")
        self.ip(part, f"addr add {address} dev eth0", "link set eth0 up", f"route add default via {gateway}")
