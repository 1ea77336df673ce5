"""A clean Debian 12 on disk, made once by mmdebstrap from this machine's own mirror, and private copies of it.

It holds what kernlb's package depends on, systemd, and nothing else of kernlb's.
"""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vm.kernel import cache_lock

SUITE = "bookworm"
REPOSITORY = Path(__file__).parents[2]
CONTROL = REPOSITORY / "debian" / "control"
# Beside the dependencies: what a machine that boots has, what the tests look with, and what Ansible works by.
SYSTEM = ("dbus", "ifupdown", "iproute2", "procps", "python3-apt", "systemd-sysv", "udev")
BUILD_DEADLINE = 900


def dependencies() -> list[str]:
    """The packages that debian/control names."""
    (line,) = re.findall(r"^Depends: (.*)$", CONTROL.read_text(), re.MULTILINE)
    return sorted({re.match(r"[a-z0-9.+-]+", part.strip())[0] for part in line.split(",")})  # type: ignore[index]


def debian() -> Path:
    """The tree; nobody may write there."""
    packages = ",".join(sorted({*dependencies(), *SYSTEM}))
    digest = hashlib.sha256(packages.encode()).hexdigest()[:12]
    with cache_lock("debian") as cache:
        tree = cache / f"debian-{SUITE}-{digest}"
        if not tree.is_dir():
            print(f"debian: making a clean Debian 12 in {tree}", file=sys.stderr, flush=True)
            partial = tree.with_suffix(".partial")
            subprocess.run(["rm", "-rf", "--one-file-system", partial], check=True)
            without = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "locale")]
            quick = ["--aptopt=APT::Install-Recommends false", "--dpkgopt=force-unsafe-io", *without]
            make = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=directory", *quick, f"--include={packages}"]
            done = subprocess.run(
                [*make, SUITE, str(partial), *mirror()], capture_output=True, text=True, timeout=BUILD_DEADLINE
            )
            if done.returncode:
                raise RuntimeError(f"mmdebstrap failed:\n{done.stderr[-3000:]}")
            partial.rename(tree)
        return tree


def mirror() -> list[str]:
    """What this machine's own apt uses; mmdebstrap's default where that cannot be told."""
    for sources in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        if found := re.findall(r"^URIs: *(\S+)", sources.read_text(), re.MULTILINE):
            return [found[0]]
    return []


@dataclass(frozen=True, slots=True)
class Machine:
    """A private copy that vanishes: an overlay in a mount, network, process and IPC namespace of its own."""

    process: int

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "--target", str(self.process), "--mount", "--net", "--pid", "--ipc", "--root", "--wd"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        done = subprocess.run(
            [*enter, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment | {"DEBIAN_FRONTEND": "noninteractive"},
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done


COPY = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir="$1",upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
mkdir given
mount --bind "$2" given
mount -t proc proc proc
ip link set lo up
"""
"""For a shell in namespaces of its own: a private copy of tree $1, with directory $2 as /given. It is stood in."""

_INSIDE = f"""\
{COPY}
mount --rbind /dev dev
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs run
exec chroot . sh -c 'echo ready; exec sleep 3600'
"""


@contextmanager
def machine(given: Path) -> Iterator[Machine]:
    """`given` is seen as /given."""
    unshare = ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"]
    command = [*unshare, "sh", "-c", _INSIDE, "sh", str(debian()), str(given)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield Machine(int(child))
        finally:
            process.kill()
