"""Where the program hangs: tcx, clsact on kernels without it, native XDP where that pays. Displaces nobody else's."""

import ctypes
import os
import socket
import struct
from collections.abc import Collection, Mapping
from ctypes import c_int, c_size_t, c_uint32
from dataclasses import dataclass
from enum import StrEnum
from errno import EEXIST, EINVAL, EOPNOTSUPP
from pathlib import Path

from kernlb.engines.dataplane import TC, XDP
from kernlb.engines.libbpf import Program, check, info, library
from kernlb.engines.maps import Map
from kernlb.engines.rtnetlink import Link, Rtnetlink
from kernlb.errors import KernelError

_TCX_INGRESS, _XDP = 46, 37  # enum bpf_attach_type
_NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE
_INGRESS, _EGRESS = 1, 2
_REPLACE = 1
_HANDLE, _PRIORITY = 0x4B4C, 0x4B4C
_NO_TCX = (EINVAL, EOPNOTSUPP)


class Hook(StrEnum):
    """A name of the hook is the beginning of its pin's name: bpffs takes no dots, so interfaces go by number."""

    TCX = "tcx"
    CLSACT = "clsact"
    XDP = "xdp"


@dataclass(frozen=True, slots=True)
class Attachment:
    """`program` is the kernel's number of what is attached. `refused`: why native XDP was not to be had, where asked
    for."""

    hook: Hook
    interface: int
    program: int
    refused: str = ""


class _LinkCreate(ctypes.Structure):
    _fields_ = (
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", ctypes.c_void_p),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
        ("rest", ctypes.c_uint64 * 2),
    )


class _TcHook(ctypes.Structure):
    _fields_ = (
        ("sz", c_size_t),
        ("ifindex", c_int),
        ("attach_point", c_int),
        ("parent", c_uint32),
        ("padding", c_uint32),
    )


