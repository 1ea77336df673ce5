"""The first root of the guest: busybox, the few modules that reach this machine's files, and `init`. Knows no QEMU."""

import hashlib
import lzma
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.vm.errors import GuestError
from tests.vm.kernel import Filesystem, Kernel, cache_lock

HERE = Path(__file__).parent
DIRECTORIES = ("bin", "dev", "lower", "modules", "new", "proc", "run", "rw", "sys")
# crc32c has no dependency that modules.dep could name: the kernel asks for it by algorithm.
COMMON = ("crc32c_generic", "virtio_pci", "virtio_console", "overlay")
FILESYSTEMS = {Filesystem.VIRTIOFS: ("virtiofs",), Filesystem.P9: ("9pnet_virtio", "9p")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, directory or link of the archive; a link's data is its target."""

    path: str
    mode: int
    data: bytes = b""


def initramfs(kernel: Kernel) -> Path:
    """The archive for this kernel, built once for each content."""
    busybox = shutil.which("busybox")
    if not busybox:
        raise GuestError("no program busybox (Debian: apt install busybox-static)")
    scripts = [HERE / "init", HERE / "supervise"]
    with cache_lock("initramfs") as cache:
        sources = [Path(__file__), Path(busybox), *scripts]
        digest = hashlib.sha256(b"".join([kernel.modules.as_posix().encode(), *(s.read_bytes() for s in sources)]))
        archive = cache / f"initramfs-{kernel.release}-{digest.hexdigest()[:16]}.cpio"
        if not archive.exists():
            partial = archive.with_suffix(".partial")
            partial.write_bytes(b"".join(newc(_entries(kernel, Path(busybox), scripts))))
            partial.rename(archive)
        return archive


def load_order(dependencies: str, wanted: Iterable[str]) -> list[str]:
    """Paths of the wanted modules and all they need, each after its needs; `dependencies` is a modules.dep.

    Modules that the kernel has built in are not in modules.dep and left out.
    """
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in dependencies.splitlines())}
    by_name = {_module_name(path): path for path in needs}
    # modules.dep lists what a module needs from the nearest to the deepest.
    paths = (p for name in wanted if name in by_name for p in [*reversed(needs[by_name[name]]), by_name[name]])
    return list(dict.fromkeys(paths))


def newc(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The entries as a cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    for number, entry in enumerate([*entries, Entry(path="TRAILER!!!", mode=0)], start=1):
        name = entry.path.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        yield _padded(header)
        yield _padded(entry.data)


def _entries(kernel: Kernel, busybox: Path, scripts: Iterable[Path]) -> Iterator[Entry]:
    for name in DIRECTORIES:
        yield Entry(path=name, mode=stat.S_IFDIR | 0o755)
    yield Entry(path="bin/busybox", mode=stat.S_IFREG | 0o755, data=busybox.read_bytes())
    yield Entry(path="bin/sh", mode=stat.S_IFLNK | 0o777, data=b"busybox")
    for script in scripts:
        yield Entry(path=script.name, mode=stat.S_IFREG | 0o755, data=script.read_bytes())
    dependencies = (kernel.modules / "modules.dep").read_text()
    for position, path in enumerate(load_order(dependencies, [*COMMON, *FILESYSTEMS[kernel.filesystem]])):
        name = f"modules/{position:02}-{_module_name(path)}.ko"
        yield Entry(path=name, mode=stat.S_IFREG | 0o644, data=_module(kernel.modules / path))


def _module_name(path: str) -> str:
    return os.path.basename(path).partition(".")[0].replace("-", "_")  # noqa: PTH119


def _module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
