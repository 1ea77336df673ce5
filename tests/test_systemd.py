"""What systemd hears, on a socket of the test's."""

import os
import socket
from pathlib import Path

import pytest

from kernlb.daemon.readiness import GRACE, Readiness
from kernlb.errors import KernlbError
from kernlb.systemd import Notifier


@pytest.fixture
def heard(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def words(sock: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(sock.recv(4096).decode())
        except BlockingIOError:
            return found


def test_each_message_is_one_datagram(heard: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": heard.getsockname()})
    notifier.reloading()
    notifier.reloaded()
    notifier.ready()
    notifier.ready()
    notifier.reloading()
    notifier.ready()
    notifier.reloaded()
    notifier.status("3 services")
    notifier.status("3 services")
    notifier.stopping()
    notifier.close()
    notifier.reloaded()
    first, reloading, *others = words(heard)
    assert first == "READY=1"
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert others == ["READY=1", "STATUS=3 services", "STOPPING=1"]


def test_ready_waits_for_the_kernel_and_for_who_takes_orders_but_not_for_ever_for_a_service_refused(
    heard: socket.socket,
) -> None:
    def said(*happened: str) -> list[str]:
        now = [0.0]
        readiness = Readiness(Notifier({"NOTIFY_SOCKET": heard.getsockname()}), clock=lambda: now[0])
        what = {
            "serve": readiness.serve,
            "reconciled": lambda: readiness.reconciled("fine"),
            "refused": lambda: readiness.refused(["web"]),
            "failed": lambda: readiness.failed(KernlbError("no")),
            "wait": lambda: now.append(now.pop() + GRACE),
        }
        for each in happened:
            what[each]()
        return [word for word in words(heard) if not word.startswith("STATUS=")]

    ready = ["READY=1"]
    assert said("reconciled") == said("serve") == said("failed", "serve") == said("refused", "serve") == []
    assert said("reconciled", "serve") == said("refused", "serve", "reconciled", "reconciled") == ready
    assert said("refused", "serve", "wait", "refused") == ready
    assert said("failed", "serve", "wait", "failed") == []


def test_the_watchdog_is_fed_as_often_as_it_needs_and_no_oftener(heard: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": heard.getsockname(), "WATCHDOG_USEC": "30000000"})
    for _ in range(100):
        notifier.feed()
    assert words(heard) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, {"WATCHDOG_USEC": "soon"}],
)
def test_where_nobody_asked_no_watchdog_is_fed(heard: socket.socket, environment: dict[str, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": heard.getsockname(), **environment})
    notifier.feed()
    assert words(heard) == []


def test_where_nobody_listens_nothing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    Notifier({"NOTIFY_SOCKET": "@kernlb-nobody"}).ready()
