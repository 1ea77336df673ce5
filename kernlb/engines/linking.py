"""Compiled functions become one program: calls by number, maps by descriptor, and the BTF that makes functions global.

BCC compiles one function at a time and links nothing. Where the source calls a function of its own, the compiled code
calls a helper with a number that no kernel has; where it means a map it has a number, too. Pure.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FUNCTIONS = 0x4B4C0000
"""The number of the first function; the first map's is MAPS."""
MAPS = 0x4B4D0000
KERNEL_BUFFER, KERNEL_SUMMED = 0x4B4B0000, 0x4B4B0001
"""bpf/summed.h: a function of the kernel, and a number that this kernel's structures decide."""

_INSTRUCTION = struct.Struct("<BBhi")
_CALL, _WIDE = 0x85, 0x18  # BPF_JMP | BPF_CALL; BPF_LD | BPF_IMM | BPF_DW, two instructions long
_MOVE = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K
_PSEUDO_CALL, _PSEUDO_MAP, _PSEUDO_KERNEL = 1, 1, 2

# linux/btf.h
_MAGIC, _INT, _POINTER, _STRUCT, _FUNCTION, _PROTOTYPE = 0xEB9F, 1, 2, 4, 12, 13
_GLOBAL = 1


@dataclass(frozen=True, slots=True)
class Function:
    """`context` is the name of the struct that its first parameter points to, None where it has only numbers."""

    name: str
    parameters: int
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Buffer:
    """How a program at tc gets at the kernel's own buffer: the BTF number of bpf_cast_to_kern_ctx, and the bit of
    struct sk_buff at which ip_summed begins."""

    function: int
    summed: int


@dataclass(frozen=True, slots=True)
class Linked:
    """`starts`: the instruction at which each function begins."""

    code: bytes
    starts: Mapping[Function, int]


def resolve(code: bytearray, buffer: Buffer | None) -> None:
    """Calls of what the kernel may have, in place: of that, or 0 where it has none."""
    call = (_CALL, _PSEUDO_KERNEL << 4, 0, buffer.function) if buffer else (_MOVE, 0, 0, 0)
    known = {KERNEL_BUFFER: call, KERNEL_SUMMED: (_MOVE, 0, 0, buffer.summed if buffer else 0)}
    for at, (operation, registers, _, value) in enumerate(_INSTRUCTION.iter_unpack(code)):
        if operation == _CALL and not registers and value in known:
            _INSTRUCTION.pack_into(code, at * _INSTRUCTION.size, *known[value])


def link(
    entry: Function,
    compiled: Mapping[Function, bytes],
    callees: Sequence[Function],
    maps: Sequence[int],
    buffer: Buffer | None = None,
) -> Linked:
    """A program and all that it calls. `callees` and `maps` (descriptors) in the order of their numbers.

    Raises KeyError for a call of something that is not there.
    """
    starts: dict[Function, int] = {entry: 0}
    code = bytearray(compiled[entry])
    at = 0
    while at < len(code):
        operation, registers, offset, value = _INSTRUCTION.unpack_from(code, at)
        if operation == _CALL and value >= FUNCTIONS:
            callee = callees[value - FUNCTIONS]
            if callee not in starts:
                starts[callee] = len(code) // _INSTRUCTION.size
                code += compiled[callee]
            registers, value = _PSEUDO_CALL << 4, starts[callee] - at // _INSTRUCTION.size - 1
            _INSTRUCTION.pack_into(code, at, operation, registers, offset, value)
        elif operation == _WIDE:
            if registers >> 4 == _PSEUDO_MAP:
                _INSTRUCTION.pack_into(code, at, operation, registers, offset, maps[value - MAPS])
            at += _INSTRUCTION.size
        at += _INSTRUCTION.size
    resolve(code, buffer)
    return Linked(bytes(code), starts)


def btf(functions: Sequence[Function]) -> tuple[bytes, dict[Function, int]]:
    """The type information by which the verifier walks each of these once, and the type of each."""
    strings = _Strings()
    types = [_type(strings.of("int"), _INT, 0, 4) + struct.pack("=I", 1 << 24 | 32)]  # signed, 32 bits
    types.append(_type(strings.of("u64"), _INT, 0, 8) + struct.pack("=I", 64))
    number, wide = 1, 2
    numbers: dict[Function, int] = {}
    for function in functions:
        first: list[int] = []
        if function.context is not None:
            types.append(_type(strings.of(function.context), _STRUCT, 0, 4))
            types.append(_type(0, _POINTER, 0, len(types)))
            first = [len(types)]
        parameters = [*first, *[wide] * (function.parameters - len(first))]
        listed = b"".join(struct.pack("=II", strings.of(f"p{place}"), kind) for place, kind in enumerate(parameters))
        types.append(_type(0, _PROTOTYPE, len(parameters), number) + listed)
        types.append(_type(strings.of(function.name), _FUNCTION, _GLOBAL, len(types)))
        numbers[function] = len(types)
    body, names = b"".join(types), strings.text()
    head = struct.pack("=HBBIIIII", _MAGIC, 1, 0, 24, 0, len(body), len(body), len(names))
    return head + body + names, numbers


def _type(name: int, kind: int, count: int, size_or_type: int) -> bytes:
    return struct.pack("=III", name, kind << 24 | count, size_or_type)


class _Strings:
    def __init__(self) -> None:
        self._places: dict[str, int] = {"": 0}
        self._length = 1

    def of(self, word: str) -> int:
        if word not in self._places:
            self._places[word] = self._length
            self._length += len(word) + 1
        return self._places[word]

    def text(self) -> bytes:
        return b"".join(word.encode() + b"\0" for word in self._places)
