"""The program by each of its loaders, and beside programs of somebody else."""

import ctypes
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.config.values import Loader
from kernlb.engines.abi import ABI_VERSION
from kernlb.engines.attach import Attachments, Hook
from kernlb.engines.books import Books
from kernlb.engines.building import Maker
from kernlb.engines.carried import Wish
from kernlb.engines.libbpf import Program, check, library
from kernlb.engines.maps import Map
from kernlb.engines.rtnetlink import Rtnetlink
from kernlb.engines.xdp import Xdp
from kernlb.errors import Unsupported
from kernlb.explaining import ask_program
from kernlb.model import Endpoint, EngineName, Forwarding, Key, Protocol, ServerKey, Table, Value
from kernlb.plan import diff
from tests.engines.test_xdp import HASHED, SERVER, SLOTS, SMALL, asked, flow, place, real, vip
from tests.features import Feature, need

__all__ = ["place"]
pytestmark = [pytest.mark.bpf, pytest.mark.netns]

ONE: dict[Key, Value] = {vip(1): HASHED, real(vip(1), 1): SERVER}
V6 = Endpoint(EngineName.XDP, Protocol.TCP, ip_address("2001:db8::1"), 80)
DIRECT: dict[Key, Value] = {
    V6: HASHED,
    ServerKey(V6, ip_address("fd07::9"), 80): replace(SERVER, forwarding=Forwarding.DIRECT),
}
PATIENCE = 60.0
XDP, TCX_INGRESS, SKB_MODE = 37, 46, 1 << 1


def engine(place: Path, loader: Loader = Loader.OBJECT, *, lasting: bool = False, force: bool = False) -> Xdp:
    return Xdp(place, wish=Wish(), sizes=SMALL, slots=SLOTS, loader=loader, lasting=lasting, force=force)


def converge(xdp: Xdp, desired: Table) -> None:
    xdp.apply(diff(desired, xdp.read()))


def running(xdp: Xdp) -> tuple[Maker, set[str]]:
    told = xdp.loaded()
    assert told is not None
    return Maker(told.loader), set(told.features)


def test_bcc_compiles_what_is_carried_and_no_more_and_again_for_what_comes(place: Path) -> None:
    need(Feature.BCC)
    xdp = engine(place, Loader.BCC)
    converge(xdp, ONE)
    assert running(xdp) == (Maker.BCC, {"fullnat"})
    assert asked(xdp, "192.0.2.1") == vip(1)
    maps = {path.stat().st_ino for path in place.iterdir() if not path.name.startswith(("balancer", "tcx"))}
    converge(xdp, ONE | DIRECT)
    assert running(xdp) == (Maker.BCC, {"fullnat", "ipv6", "transition"})
    assert maps <= {path.stat().st_ino for path in place.iterdir()}
    assert set(xdp.hooks().values()) == {Hook.TCX}
    before = xdp.writes
    converge(engine(place, Loader.BCC), ONE | DIRECT)
    assert xdp.writes == before
    converge(xdp, DIRECT)
    assert running(xdp) == (Maker.BCC, {"fullnat", "ipv6", "transition"}), "what does more than is needed stays"


def test_auto_serves_with_the_object_until_bcc_has_compiled(place: Path) -> None:
    need(Feature.BCC)
    passing = engine(place, Loader.AUTO)
    converge(passing, ONE)
    passing.tend()
    assert running(passing)[0] is Maker.OBJECT, "who does not stay waits for nothing"
    assert "not BCC" in why(engine(place))
    xdp = engine(place, Loader.AUTO, lasting=True)
    xdp.tend()
    assert running(xdp)[0] is Maker.OBJECT
    until_bcc(xdp)
    assert running(xdp) == (Maker.BCC, {"fullnat"})
    converge(xdp, ONE | DIRECT)
    assert running(xdp)[0] is Maker.OBJECT
    assert asked(xdp, "192.0.2.1") == vip(1)
    until_bcc(xdp)
    assert running(xdp) == (Maker.BCC, {"fullnat", "ipv6", "transition"})
    xdp.close()


def written_by_another_version(place: Path, *, abi: int) -> None:
    """As if the program that hangs here had maps of another layout; what they hold means nothing to this version."""
    books = Books(place, lost=lambda: None)
    book = books.current()
    assert book is not None
    book.abi = abi
    books.keep(book)
    books.close()
    for name in ("servers", "services", "slots-0", "slots-1"):
        with Map.pinned(place / name) as each:
            for key in list(each.keys()):
                each[key] = b"\xa5" * each.value_size


