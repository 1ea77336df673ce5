"""Debian's kernel on disk: fetched by apt, unpacked into a cache, never installed. Knows nothing of QEMU."""

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.vm.errors import GuestError

CACHE = "KERNLB_VM_CACHE"
APT_LISTS = Path("/var/lib/apt/lists")
APT_TIMEOUT = 300


class Filesystem(StrEnum):
    """How the guest reaches this machine's files: virtiofs is faster, 9p needs neither root nor a daemon."""

    VIRTIOFS = "virtiofs"
    P9 = "9p"


# The cloud kernel boots faster and has no 9p.
METAPACKAGE = {Filesystem.VIRTIOFS: "linux-image-cloud-amd64", Filesystem.P9: "linux-image-amd64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One version of one kernel image, as apt names it."""

    name: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An unpacked kernel: `image` boots, `modules` is its /lib/modules/RELEASE with modules.dep in it."""

    filesystem: Filesystem
    release: str
    image: Path
    modules: Path


def cache_directory() -> Path:
    """Where kernels and initramfs live: $KERNLB_VM_CACHE, else ~/.cache/kernlb-vm."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "kernlb-vm").absolute()


@contextmanager
def cache_lock(thing: str) -> Iterator[Path]:
    """The cache directory, in which nobody else makes this thing meanwhile: two runs that start together fetch once."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{thing}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def kernel(filesystem: Filesystem) -> Kernel:
    """The newest kernel with this filesystem that this machine's apt knows, fetched if it is not in the cache."""
    if platform.machine() != "x86_64":
        raise GuestError(f"the guest kernel is Debian's for amd64, this machine is {platform.machine()}")
    with cache_lock("kernel") as cache:
        package = _newest(METAPACKAGE[filesystem], cache)
        root = cache / f"{package.name}_{package.version.replace(':', '_')}"
        if not root.is_dir():
            _unpack(package, root, filesystem)
        return _unpacked(root, filesystem)


def image_package(record: str) -> Package:
    """The image that a record of `apt-cache show` of a kernel's metapackage depends on."""
    found = re.search(r"^Depends: (linux-image-[^ ,]+) \(= ([^)]+)\)", record, re.MULTILINE)
    if not found:
        raise GuestError("apt knows no kernel image: run apt-get update on a Debian machine, or check its sources")
    return Package(name=found[1], version=found[2])


def _newest(metapackage: str, cache: Path) -> Package:
    # Asking apt takes over a second, so the answer is kept until its lists change.
    answer = cache / f"newest-{metapackage}"
    if not (answer.exists() and APT_LISTS.exists() and answer.stat().st_mtime > APT_LISTS.stat().st_mtime):
        show = ("apt-cache", "show", "--no-all-versions", metapackage)
        record = _output(*show)
        if not record and os.geteuid() == 0:
            _say("running apt-get update")
            _output("apt-get", "update", "-q")
            record = _output(*show)
        package = image_package(record)
        answer.write_text(f"{package.name}\n{package.version}\n")
    name, version = answer.read_text().split()
    return Package(name=name, version=version)


def _unpack(package: Package, root: Path, filesystem: Filesystem) -> None:
    if not shutil.which("depmod"):
        raise GuestError("no program depmod (Debian: apt install kmod)")
    _say(f"fetching {package.name} {package.version} into {root} (unpacked there, not installed)")
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="unpack-") as work:
        fetch = ("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", f"{package.name}={package.version}")
        _output(*fetch, directory=Path(work), must_succeed=True)
        (archive,) = Path(work).glob("*.deb")
        tree = Path(work) / "tree"
        _output("dpkg-deb", "--extract", str(archive), str(tree), must_succeed=True)
        found = _unpacked(tree, filesystem)
        _output("depmod", "--basedir", str(tree), found.release, must_succeed=True)
        tree.rename(root)


def _unpacked(root: Path, filesystem: Filesystem) -> Kernel:
    (image,) = (root / "boot").glob("vmlinuz-*")
    (modules,) = (root / "lib" / "modules").iterdir()
    return Kernel(filesystem=filesystem, release=modules.name, image=image, modules=modules)


def _output(*command: str, directory: Path | None = None, must_succeed: bool = False) -> str:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=APT_TIMEOUT)
    except FileNotFoundError as missing:
        raise GuestError(f"no program {command[0]}: the guest kernel comes from Debian's apt") from missing
    except subprocess.TimeoutExpired as expired:
        raise GuestError(f"{command[0]} gave no answer within {APT_TIMEOUT} s") from expired
    if must_succeed and done.returncode:
        raise GuestError(f"{' '.join(command)} failed (is apt-get update due?):\n{done.stderr.strip()}")
    return done.stdout


def _say(message: str) -> None:
    print(f"vm: {message}", file=sys.stderr, flush=True)
