"""Maps of the kernel through libbpf.so.1: made, opened, read, written, pinned. What is in them is others' business."""

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from ctypes import c_size_t, c_uint32, c_uint64
from pathlib import Path

from kernlb.engines.libbpf import check, library, possible_cpus, refused

BATCH = 4096
ARRAY = 2
MMAPABLE = 1 << 10
INNER_MAP = 1 << 12
_NO_BATCH = 524  # the kernel's ENOTSUPP: of arrays a CPU, before 5.13


class _MapCreate(ctypes.Structure):
    _fields_ = (
        ("sz", c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
        ("map_extra", c_uint64),
        ("numa_node", c_uint32),
        ("map_ifindex", c_uint32),
    )


class _MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info (linux/bpf.h)."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", ctypes.c_char * 16),
    )


class Map:
    """A map by its descriptor, which it owns, and which ends with it at the latest."""

    def __init__(self, descriptor: int) -> None:
        self.fd = descriptor
        info = _MapInfo()
        size = c_uint32(ctypes.sizeof(info))
        check(library().bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(size)), "ask a map's shape")
        self.id: int = info.id
        self.name: str = info.name.decode()
        self.key_size: int = info.key_size
        self.max_entries: int = info.max_entries
        self.flags: int = info.map_flags
        per_cpu = info.type in (5, 6, 10)  # PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH
        self.value_size: int = (info.value_size + 7) // 8 * 8 if per_cpu else info.value_size
        self.values_per_key: int = possible_cpus() if per_cpu else 1

    @classmethod
    def create_array(cls, name: str, *, value_size: int, max_entries: int, flags: int = 0) -> "Map":
        options = _MapCreate(sz=ctypes.sizeof(_MapCreate), map_flags=flags)
        descriptor = library().bpf_map_create(
            ARRAY, name.encode()[:15], 4, value_size, max_entries, ctypes.byref(options)
        )
        return cls(check(descriptor, f"create map {name}"))

    @classmethod
    def pinned(cls, path: Path) -> "Map":
        return cls(check(library().bpf_obj_get(os.fsencode(path)), f"open {path}"))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> "Map":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, key: bytes) -> bytes:
        """The value, all CPUs' in a row for a per-CPU map. KeyError where there is none."""
        value = ctypes.create_string_buffer(self.value_size * self.values_per_key)
        if library().bpf_map_lookup_elem(self.fd, key, value) < 0:
            if ctypes.get_errno() == 2:
                raise KeyError(key)
            raise refused(f"read map {self.name}", ctypes.get_errno())
        return value.raw

    def get(self, key: bytes) -> bytes | None:
        try:
            return self[key]
        except KeyError:
            return None

    def __setitem__(self, key: bytes, value: bytes) -> None:
        if len(key) != self.key_size or len(value) != self.value_size * self.values_per_key:
            raise ValueError(f"map {self.name} takes {self.key_size} and {self.value_size} bytes")
        check(library().bpf_map_update_elem(self.fd, key, value, 0), f"write map {self.name}")

    def __delitem__(self, key: bytes) -> None:
        if library().bpf_map_delete_elem(self.fd, key) < 0:
            if ctypes.get_errno() == 2:
                raise KeyError(key)
            raise refused(f"delete from map {self.name}", ctypes.get_errno())

    def keys(self) -> Iterator[bytes]:
        """Every key. A key that is deleted meanwhile may make the kernel begin again."""
        key = ctypes.create_string_buffer(self.key_size)
        previous: ctypes.Array[ctypes.c_char] | None = None
        while library().bpf_map_get_next_key(self.fd, previous, key) >= 0:
            yield key.raw
            previous = ctypes.create_string_buffer(key.raw, self.key_size)

    def update(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Many elements in few system calls, in their order."""
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            self.update_packed(b"".join(key for key, _ in part), b"".join(value for _, value in part), len(part))

    def update_packed(self, keys: bytes, values: bytes, count: int) -> None:
        number = c_uint32(count)
        result = library().bpf_map_update_batch(self.fd, keys, values, ctypes.byref(number), None)
        check(result, f"write {count} elements of map {self.name}")

    def first(self, count: int) -> bytes:
        """The first values of an array in a row, in one system call; each with all CPUs' for a per-CPU one."""
        size, count = self.value_size * self.values_per_key, min(count, self.max_entries)
        number, at = ctypes.byref(length := c_uint32(count)), ctypes.byref(c_uint32())
        keys, values = (ctypes.create_string_buffer(each * length.value) for each in (4, size))
        result = library().bpf_map_lookup_batch(self.fd, None, at, keys, values, number, None)
        if result < 0 and ctypes.get_errno() == _NO_BATCH:
            return b"".join(self[each.to_bytes(4, sys.byteorder)] for each in range(count))
        if result < 0 and ctypes.get_errno() != 2:  # ENOENT: these were the last
            raise refused(f"read map {self.name}", ctypes.get_errno())
        return values.raw[: size * length.value]

    def pin(self, path: Path) -> None:
        check(library().bpf_obj_pin(self.fd, os.fsencode(path)), f"pin {path}")
