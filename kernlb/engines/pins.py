"""The directory of the BPF file system where the program lives on, and what kernlb has written down beside it."""

import ctypes
import errno
import mmap
import os
import shutil
import struct
import zlib
from pathlib import Path

from kernlb.engines.maps import MMAPABLE, Map
from kernlb.errors import KernelError, Unsupported
from kernlb.places import Places, current_namespace, namespace_inode

_BPF_FS_MAGIC = 0xCAFE4A11
_LEDGER = "ledger"
_PAGE = 4096
_HALF = 256 * _PAGE
_HEAD = struct.Struct("=QII")  # generation, length, CRC-32


def directory() -> Path:
    """Of the network namespace this process is in. One without a name has its number for a name."""
    name = current_namespace()
    nameless = name == "default" and _apart_from_init("net")
    return Places(namespace=f"netns-{namespace_inode()}" if nameless else name).pins


def exists() -> bool:
    """Whether anything is pinned for this network namespace."""
    return (directory() / _LEDGER).exists()


def prepare(place: Path) -> None:
    """Make the directory, on a BPF file system. Raises Unsupported where it would not outlive this process."""
    root = Path("/sys/fs/bpf")
    if not _is_bpf(root):
        if _apart_from_init("mnt"):
            raise Unsupported(
                "no BPF file system in this mount namespace, and one made here would end with it",
                where=str(root),
                hint="`ip netns exec` hides /sys/fs/bpf: use kernlb --netns NAME",
            )
        _mount(root)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)


def remove(place: Path) -> None:
    """Everything pinned there, and the directories that are empty then."""
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.parent.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EBUSY, errno.EPERM, errno.EROFS):
            raise


def _apart_from_init(kind: str) -> bool:
    """Whether this process is in another namespace than process 1; False where that one's may not be seen."""
    try:
        return Path(f"/proc/self/ns/{kind}").stat().st_ino != Path(f"/proc/1/ns/{kind}").stat().st_ino
    except PermissionError:
        return False


def _is_bpf(root: Path) -> bool:
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(root), buffer):
        return False
    magic: int = struct.unpack_from("=q", buffer.raw)[0]
    return magic & 0xFFFFFFFF == _BPF_FS_MAGIC


def _mount(root: Path) -> None:
    if ctypes.CDLL(None, use_errno=True).mount(b"bpf", os.fsencode(root), b"bpf", 0, None):
        number = ctypes.get_errno()
        raise KernelError(
            f"cannot mount the BPF file system: {os.strerror(number)}",
            errno=number,
            where=str(root),
            hint="mount -t bpf bpf /sys/fs/bpf, as root",
        )


class Ledger:
    """A text in the kernel's memory that lives as long as the maps. Readers see the old text or the new one."""

    def __init__(self, existing: Map) -> None:
        self.map = existing
        self._memory = mmap.mmap(existing.fd, 2 * _HALF)

    @classmethod
    def create(cls) -> "Ledger":
        return cls(Map.create_array("ledger", value_size=_PAGE, max_entries=2 * _HALF // _PAGE, flags=MMAPABLE))

    @classmethod
    def open(cls, place: Path) -> "Ledger | None":
        path = place / _LEDGER
        return cls(Map.pinned(path)) if path.exists() else None

    def pin(self, place: Path) -> None:
        self.map.pin(place / _LEDGER)

    @property
    def generation(self) -> int:
        """Another one after each writing; 0 before the first."""
        generations: list[int] = [_HEAD.unpack_from(self._memory, which * _HALF)[0] for which in (0, 1)]
        return max(generations)

    def read(self) -> bytes | None:
        """None before the first writing."""
        newest = max((self._half(which) for which in (0, 1)), key=lambda found: found[0])
        return newest[1]

    def write(self, text: bytes) -> None:
        packed = zlib.compress(text, 1)
        if len(packed) > _HALF - _HEAD.size:
            raise Unsupported(f"{len(packed):,} bytes to write down, and there is room for {_HALF:,}")
        generations = [self._half(which)[0] for which in (0, 1)]
        which = generations.index(min(generations))
        start = which * _HALF
        self._memory[start : start + _HEAD.size] = bytes(_HEAD.size)
        self._memory[start + _HEAD.size : start + _HEAD.size + len(packed)] = packed
        head = _HEAD.pack(max(generations) + 1, len(packed), zlib.crc32(packed))
        self._memory[start : start + _HEAD.size] = head

    def close(self) -> None:
        self._memory.close()
        self.map.close()

    def _half(self, which: int) -> tuple[int, bytes | None]:
        start = which * _HALF
        generation, length, check = _HEAD.unpack_from(self._memory, start)
        packed = self._memory[start + _HEAD.size : start + _HEAD.size + min(length, _HALF)]
        if not generation or zlib.crc32(packed) != check:
            return 0, None
        return generation, zlib.decompress(packed)
