"""BFD with the BFD of others: bird, FRR and keepalived, each in a namespace of its own."""

import asyncio
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.checker import Change, Checker
from kernlb.checks.spec import BfdProbe, Check, usual
from kernlb.entries import Watched
from kernlb.health import Status
from tests.checks.link import SERVERS, linked
from tests.features import Feature, need
from tests.system.network import inside, ip, until

DETECTION = 3.0  # seconds: three packets, a second apart until both ends have told each other of their 300 ms
SLACK = 2.0  # seconds for a busy machine; the checks' own interval is far longer

BIRD = """
log stderr all;
router id 10.9.0.2;
protocol device { }
protocol bfd {
    interface "*" { min rx interval 300 ms; min tx interval 300 ms; multiplier 3; };
    neighbor 10.9.0.1; neighbor fd09::1;
}
"""
FRR = """
bfd
 peer 10.9.0.1
  receive-interval 300
  transmit-interval 300
 !
 peer fd09::1 local-address fd09::2
  receive-interval 300
  transmit-interval 300
 !
!
"""
KEEPALIVED = """
bfd_instance four {
    neighbor_ip 10.9.0.1
    source_ip 10.9.0.2
    min_rx 300
    min_tx 300
    multiplier 3
}
bfd_instance six {
    neighbor_ip fd09::1
    source_ip fd09::2
    min_rx 300
    min_tx 300
    multiplier 3
    hoplimit 255
}
"""


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    with linked() as names:
        yield names


@contextmanager
def running(namespace: str, *commands: list[str]) -> Iterator[Callable[[], None]]:
    """Programs, in this order; yields what kills them all without a farewell."""
    started: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        for process in reversed(started):
            process.kill()
            process.wait(10)

    try:
        for command in commands:
            with inside(namespace):
                started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            if command is not commands[-1]:
                assert until(Path(command[-1]).exists)
        yield kill
    finally:
        kill()


@contextmanager
def peer(kind: str, namespace: str) -> Iterator[Callable[[], None]]:
    directory = Path(tempfile.mkdtemp(prefix="kernlb-bfd-"))
    try:
        file = directory / "bfd.conf"
        match kind:
            case "bird":
                file.write_text(BIRD)
                commands = [["bird", "-f", "-c", str(file), "-s", str(directory / "control")]]
            case "keepalived":
                file.write_text(KEEPALIVED)
                pids = ["-p", str(directory / "pid"), "-b", str(directory / "bfd.pid")]
                commands = [["keepalived", "-n", "-l", "-f", str(file), *pids]]
            case _:
                file.write_text(FRR)
                (directory / "zebra.conf").touch()
                for path in (directory, *directory.iterdir()):
                    shutil.chown(path, "frr", "frr")
                where = ["--vty_socket", str(directory), "-P", "0"]
                zebra, bfdd = "/usr/lib/frr/zebra", "/usr/lib/frr/bfdd"
                zserv = ["-z", str(directory / "zserv")]
                commands = [
                    [zebra, *where, "-f", str(directory / "zebra.conf"), "-i", str(directory / "zebra.pid"), *zserv],
                    [bfdd, *where, "-f", str(file), "-i", str(directory / "bfdd.pid"), *zserv],
                ]
                commands[1][1:1] = ["--bfdctl", str(directory / "bfdd.sock")]
        with running(namespace, *commands) as kill:
            yield kill
    finally:
        shutil.rmtree(directory)


@dataclass
class Seen:
    """What a checker told, and when."""

    changes: list[tuple[float, Change[str]]] = field(default_factory=list)

    def tell(self, changes) -> None:
        self.changes += [(time.monotonic(), change) for change in changes]

    def statuses(self) -> set[Status]:
        latest = {change.key: change.after.status for _, change in self.changes}
        return {latest.get(key, Status.UNKNOWN) for key in SERVERS}

    def last(self, key: str) -> tuple[float, Change[str]]:
        return [(when, change) for when, change in self.changes if change.key == key][-1]


@contextmanager
def checking(namespace: str, **options) -> Iterator[Seen]:
    """A checker of both addresses in a thread of its own, whose interval is a minute."""
    seen, over = Seen(), threading.Event()
    check = usual(BfdProbe(**options))
    check = Check(probe=check.probe, rise=check.rise, fall=check.fall, interval=60.0)

    async def check_all() -> None:
        checker: Checker[str] = Checker(seen.tell)
        checker.replace(Watched(key=each, address=ip_address(each), port=80, checks=(check,)) for each in SERVERS)
        while not over.is_set():
            await asyncio.sleep(0.02)
        checker.close()

    def run() -> None:
        with inside(namespace):
            asyncio.run(check_all())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def fell_in_time(seen: Seen, began: float) -> None:
    assert until(seen.statuses, {Status.DOWN}.__eq__) == {Status.DOWN}
    for key in SERVERS:
        when, change = seen.last(key)
        assert when - began < DETECTION + SLACK, change


@pytest.mark.netns
@pytest.mark.parametrize("kind", ["bird", "frr", "keepalived"])
def test_a_server_is_out_within_the_detection_time_and_back_as_soon_as_its_bfd_is(
    kind: str, machines: tuple[str, str]
) -> None:
    need(Feature(kind))
    director, server = machines
    with checking(director) as seen:
        with peer(kind, server) as kill:
            assert until(seen.statuses, {Status.UP}.__eq__) == {Status.UP}
            began = time.monotonic()
            kill()
            fell_in_time(seen, began)
        with peer(kind, server):
            assert until(seen.statuses, {Status.UP}.__eq__) == {Status.UP}
            ip(server, "link set wire down\n")
            fell_in_time(seen, time.monotonic())
            ip(server, "link set wire up\naddr replace fd09::2/64 dev wire nodad\n")
            assert until(seen.statuses, {Status.UP}.__eq__) == {Status.UP}
