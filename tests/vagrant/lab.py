"""libvirt where there is none: a libvirtd in namespaces of its own, with user-mode NAT to the outside.

What it needs lies in one directory, and whatever ends the block ends every machine in it.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

HERE = Path(__file__).parent
OUTSIDE = "10.200.2.0/24"
LOGS = ("lab.log", "log/libvirtd.log")
LAST_WORDS = 3000
READY = 60.0
POLL = 0.2


class LabError(Exception):
    """libvirtd did not come up; says why."""


@dataclass(frozen=True, slots=True)
class Lab:
    """`process` is the first one of the namespaces."""

    process: int

    def inside(self, *command: str, directory: Path = Path("/")) -> Sequence[str]:
        """The command that runs a command there, in this working directory."""
        enter = ["nsenter", "--target", str(self.process), "--mount", "--net", "--pid", f"--wdns={directory}"]
        return [*enter, *command]


@contextmanager
def lab(directory: Path) -> Iterator[Lab]:
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with (
        (directory / "lab.log").open("w") as log,
        _bound([*unshare, str(HERE / "lab.sh"), str(directory)], log.fileno()) as outer,
    ):
        built = Lab(_until(lambda: _child(outer), "no namespaces", directory))
        nat = ["slirp4netns", "--configure", "--mtu=1500", "--disable-host-loopback", f"--cidr={OUTSIDE}"]
        try:
            with _bound([*nat, str(built.process), "tap0"], log.fileno()):
                _until(lambda: _answers(built), "libvirtd does not answer", directory)
                yield built
        finally:
            # Its end is complete when every process of the namespace has ended, and nobody writes here any more.
            os.kill(built.process, signal.SIGKILL)
            outer.wait(READY)


@contextmanager
def _bound(command: Sequence[str], log: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with this block, and with this process however that ends."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _child(parent: subprocess.Popen[bytes]) -> int | None:
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return int(children[0]) if children else None


def _answers(built: Lab) -> bool | None:
    ask = built.inside("virsh", "-q", "-c", "qemu:///system", "version")
    return subprocess.run(ask, capture_output=True, timeout=READY).returncode == 0 or None


def _until(found: Callable[[], Found | None], wrong: str, directory: Path) -> Found:
    deadline = time.monotonic() + READY
    while (value := found()) is None:
        if time.monotonic() > deadline:
            logs = [file.read_text() for name in LOGS if (file := directory / name).exists()]
            raise LabError("\n".join([f"{wrong}:", *logs])[-LAST_WORDS:])
        time.sleep(POLL)
    return value
