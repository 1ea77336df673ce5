"""What the running kernel says of its own structures and functions: the BTF of vmlinux."""

import struct
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_uint32, c_void_p, string_at
from functools import cache

from kernlb.engines.libbpf import library
from kernlb.engines.linking import Buffer

_STRUCT, _UNION, _FUNCTION = 4, 5, 12  # BTF_KIND_*
_CAST, _BUFFER, _SUMMED = b"bpf_cast_to_kern_ctx", b"sk_buff", b"ip_summed"
_HEAD, _MEMBER = struct.Struct("=III"), struct.Struct("=III")
_BIT_FIELDS = 1 << 31  # the info of a structure that has them: offsets of members are then 24 bits


@cache
def socket_buffer() -> Buffer | None:
    """How a program gets at its struct sk_buff; None where the kernel has no BTF or not the function (6.2)."""
    lib = library()
    lib.btf__load_vmlinux_btf.restype = c_void_p
    lib.btf__free.restype, lib.btf__free.argtypes = None, (c_void_p,)
    lib.btf__find_by_name_kind.restype, lib.btf__find_by_name_kind.argtypes = c_int, (c_void_p, c_char_p, c_uint32)
    lib.btf__type_by_id.restype, lib.btf__type_by_id.argtypes = c_void_p, (c_void_p, c_uint32)
    lib.btf__name_by_offset.restype, lib.btf__name_by_offset.argtypes = c_char_p, (c_void_p, c_uint32)
    types: int | None = lib.btf__load_vmlinux_btf()
    if not types:
        return None
    try:
        function = lib.btf__find_by_name_kind(types, _CAST, _FUNCTION)
        buffer = lib.btf__find_by_name_kind(types, _BUFFER, _STRUCT)
        if function < 0 or buffer < 0:
            return None
        at = next((bit for name, bit in _members(types, buffer) if name == _SUMMED), None)
        return None if at is None else Buffer(function, at)
    finally:
        lib.btf__free(types)


def _members(types: int, structure: int) -> Iterator[tuple[bytes, int]]:
    """Name and first bit of each, those within nameless structures too."""
    lib = library()
    address = lib.btf__type_by_id(types, structure)
    _, info, _ = _HEAD.unpack(string_at(address, _HEAD.size))
    for number in range(info & 0xFFFF):
        name, kind, offset = _MEMBER.unpack(string_at(address + _HEAD.size + number * _MEMBER.size, _MEMBER.size))
        bit = offset & 0xFFFFFF if info & _BIT_FIELDS else offset
        called: bytes = lib.btf__name_by_offset(types, name)
        if called:
            yield called, bit
            continue
        _, inside, _ = _HEAD.unpack(string_at(lib.btf__type_by_id(types, kind), _HEAD.size))
        if inside >> 24 & 0x1F in (_STRUCT, _UNION):
            yield from ((inner, bit + more) for inner, more in _members(types, kind))
