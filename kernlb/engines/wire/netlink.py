"""Netlink and generic netlink framing: messages, attributes, errors, the name of a family. No socket, no IPVS.

Host byte order, attributes aligned to 4 bytes: linux/netlink.h, linux/genetlink.h.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Literal, NamedTuple

HEADER = Struct("=IHHII")
GENERIC = Struct("=BBH")
ATTRIBUTE = Struct("=HH")
GENERIC_START = HEADER.size + GENERIC.size

_NATIVE: Literal["little", "big"] = "little" if Struct("=H").pack(1) == b"\1\0" else "big"

NESTED = 0x8000
_TYPE_MASK = 0x3FFF


class Flag(IntFlag):
    REQUEST = 0x01
    MULTI = 0x02
    ACK = 0x04
    DUMP_INTERRUPTED = 0x10
    DUMP = 0x300


class Control(IntEnum):
    """Message types below 16 speak of netlink itself."""

    NOOP = 1
    ERROR = 2
    DONE = 3
    OVERRUN = 4


GENL_ID_CTRL = 16
_CTRL_CMD_GETFAMILY = 3
_CTRL_VERSION = 1
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2


class Message(NamedTuple):
    """One message as received; `body` starts behind the netlink header."""

    kind: int
    flags: int
    sequence: int
    body: memoryview


def attribute(kind: int, payload: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def text(kind: int, value: str) -> bytes:
    """A string attribute, NUL-terminated as NLA_NUL_STRING wants it."""
    return attribute(kind, value.encode() + b"\0")


def native(value: int, width: int) -> bytes:
    """An unsigned number in host byte order."""
    return value.to_bytes(width, _NATIVE)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, native(value, 4))


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, native(value, 2))


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, native(value, 1))


def nested(kind: int, *members: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(members))


def number(payload: memoryview) -> int:
    """An unsigned number of any width in host byte order."""
    return int.from_bytes(payload, _NATIVE)


def string(payload: memoryview) -> str:
    return bytes(payload).split(b"\0", 1)[0].decode("ascii", "replace")


def attributes(buffer: memoryview) -> dict[int, memoryview]:
    """The attributes of a message or of a nested attribute, by type. What is cut short ends the walk."""
    found: dict[int, memoryview] = {}
    offset, end = 0, len(buffer)
    while offset + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(buffer, offset)
        if length < ATTRIBUTE.size or offset + length > end:
            break
        found[kind & _TYPE_MASK] = buffer[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def generic_body(command: int, version: int, payload: bytes = b"") -> bytes:
    return GENERIC.pack(command, version, 0) + payload


def batch(family: int, bodies: Iterable[bytes], sequence: int, *, last: int) -> bytes:
    """Requests as one buffer, numbered from `sequence` on. Only number `last` asks for an acknowledgement:
    the kernel answers a refused request in any case, and answers requests in order."""
    return b"".join(
        HEADER.pack(HEADER.size + len(body), family, 0x05 if number == last else 0x01, number, 0) + body
        for number, body in enumerate(bodies, sequence)
    )


def request(family: int, body: bytes, sequence: int, flags: int) -> bytes:
    return HEADER.pack(HEADER.size + len(body), family, flags | Flag.REQUEST, sequence, 0) + body


def messages(datagram: bytes) -> Iterator[Message]:
    view, offset = memoryview(datagram), 0
    while offset + HEADER.size <= len(view):
        length, kind, flags, sequence, _ = HEADER.unpack_from(view, offset)
        if length < HEADER.size or offset + length > len(view):
            break
        yield Message(kind, flags, sequence, view[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3


def errno_of(message: Message) -> int:
    """The errno an ERROR or DONE message carries, 0 for success."""
    return -int.from_bytes(message.body[:4], _NATIVE, signed=True) if len(message.body) >= 4 else 0


def family_request(name: str, sequence: int) -> bytes:
    body = generic_body(_CTRL_CMD_GETFAMILY, _CTRL_VERSION, text(_CTRL_ATTR_FAMILY_NAME, name))
    return request(GENL_ID_CTRL, body, sequence, Flag.ACK)


def family_number(message: Message) -> int:
    return number(attributes(message.body[GENERIC.size :])[_CTRL_ATTR_FAMILY_ID])
