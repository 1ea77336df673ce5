"""The kernel's eBPF objects through libbpf.so.1: open, size, load, pin, test-run. Knows no balancing."""

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kernlb.errors import KernelError, Unsupported

LOG_SIZE = 1 << 20
LOG_TAIL = 12

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class _TestRun(ctypes.Structure):
    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


_POINTERS: dict[str, tuple[Any, ...]] = {
    "bpf_object__open_file": (c_char_p, c_void_p),
    "bpf_object__find_map_by_name": (c_void_p, c_char_p),
    "bpf_object__find_program_by_name": (c_void_p, c_char_p),
    "bpf_object__next_program": (c_void_p, c_void_p),
    "bpf_object__next_map": (c_void_p, c_void_p),
    "bpf_map__initial_value": (c_void_p, ctypes.POINTER(c_size_t)),
    "bpf_program__insns": (c_void_p,),
}
_NAMES = {"bpf_program__name": (c_void_p,), "bpf_map__name": (c_void_p,)}
_NUMBERS: dict[str, tuple[Any, ...]] = {
    "bpf_object__load": (c_void_p,),
    "bpf_map__fd": (c_void_p,),
    "bpf_map__set_max_entries": (c_void_p, c_uint32),
    "bpf_map__reuse_fd": (c_void_p, c_int),
    "bpf_program__fd": (c_void_p,),
    "bpf_program__insn_cnt": (c_void_p,),
    "bpf_program__set_autoload": (c_void_p, ctypes.c_bool),
    "bpf_program__set_log_buf": (c_void_p, c_void_p, c_size_t),
    "bpf_program__set_log_level": (c_void_p, c_uint32),
    "bpf_obj_pin": (c_int, c_char_p),
    "bpf_obj_get": (c_char_p,),
    "bpf_map_create": (c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p),
    "bpf_map_update_elem": (c_int, c_char_p, c_char_p, c_uint64),
    "bpf_map_lookup_elem": (c_int, c_char_p, c_char_p),
    "bpf_map_delete_elem": (c_int, c_char_p),
    "bpf_map_get_next_key": (c_int, c_char_p, c_char_p),
    "bpf_map_update_batch": (c_int, c_char_p, c_char_p, ctypes.POINTER(c_uint32), c_void_p),
    "bpf_map_lookup_batch": (c_int, c_void_p, c_void_p, c_void_p, c_void_p, ctypes.POINTER(c_uint32), c_void_p),
    "bpf_obj_get_info_by_fd": (c_int, c_void_p, ctypes.POINTER(c_uint32)),
    "bpf_link_create": (c_int, c_int, c_uint32, c_void_p),
    "bpf_link_update": (c_int, c_int, c_void_p),
    "bpf_tc_hook_create": (c_void_p,),
    "bpf_tc_hook_destroy": (c_void_p,),
    "bpf_tc_attach": (c_void_p, c_void_p),
    "bpf_tc_detach": (c_void_p, c_void_p),
    "bpf_tc_query": (c_void_p, c_void_p),
    "bpf_prog_test_run_opts": (c_int, ctypes.POINTER(_TestRun)),
    "libbpf_num_possible_cpus": (),
}


def _ignore(_level: int, _format: bytes, _arguments: int) -> int:
    """libbpf would write to stderr; what matters of it goes into our errors."""
    return 0


_silent = _PRINT(_ignore)


@cache
def library() -> ctypes.CDLL:
    """libbpf 1.x. Raises Unsupported where it is missing."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as missing:
        raise Unsupported(f"no libbpf: {missing}", hint="Debian: apt install libbpf1") from missing
    for name, arguments in _POINTERS.items():
        getattr(lib, name).restype, getattr(lib, name).argtypes = c_void_p, arguments
    for name, arguments in _NAMES.items():
        getattr(lib, name).restype, getattr(lib, name).argtypes = c_char_p, arguments
    for name, arguments in _NUMBERS.items():
        getattr(lib, name).restype, getattr(lib, name).argtypes = c_int, arguments
    lib.bpf_object__close.restype, lib.bpf_object__close.argtypes = None, (c_void_p,)
    lib.libbpf_set_print.restype, lib.libbpf_set_print.argtypes = c_void_p, (_PRINT,)
    lib.libbpf_set_print(_silent)
    return lib


def refused(what: str, errno: int, *, hint: str | None = None) -> KernelError:
    return KernelError(f"{what}: {os.strerror(errno)}", errno=errno, where="bpf", hint=hint)


def check(result: int, what: str) -> int:
    if result < 0:
        raise refused(what, ctypes.get_errno() or -result)
    return result


def info(descriptor: int, size: int) -> bytes:
    """What the kernel tells of a map, program or link (struct bpf_*_info of linux/bpf.h), at most `size` bytes."""
    told = ctypes.create_string_buffer(size)
    length = c_uint32(size)
    check(library().bpf_obj_get_info_by_fd(descriptor, told, ctypes.byref(length)), "ask about a descriptor")
    return told.raw


@cache
def possible_cpus() -> int:
    """How many values a per-CPU map gives for each key."""
    return check(library().libbpf_num_possible_cpus(), "count the CPUs")


@dataclass(frozen=True, slots=True)
class Run:
    """What a program answered to one packet; duration in ns, the mean over the repeats."""

    verdict: int
    packet: bytes
    duration: int


class Program:
    """A loaded program by its descriptor; the object it came from owns it, unless it was opened by itself."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.fd = descriptor

    @classmethod
    def pinned(cls, name: str, path: Path) -> "Program":
        return cls(name, check(library().bpf_obj_get(os.fsencode(path)), f"open {path}"))

    @property
    def id(self) -> int:
        number: int = struct.unpack_from("=I", info(self.fd, 64), 4)[0]
        return number

    def close(self) -> None:
        os.close(self.fd)

    def run(
        self, packet: bytes, *, repeat: int = 1, context: bytes | None = None, room: int = 512, flags: int = 0
    ) -> Run:
        """BPF_PROG_TEST_RUN. `room`: how much longer the packet may become; `flags`: BPF_F_TEST_*."""
        out = ctypes.create_string_buffer(len(packet) + room)
        options = _TestRun(
            sz=ctypes.sizeof(_TestRun),
            data_in=ctypes.cast(c_char_p(packet), c_void_p),
            data_size_in=len(packet),
            data_out=ctypes.cast(out, c_void_p),
            data_size_out=len(out),
            repeat=repeat,
            flags=flags,
        )
        if context is not None:
            options.ctx_in, options.ctx_size_in = ctypes.cast(c_char_p(context), c_void_p), len(context)
        check(
            library().bpf_prog_test_run_opts(self.fd, ctypes.byref(options)),
            f"test-run {self.name} on {len(packet)} bytes",
        )
        return Run(options.retval, out.raw[: options.data_size_out], options.duration)

    def pin(self, path: Path) -> None:
        check(library().bpf_obj_pin(self.fd, os.fsencode(path)), f"pin {path}")


