"""The checkers, each as a process that is started on the same targets and says who it found down."""

import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench import usage
from bench.checks.targets import PORT, address
from kernlb.control_client import ControlClient
from kernlb.places import current_namespace
from tests.features import Feature, absent

SO_RCVBUFFORCE = 33  # linux/socket.h
INTERVAL = 2.0
DOWN = re.compile(
    r"DOWN (\S+)\n|event=server service=\S+ server=(\S+) was=\w+ now=down|Server targets/(\S+) is DOWN"
    r"|Removing service \[?([\d.]+)\]?:"
)
LONGEST = 512  # characters of a line
A_SERVICE = 100  # targets of each service of the daemon
VIP = "192.0.2.1"
FORWARDING = {"xdp": "fullnat", "ipvs": "nat"}
PERMISSION = 0o600


class Farm:
    """The first 250 targets are the sample whose SYNs are timed."""

    sample = "127.1.0.0"

    def __init__(self, count: int) -> None:
        self.targets = [address(number) for number in range(count)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "bench.checks.farm", str(len(self.targets))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def die(self, count: int) -> float:
        """Closes that many listeners; the time of time.monotonic() when they were closed."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Watcher:
    """A running checker and the descriptor on which it says what it finds, a line or a datagram each."""

    def __init__(self, process: "subprocess.Popen[bytes]", said: int) -> None:
        self._pid = process.pid
        self._said = said
        self._unended = ""
        self.down: dict[str, float] = {}

    def sleep(self, seconds: float) -> None:
        """Listens meanwhile, so that nobody waits for us."""
        self._listen(time.monotonic() + seconds, lambda: False)

    def noticed_down(self, count: int, *, until: float) -> dict[str, float]:
        """By target, when it was said to be down first."""
        self._listen(until, lambda: len(self.down) >= count)
        return self.down

    def _listen(self, until: float, enough: Callable[[], bool]) -> None:
        while (left := until - time.monotonic()) > 0 and not enough():
            if not select.select([self._said], [], [], left)[0]:
                continue
            data = os.read(self._said, 65536).decode("utf-8", "replace")
            if not data:
                raise RuntimeError("the checker ended before its time")
            data = self._unended + data
            self._unended = data.rpartition("\n")[2][-LONGEST:]
            for found in DOWN.finditer(data):
                self.down.setdefault(next(filter(None, found.groups())), time.monotonic())

    def processor_seconds(self) -> float:
        return usage.processor_seconds(self._pid)

    def memory_bytes(self) -> int:
        return usage.memory_bytes(self._pid)


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    interval: float
    start: Callable[[Sequence[str]], tuple["subprocess.Popen[bytes]", int]]
    ready: Callable[[], bool] = lambda: True

    @contextmanager
    def running(self, targets: Sequence[str]) -> Iterator[Watcher]:
        """From when it is ready."""
        process, said = self.start(targets)
        try:
            watcher = Watcher(process, said)
            while not self.ready():
                watcher.sleep(0.5)
            yield watcher
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(said)


def kernlb(scratch: Path) -> Peer:
    def start(targets: Sequence[str]) -> tuple["subprocess.Popen[bytes]", int]:
        listing = scratch / "targets"
        listing.write_text("\n".join(targets))
        ours, theirs = os.pipe()
        command = [sys.executable, "-m", "bench.checks.subject", str(listing), str(PORT), str(INTERVAL)]
        process = subprocess.Popen(command, stdout=theirs)
        os.close(theirs)
        return process, ours

    return Peer("kernlb's checker", INTERVAL, start)


def daemon(scratch: Path, *, interval: float = INTERVAL, engine: str = "xdp", more: str = "") -> Peer:
    """All of kernlb: the targets are real servers behind VIPs in the kernel, to which no client comes. `more` services
    may be configured beside them."""

    def start(targets: Sequence[str]) -> tuple["subprocess.Popen[bytes]", int]:
        lines = ["link add wan type veth peer name far", f"addr add {VIP}/24 dev wan", "link set far up"]
        subprocess.run(["ip", "-batch", "-"], input="\n".join([*lines, "link set wan up\n"]), text=True, check=True)
        # No packet comes for the program; compiling another would be measured with the checks.
        program = 'interfaces = ["wan"]\nloader = "object"\n' if engine == "xdp" else ""
        parts = [f'[engine]\ndefault = "{engine}"\n{program}[defaults]\nforwarding = "{FORWARDING[engine]}"\n']
        for first in range(0, len(targets), A_SERVICE):
            number = first // A_SERVICE
            listed = enumerate(targets[first : first + A_SERVICE], first)
            servers = "\n".join(f'target{n} = "{each}:{PORT}"' for n, each in listed)
            parts.append(
                f'[service.s{number}]\nbind = ["{VIP}:{PORT + number}"]\n'
                f'check = {{ interval = "{interval:g}s" }}\n[service.s{number}.servers]\n{servers}\n'
            )
        file = scratch / "kernlb.toml"
        file.write_text("".join(parts) + more)
        # Nothing is remembered of the round before.
        places = ["--run-dir", str(scratch / "run"), "--state-dir", tempfile.mkdtemp(dir=scratch)]
        ours, theirs = os.pipe()
        process = subprocess.Popen([sys.executable, "-m", "kernlb", "run", str(file), *places], stderr=theirs)
        os.close(theirs)
        return process, ours

    def ready() -> bool:
        return ControlClient(scratch / "run" / current_namespace() / "control.sock").serves()

    return Peer("kernlb", interval, start, ready)


def haproxy(scratch: Path, *, interval: float = INTERVAL) -> Peer:
    def start(targets: Sequence[str]) -> tuple["subprocess.Popen[bytes]", int]:
        log = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        log.bind(("127.0.0.1", 0))
        log.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        place = f"127.0.0.1:{log.getsockname()[1]}"
        servers = "\n".join(f"  server {each} {each}:{PORT} check inter {interval:g}s" for each in targets)
        file = scratch / "haproxy.cfg"
        file.write_text(
            f"global\n  nbthread 1\n  maxconn 100\n  log {place} local0\n"
            "defaults\n  mode tcp\n  log global\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n"
            f"listen targets\n  bind 127.0.0.1:18999\n{servers}\n"
        )
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return process, log.detach()

    return Peer("HAProxy", interval, start)


def keepalived(scratch: Path, *, interval: float = INTERVAL, lingers: bool = True) -> Peer:
    """Out after three failures, as the others are by default. keepalived.c says what it may be told."""

    def start(targets: Sequence[str]) -> tuple["subprocess.Popen[bytes]", int]:
        parts = []
        for first in range(0, len(targets), A_SERVICE):
            servers = "\n".join(
                f"  real_server {each} {PORT} {{\n    TCP_CHECK {{\n      connect_timeout {interval:g}\n      retry 2\n"
                f"      delay_before_retry {interval:g}\n    }}\n  }}"
                for each in targets[first : first + A_SERVICE]
            )
            parts.append(
                f"virtual_server {VIP} {PORT + first // A_SERVICE} {{\n  delay_loop {interval:g}\n"
                f"  lb_algo rr\n  lb_kind NAT\n  protocol TCP\n{servers}\n}}\n"
            )
        file = scratch / "keepalived.conf"
        file.write_text("".join(parts))
        file.chmod(PERMISSION)
        ours, theirs = os.pipe()
        places = ["-p", str(scratch / "k.pid"), "-c", str(scratch / "kc.pid")]
        command = ["keepalived", "-n", "-l", "-G", "-D", "-C", "-f", str(file), *places]
        environment = os.environ | {"LD_PRELOAD": str(_told(scratch, lingers=lingers))}
        process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        return process, ours

    return Peer("keepalived" if lingers else "keepalived without SO_LINGER", interval, start)


def _told(scratch: Path, *, lingers: bool) -> Path:
    library, source = scratch / "keepalived.so", Path(__file__).with_name("keepalived.c")
    facts = [f"-DNO_IPVS={absent(Feature.IPVS) is not None:d}", f"-DNO_LINGER={not lingers:d}"]
    command = ["cc", "-O2", "-shared", "-fPIC", *facts, "-o", str(library), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return library
