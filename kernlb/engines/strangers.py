"""XDP programs that somebody else has put on an interface: who they are, and how they are taken off."""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kernlb.engines.libbpf import check, info, library
from kernlb.engines.rtnetlink import Link

_XDP_LINK = 6  # enum bpf_link_type
_MODES = (1 << 1, 1 << 2, 1 << 3)  # XDP_FLAGS_SKB_MODE, DRV_MODE, HW_MODE


@dataclass(frozen=True, slots=True)
class Stranger:
    interface: str
    id: int
    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name or 'without a name'} (id {self.id}, tag {self.tag}) on {self.interface}"


def named(link: Link) -> list[Stranger]:
    """The XDP programs of an interface. One that goes meanwhile is left out."""
    return [found for number in link.xdp_programs if (found := _named(link.name, number)) is not None]


def displace(link: Link) -> None:
    """Take every XDP program off an interface. It is not kept: whoever put it there has to do so again."""
    for descriptor in _links(link.index):
        try:
            check(library().bpf_link_detach(descriptor), f"detach the XDP program of {link.name}")
        finally:
            os.close(descriptor)
    for mode in _MODES:
        # There is a program in one mode or another, or none any more.
        library().bpf_xdp_detach(link.index, mode, None)


def _named(interface: str, number: int) -> Stranger | None:
    descriptor = library().bpf_prog_get_fd_by_id(number)
    if descriptor < 0:
        # Without CAP_SYS_ADMIN it may be there, but not looked at.
        return None if ctypes.get_errno() == errno.ENOENT else Stranger(interface, number, "", "unknown")
    try:
        told = info(descriptor, 80)  # struct bpf_prog_info: tag at 8, name at 64
    finally:
        os.close(descriptor)
    return Stranger(interface, number, told[64:80].rstrip(b"\0").decode(errors="replace"), told[8:16].hex())


def _links(interface: int) -> Iterator[int]:
    """Descriptors of the BPF links that hold an XDP program there."""
    number = ctypes.c_uint32(0)
    while library().bpf_link_get_next_id(number, ctypes.byref(number)) == 0:
        descriptor = library().bpf_link_get_fd_by_id(number)
        if descriptor < 0:
            continue
        kind, where = struct.unpack_from("=I12xI", info(descriptor, 64))
        if (kind, where) == (_XDP_LINK, interface):
            yield descriptor
        else:
            os.close(descriptor)