class Object:
    """An object file: opened, then sized, then loaded. Closing or forgetting it keeps what is pinned or attached."""

    def __init__(self, path: Path) -> None:
        self._object: int | None = None
        self._path = path
        self._object = library().bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise refused(f"open {path}", ctypes.get_errno(), hint="build it: make -C bpf")

    def __enter__(self) -> "Object":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._object:
            library().bpf_object__close(self._object)
            self._object = None

    def __del__(self) -> None:
        self.close()

    def _map(self, name: str) -> int:
        found: int | None = library().bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise KeyError(name)
        return found

    def _programs(self) -> Iterator[int]:
        program: int | None = None
        while program := library().bpf_object__next_program(self._object, program):
            yield program

    def map_names(self) -> list[str]:
        names: list[str] = []
        pointer: int | None = None
        while pointer := library().bpf_object__next_map(self._object, pointer):
            names.append(library().bpf_map__name(pointer).decode())
        return names

    def set_max_entries(self, name: str, entries: int) -> None:
        check(library().bpf_map__set_max_entries(self._map(name), entries), f"size map {name}")

    def reuse(self, name: str, descriptor: int) -> None:
        """Let the object use a map that exists already instead of a new one."""
        check(library().bpf_map__reuse_fd(self._map(name), descriptor), f"reuse map {name}")

    def set_constants(self, values: bytes, *, offset: int = 0) -> None:
        """Overwrite .rodata, before loading."""
        size = c_size_t()
        name = next(name for name in self.map_names() if name.endswith(".rodata"))
        address = library().bpf_map__initial_value(self._map(name), ctypes.byref(size))
        if not address or offset + len(values) > size.value:
            raise ValueError(f"{name} has {size.value} bytes")
        ctypes.memmove(address + offset, values, len(values))

    def rewrite(self, change: Callable[[bytearray], None]) -> None:
        """`change`s the instructions of each program in place, before loading."""
        for program in self._programs():
            address, size = library().bpf_program__insns(program), 8 * library().bpf_program__insn_cnt(program)
            code = bytearray(ctypes.string_at(address, size))
            change(code)
            ctypes.memmove(address, bytes(code), size)

    def load(self, *programs: str) -> None:
        """Load the named programs, or all. An error carries the end of the verifier's log."""
        logs: dict[str, ctypes.Array[ctypes.c_char]] = {}
        for program in self._programs():
            name = library().bpf_program__name(program).decode()
            if programs and name not in programs:
                library().bpf_program__set_autoload(program, False)
                continue
            logs[name] = ctypes.create_string_buffer(LOG_SIZE)
            library().bpf_program__set_log_buf(program, logs[name], LOG_SIZE)
            library().bpf_program__set_log_level(program, 0)
        result = library().bpf_object__load(self._object)
        if result < 0:
            ends = {name: log.value.decode(errors="replace").splitlines()[-LOG_TAIL:] for name, log in logs.items()}
            told = "\n".join(f"{name}: {line}" for name, lines in ends.items() for line in lines)
            hint = told or "root (CAP_BPF and CAP_NET_ADMIN) is needed, and a kernel with BPF"
            raise refused(f"load {self._path.name}", -result, hint=hint)

    def map(self, name: str) -> int:
        """A descriptor of the caller's own."""
        return os.dup(check(library().bpf_map__fd(self._map(name)), f"find map {name}"))

    def program(self, name: str) -> Program:
        pointer = library().bpf_object__find_program_by_name(self._object, name.encode())
        if not pointer:
            raise KeyError(name)
        return Program(name, check(library().bpf_program__fd(pointer), f"find program {name}"))