class _TcOptions(ctypes.Structure):
    _fields_ = (
        ("sz", c_size_t),
        ("prog_fd", c_int),
        ("flags", c_uint32),
        ("prog_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
        ("padding", c_uint32),
    )


class Attachments:
    """Links are pinned in a directory of the BPF file system, so that they outlive every process."""

    def __init__(self, directory: Path, *, tcx: bool = True) -> None:
        self._directory = directory
        self._tcx = tcx

    def read(self) -> list[Attachment]:
        """What hangs; of interfaces that went away nothing does."""
        return [found for path in self._pins() if (found := self._read(path)) is not None]

    def attach(self, link: Link, programs: Mapping[str, Program], *, native: bool) -> Attachment:
        """At the hook that suits the interface. A program of ours that hangs there already gives way atomically."""
        refused = ""
        if native and XDP in programs:
            try:
                self._link(link, Hook.XDP, programs[XDP], _XDP, _NATIVE)
                return Attachment(self._only(link, Hook.XDP), link.index, programs[XDP].id)
            except KernelError as error:
                # Each driver has reasons of its own: queues, memory, MTU, another program. None keeps tc from serving.
                refused = os.strerror(error.errno)
        if self._tcx:
            try:
                self._link(link, Hook.TCX, programs[TC], _TCX_INGRESS, 0)
                return Attachment(self._only(link, Hook.TCX), link.index, programs[TC].id, refused)
            except KernelError as error:
                if error.errno not in _NO_TCX:
                    raise
        self._clsact(link, programs[TC])
        return Attachment(self._only(link, Hook.CLSACT), link.index, programs[TC].id, refused)

    def detach(self, interface: int) -> None:
        for path in self._pins():
            hook, _, number = path.name.partition("-")
            if int(number) == interface:
                self._remove(Hook(hook), interface)

    def forget(self, present: Collection[int]) -> None:
        """Of interfaces that are not `present` any more only pins are left: the number may be another's some day."""
        for path in self._pins():
            interface = int(path.name.partition("-")[2])
            if interface not in present:
                path.unlink(missing_ok=True)
                self._made(interface).unlink(missing_ok=True)

    def _only(self, link: Link, kept: Hook) -> Hook:
        for hook in Hook:
            if hook is not kept and self._pin(hook, link.index).exists():
                self._remove(hook, link.index)
        return kept

    def _remove(self, hook: Hook, interface: int) -> None:
        if hook is Hook.CLSACT:
            self._remove_clsact(interface)
        self._pin(hook, interface).unlink(missing_ok=True)

    def _remove_clsact(self, interface: int) -> None:
        hook = _tc_hook(interface)
        library().bpf_tc_detach(ctypes.byref(hook), ctypes.byref(_tc_filter()))
        made = self._made(interface)
        if not made.exists():
            return
        made.unlink()
        with Rtnetlink() as netlink:
            if not netlink.has_filters(interface):
                hook.attach_point = _INGRESS | _EGRESS
                library().bpf_tc_hook_destroy(ctypes.byref(hook))

    def _pins(self) -> list[Path]:
        try:
            return sorted(p for p in self._directory.iterdir() if p.name.partition("-")[0] in tuple(Hook))
        except FileNotFoundError:
            return []

    def _made(self, interface: int) -> Path:
        """There where the clsact qdisc of an interface is of our making."""
        return self._directory / f"qdisc-{interface}"

    def _pin(self, hook: Hook, interface: int) -> Path:
        return self._directory / f"{hook}-{interface}"

    def _read(self, path: Path) -> Attachment | None:
        hook, _, number = path.name.partition("-")
        if hook == Hook.CLSACT:
            options = _tc_filter()
            if library().bpf_tc_query(ctypes.byref(_tc_hook(int(number))), ctypes.byref(options)):
                return None
            return Attachment(Hook.CLSACT, int(number), options.prog_id)
        descriptor = library().bpf_obj_get(bytes(path))
        if descriptor < 0:
            return None
        try:
            told = info(descriptor, 64)
        finally:
            os.close(descriptor)
        program, interface = struct.unpack_from("=I", told, 8)[0], struct.unpack_from("=I", told, 16)[0]
        return Attachment(Hook(hook), interface, program) if interface else None

    def _link(self, link: Link, hook: Hook, program: Program, kind: int, flags: int) -> None:
        path = self._pin(hook, link.index)
        if path.exists():
            if self._read(path) is not None:
                descriptor = check(library().bpf_obj_get(bytes(path)), f"open {path}")
                try:
                    what = f"replace the program of {link.name}"
                    check(library().bpf_link_update(descriptor, program.fd, None), what)
                finally:
                    os.close(descriptor)
                return
            path.unlink()
        options = _LinkCreate(sz=ctypes.sizeof(_LinkCreate), flags=flags)
        made = library().bpf_link_create(program.fd, link.index, kind, ctypes.byref(options))
        descriptor = check(made, f"attach to {link.name}")
        try:
            check(library().bpf_obj_pin(descriptor, bytes(path)), f"pin {path}")
        finally:
            os.close(descriptor)

    def _clsact(self, link: Link, program: Program) -> None:
        hook = _tc_hook(link.index)
        made = library().bpf_tc_hook_create(ctypes.byref(hook))
        if made not in (0, -EEXIST):
            check(made, f"make a clsact qdisc on {link.name}")
        options = _tc_filter()
        options.prog_fd, options.flags = program.fd, _REPLACE
        check(library().bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options)), f"attach to {link.name}")
        if made == 0 or self._made(link.index).exists():
            _mark(self._made(link.index))
        _mark(self._pin(Hook.CLSACT, link.index))


def told_of(attachment: Attachment, refused: Mapping[int, str]) -> str:
    """In words; `refused`: of interfaces that took no native XDP, why."""
    interface = attachment.interface
    try:
        name = socket.if_indextoname(interface)
    except OSError:
        name = f"interface {interface}"
    why = f", as it refused native XDP: {refused[interface]}" if interface in refused else ""
    return f"{name} at {attachment.hook}{why}"


def _mark(path: Path) -> None:
    """Something to be found there. A program would keep its maps, which may be those of a version before."""
    path.unlink(missing_ok=True)
    with Map.create_array("mark", value_size=4, max_entries=1) as mark:
        mark.pin(path)


def _tc_hook(interface: int) -> _TcHook:
    return _TcHook(sz=ctypes.sizeof(_TcHook), ifindex=interface, attach_point=_INGRESS)


def _tc_filter() -> _TcOptions:
    return _TcOptions(sz=ctypes.sizeof(_TcOptions), handle=_HANDLE, priority=_PRIORITY)
