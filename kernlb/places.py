"""Where kernlb keeps things, and which network namespace it works in."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from kernlb.errors import Unsupported

_CLONE_NEWNET = 0x40000000  # linux/sched.h
NETNS_DIRECTORY = Path("/run/netns")
CONFIGURATION = Path("/etc/kernlb/kernlb.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """`namespace` is "default" or the name of the network namespace; each has its own lock, socket and state."""

    namespace: str = "default"
    run: Path = Path("/run/kernlb")
    state: Path = Path("/var/lib/kernlb")
    bpf: Path = Path("/sys/fs/bpf/kernlb")

    @property
    def lock(self) -> Path:
        return self.run / self.namespace / "lock"

    @property
    def control(self) -> Path:
        return self.run / self.namespace / "control.sock"

    @property
    def track(self) -> Path:
        """What VRRP companions watch: minus the number of services that lack quorum."""
        return self.run / self.namespace / "track"

    @property
    def state_file(self) -> Path:
        return self.state / self.namespace / "state.json"

    @property
    def state_aside(self) -> Path:
        """Where the state lies while its own place has no room: like the kernel's, it ends with the boot."""
        return self.run / self.namespace / "state.json"

    @property
    def applied(self) -> Path:
        """The configuration in force, for orders where no daemon runs."""
        return self.state / self.namespace / "applied.json"

    @property
    def applied_aside(self) -> Path:
        """Where it lies while its own place has no room."""
        return self.run / self.namespace / "applied.json"

    @property
    def pins(self) -> Path:
        return self.bpf / self.namespace


def enter(namespace: str) -> None:
    """Move this process, and all it starts, into a named network namespace; the mounts stay as they are.

    Raises Unsupported where there is no such namespace or no right to enter it.
    """
    path = NETNS_DIRECTORY / namespace
    try:
        if path.name != namespace:
            raise FileNotFoundError
        with path.open("rb") as file:
            _setns(file.fileno())
    except (FileNotFoundError, IsADirectoryError) as error:
        known = ", ".join(sorted(p.name for p in NETNS_DIRECTORY.glob("*"))) or "none"
        raise Unsupported(
            f"no network namespace {namespace!r}", where=str(path), hint=f"ip netns list; there is: {known}"
        ) from error
    except OSError as error:
        raise Unsupported(
            f"cannot enter network namespace {namespace!r}: {error.strerror}",
            where=str(path),
            hint="CAP_SYS_ADMIN is needed: run as root",
        ) from error


def _setns(descriptor: int) -> None:
    """setns(2); os.setns is there from Python 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def current_namespace() -> str:
    """The name of the network namespace this process is in; "default" where it has none."""
    here = Path("/proc/self/ns/net").stat()
    for path in sorted(NETNS_DIRECTORY.glob("*")):
        try:
            there = path.stat()
        except OSError:
            continue
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            return path.name
    return "default"


def namespace_inode() -> int:
    return Path("/proc/self/ns/net").stat().st_ino


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
