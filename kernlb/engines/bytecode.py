"""Instructions into the kernel: a program that no object file holds, with the types of its functions."""

import ctypes
import os
import struct
from collections.abc import Mapping, Sequence
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass

from kernlb.engines.libbpf import LOG_SIZE, LOG_TAIL, Program, check, library, refused
from kernlb.engines.linking import Buffer, Function, btf, link

_SCHED_CLS, _XDP = 3, 6  # enum bpf_prog_type
_ATTACH_XDP = 37  # enum bpf_attach_type
_TYPE = {"xdp_md": _XDP, "__sk_buff": _SCHED_CLS}


class _Options(ctypes.Structure):
    """struct bpf_prog_load_opts (libbpf's bpf.h)."""

    _fields_ = (
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_uint32),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
        ("fd_array", c_void_p),
        ("func_info", c_void_p),
        ("func_info_cnt", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("line_info", c_void_p),
        ("line_info_cnt", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_char_p),
    )


@dataclass(frozen=True, slots=True)
class Code:
    """Compiled functions: those to load as programs, and those they call, in the order of their numbers."""

    entries: Sequence[Function]
    callees: Sequence[Function]
    compiled: Mapping[Function, bytes]

    def load(self, maps: Sequence[int], buffer: Buffer | None) -> list[Program]:
        """`maps`: descriptors in the order of their numbers; `buffer`: as the kernel has it. Each program is a
        descriptor of its own."""
        loaded: list[Program] = []
        try:
            for entry in self.entries:
                loaded.append(_load(entry, self, maps, buffer))
        except BaseException:
            for program in loaded:
                program.close()
            raise
        return loaded


def _load(entry: Function, code: Code, maps: Sequence[int], buffer: Buffer | None) -> Program:
    """A program of its own, linked with what it calls. Raises KernelError with the end of the verifier's log."""
    linked = link(entry, code.compiled, code.callees, maps, buffer)
    types, numbers = btf(list(linked.starts))
    lib = library()
    lib.bpf_btf_load.restype, lib.bpf_btf_load.argtypes = c_int, (c_char_p, c_size_t, c_void_p)
    lib.bpf_prog_load.restype = c_int
    lib.bpf_prog_load.argtypes = (c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p)
    described = check(lib.bpf_btf_load(types, len(types), None), f"load the types of {entry.name}")
    functions = b"".join(struct.pack("=II", start, numbers[function]) for function, start in linked.starts.items())
    log = ctypes.create_string_buffer(LOG_SIZE)
    kind = _TYPE[entry.context or ""]
    options = _Options(
        sz=ctypes.sizeof(_Options),
        expected_attach_type=_ATTACH_XDP if kind == _XDP else 0,
        prog_btf_fd=described,
        func_info=ctypes.cast(c_char_p(functions), c_void_p),
        func_info_cnt=len(linked.starts),
        func_info_rec_size=8,
    )
    asked = (kind, entry.name.encode()[:15], b"GPL", linked.code, len(linked.code) // 8, ctypes.byref(options))
    try:
        descriptor = lib.bpf_prog_load(*asked)
        if descriptor < 0:
            # Once more, for what the verifier has to say: the log costs time.
            options.log_level, options.log_size, options.log_buf = 1, LOG_SIZE, ctypes.cast(log, c_char_p)
            descriptor = lib.bpf_prog_load(*asked)
    finally:
        os.close(described)
    if descriptor < 0:
        told = log.value.decode(errors="replace").splitlines()[-LOG_TAIL:]
        raise refused(f"load {entry.name} as BCC compiled it", -descriptor, hint="\n".join(told) or None)
    return Program(entry.name, descriptor)
