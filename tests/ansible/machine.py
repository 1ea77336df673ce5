"""A clean Debian 12 that has booted with its own systemd, in a second: namespaces of this machine over a private copy.

Where the kernel has no IPVS, kernlb's eBPF program carries what such a machine balances.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.ansible import cgroup
from tests.debian.tree import COPY, debian
from tests.system.director import until

BOOTED = 60.0
_SPACES = ("--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--root", "--wd")
# What a machine without devices and consoles of its own need not have.
_MASKED = ("systemd-udevd.service", "systemd-udev-trigger.service", "console-getty.service", "getty@tty1.service")

_INSIDE = f"""\
{COPY}
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs run
for unit in $4; do ln -sf /dev/null "etc/systemd/system/$unit"; done
echo "$3" >etc/hostname
exec env -i container=kernlb PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd --log-target=null
"""


@dataclass(frozen=True, slots=True)
class Booted:
    """`process` is its first."""

    process: int

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> str:
        environment = ["env", "-i", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        done = subprocess.run(
            ["nsenter", "--target", str(self.process), *_SPACES, *environment, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def runs(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).strip()
        assert state != "degraded", self.run("systemctl", "--failed", "--no-pager")
        return state == "running"


@contextmanager
def booted(namespace: str, name: str, given: Path) -> Iterator[Booted]:
    """In that network namespace; `given` is seen as /given."""
    unshare = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child"]
    inside = ["sh", "-c", _INSIDE, "sh", str(debian()), str(given), name, " ".join(_MASKED)]
    # However the tests end, the machine ends with them.
    bound = ["setpriv", "--pdeathsig", "KILL"]
    with (
        cgroup.entered(f"kernlb-{namespace}") as group,
        subprocess.Popen(
            [*bound, "nsenter", f"--net=/run/netns/{namespace}", *group, *unshare, *inside],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            until(lambda: bool(_systemd(process.pid)), patience=BOOTED)
            (first,) = _systemd(process.pid)
            yield Booted(first)
        finally:
            process.kill()


def _systemd(parent: int) -> list[int]:
    """Those of a process's children that are systemd by now."""
    found = []
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        # Others come and go before it.
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                found.append(int(child))
    return found


def all_run(machines: Sequence[Booted]) -> None:
    """Returns once each has booted."""
    for machine in machines:
        until(machine.runs, patience=BOOTED)