def test_a_program_with_other_maps_gives_way_to_one_whose_tables_are_all_filled(place: Path) -> None:
    """Whatever the upgrade is told: nothing, a change of one service, or that a service goes."""
    direct = replace(SERVER, forwarding=Forwarding.DIRECT)
    two: dict[Key, Value] = {real(vip(2), number): direct for number in (2, 3)}
    held = {**ONE, vip(2): HASHED, **two}
    for after in (held, held | {real(vip(2), 3): replace(direct, weight=7)}, ONE, held):
        converge(engine(place), held)
        converge(engine(place), held | {real(vip(2), 2): replace(direct, weight=5)})
        before = Program.pinned("balancer_tc", place / "balancer_tc").id
        written_by_another_version(place, abi=ABI_VERSION - 1)
        with pytest.raises(Unsupported, match="another version"):
            asked(engine(place), "192.0.2.1")
        upgraded = engine(place)
        assert not upgraded.counters()
        assert not upgraded.transits()
        upgraded.tend()
        answers(upgraded, held)
        written_by_another_version(place, abi=ABI_VERSION + 1)
        converge(upgraded, after)
        assert upgraded.read() == after
        answers(engine(place), after)
        assert upgraded.counters().keys() == after.keys()
        now = Program.pinned("balancer_tc", place / "balancer_tc").id
        assert {each.program for each in Attachments(place).read()} == {now} != {before}


def answers(xdp: Xdp, table: Table) -> None:
    """What is new gets to every server of its service, what was there before to some."""
    for service in (key for key in table if isinstance(key, Endpoint)):
        servers = {key for key in table if isinstance(key, ServerKey) and key.service == service}
        new = flow(str(service.address), 0)
        assert {ask_program(xdp, replace(new, client_port=port)).server for port in range(1024, 1224)} == servers
        if service != vip(1):
            old = [replace(new, client_port=port, begins=False) for port in range(1024, 1224)]
            assert {ask_program(xdp, each).server for each in old} <= servers


def why(xdp: Xdp) -> str:
    told = xdp.loaded()
    assert told is not None
    return told.why


def until_bcc(xdp: Xdp) -> None:
    end = time.monotonic() + PATIENCE
    while running(xdp)[0] is not Maker.BCC:
        assert time.monotonic() < end, xdp.loaded()
        time.sleep(0.05)
        xdp.tend()


@pytest.fixture
def stranger() -> Iterator[int]:
    """A program that passes every packet, which kernlb did not load."""
    with loaded(6) as descriptor:
        yield descriptor


@contextmanager
def loaded(kind: int) -> Iterator[int]:
    code = struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    library().bpf_prog_load.argtypes = None
    descriptor = check(library().bpf_prog_load(kind, b"stranger", b"GPL", code, ctypes.c_size_t(2), None), "load")
    yield descriptor
    os.close(descriptor)


def front() -> int:
    with Rtnetlink() as netlink:
        return next(link.index for link in netlink.links().values() if link.name == "front")


def strangers_there() -> int:
    with Rtnetlink() as netlink:
        return len(netlink.links()[front()].xdp_programs)


@pytest.mark.parametrize("by_link", [False, True])
def test_a_foreign_xdp_program_is_in_the_way_by_name_and_displaced_by_force_alone(
    place: Path, stranger: int, by_link: bool
) -> None:
    held = -1
    if by_link:
        held = check(library().bpf_link_create(stranger, front(), XDP, None), "link")
    else:
        check(library().bpf_xdp_attach(front(), stranger, SKB_MODE, None), "attach")
    conflict = engine(place).in_the_way()
    assert conflict is not None
    assert "stranger (id " in conflict.message
    assert "on front" in conflict.message
    assert "--force" in (conflict.hint or "")
    forced = engine(place, force=True)
    assert forced.in_the_way() is None
    assert strangers_there() == 1
    converge(forced, ONE)
    assert strangers_there() == 0
    assert engine(place).in_the_way() is None
    if held >= 0:
        os.close(held)


def test_a_foreign_xdp_program_that_comes_later_stays_where_it_is(place: Path, stranger: int) -> None:
    xdp = engine(place)
    converge(xdp, ONE)
    check(library().bpf_xdp_attach(front(), stranger, SKB_MODE, None), "attach")
    assert xdp.in_the_way() is None
    xdp.tend()
    converge(engine(place, force=True), ONE | DIRECT)
    assert strangers_there() == 1


def test_foreign_programs_at_tcx_stay_beside_ours(place: Path) -> None:
    with loaded(3) as program:
        held = check(library().bpf_link_create(program, front(), TCX_INGRESS, None), "link")
        xdp = engine(place, force=True)
        assert xdp.in_the_way() is None
        converge(xdp, ONE)
        converge(xdp, {})
        told = ctypes.create_string_buffer(64)
        size = ctypes.c_uint32(64)
        check(library().bpf_obj_get_info_by_fd(held, told, ctypes.byref(size)), "ask")
        assert struct.unpack_from("=I", told.raw, 16)[0] == front(), "still attached"
        os.close(held)
