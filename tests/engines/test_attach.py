"""Where the program hangs: native XDP and what refuses it, and what is left of where it hung before."""

import ctypes
import os
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.engines import abi
from kernlb.engines.abi import HopMethod
from kernlb.engines.attach import Hook
from kernlb.engines.carried import Book, Wish
from kernlb.engines.dataplane import Dataplane
from kernlb.engines.libbpf import library
from kernlb.engines.nexthops import Surroundings
from kernlb.engines.placement import keep_known, one_armed
from kernlb.engines.rtnetlink import Link, Rtnetlink
from kernlb.engines.xdp import Xdp
from kernlb.model import Forwarding, Key, Table, Value
from tests.engines.namespace import ip
from tests.engines.test_xdp import HASHED, SERVER, SLOTS, SMALL, converge, place, real, vip
from tests.system.network import until

__all__ = ["place"]
pytestmark = [pytest.mark.bpf, pytest.mark.netns]
ONE: dict[Key, Value] = {vip(1): HASHED, real(vip(1), 1): SERVER}
DIRECT = replace(SERVER, forwarding=Forwarding.DIRECT)


def link(name: str) -> Link:
    with Rtnetlink() as netlink:
        return next(each for each in netlink.links().values() if each.name == name)


def carried(desired: Table) -> Book:
    book = Book(
        abi=abi.ABI_VERSION, namespace=0, secret=1, fingerprint="", tick_shift=0, memory_buckets=1, flow_buckets=1,
        wish=Wish(), slots=SLOTS,
    )  # fmt: skip
    book.follow({vip(1): desired}, now=0.0, servers=64, rest=60.0)
    return book


def test_native_xdp_pays_where_everything_leaves_whole_as_it_came_and_on_hardware_alone(place: Path) -> None:
    front = link("front")
    direct, elsewhere = {vip(1): HASHED, real(vip(1), 1): DIRECT}, ip_address("10.8.0.1")
    hardware = replace(front, kind="")
    with Rtnetlink() as netlink:
        seen = Surroundings(netlink)
        assert one_armed(carried(direct), seen, hardware)
        assert not one_armed(carried(direct), seen, front)
        assert one_armed(carried(direct), seen, front, virtual=True)
        assert not one_armed(carried(ONE), seen, hardware), "full NAT sends answers out as well"
        assert not one_armed(carried({vip(1): HASHED}), seen, hardware)
        nowhere = {**direct, replace(real(vip(1), 2), address=elsewhere): DIRECT}
        assert not one_armed(carried(nowhere), seen, hardware)


def test_a_neighbour_that_is_forgotten_is_known_as_long_as_the_way_is_the_same() -> None:
    mac, here, there = bytes.fromhex("020000000007"), ip_address("10.7.0.1"), ip_address("10.7.0.2")
    known = abi.Hop(interface=3, destination=mac, method=HopMethod.ADDRESSES)
    before = abi.Server(address=here, forward=abi.Forward.DIRECT, hop=known, next=here)
    for hop, next_, kept in (
        (abi.Hop(interface=3, method=HopMethod.NEIGHBOUR), here, True),
        (abi.Hop(interface=3, method=HopMethod.UNRESOLVED), here, True),
        (abi.Hop(), here, False),
        (abi.Hop(interface=3, method=HopMethod.NEIGHBOUR), there, False),
        (abi.Hop(interface=4, method=HopMethod.NEIGHBOUR), here, False),
        (abi.Hop(interface=3, destination=bytes(5) + b"9", method=HopMethod.ADDRESSES), here, False),
    ):
        now = {1: replace(before, hop=hop, next=next_)}
        keep_known({1: before}, now)
        assert now[1].hop == (known if kept else hop)


def test_an_interface_that_refuses_native_xdp_is_served_at_tc_and_says_why(place: Path) -> None:
    """A veth whose other end takes larger packets than a page holds answers ERANGE."""
    for name in ("front", "far"):
        ip(f"link set {name} mtu 9000")
    xdp = Xdp(place, wish=Wish(), sizes=SMALL, slots=SLOTS, virtual=True)
    converge(xdp, {vip(1): HASHED, real(vip(1), 1): DIRECT})
    (hook,) = xdp.hooks().values()
    assert hook is not Hook.XDP
    told = xdp.loaded()
    assert told is not None
    assert told.attached == (f"front at {hook}, as it refused native XDP: {os.strerror(34)}",)
    with Dataplane.pinned(place) as plane:
        assert set(plane.programs) == {"balancer_tc", "balancer_explain"}
        server = abi.Server.unpack(plane.maps["servers"][abi.index(1)])
        assert server.hop.method is HopMethod.NEIGHBOUR, "at tc the kernel finds neighbours by itself"
        number = plane.program("balancer_tc").id
    again = Xdp(place, wish=Wish(), sizes=SMALL, slots=SLOTS, virtual=True)
    converge(again, {vip(1): HASHED, real(vip(1), 1): DIRECT, real(vip(1), 2): DIRECT})
    with Dataplane.pinned(place) as plane:
        assert plane.program("balancer_tc").id == number, "it is not asked again"


@pytest.mark.parametrize("tcx", [True, False])
def test_a_program_that_gave_way_is_gone_from_the_kernel(place: Path, tcx: bool) -> None:
    numbers = []
    for seconds in (900.0, 700.0):
        xdp = Xdp(place, wish=Wish(tcp=seconds), sizes=SMALL, slots=SLOTS, tcx=tcx)
        converge(xdp, ONE)
        xdp.tend()
        with Dataplane.pinned(place) as plane:
            numbers.append(plane.program("balancer_tc").id)
        xdp.close()
    before, now = numbers
    assert loaded(now)
    assert until(lambda: not loaded(before))


def loaded(program: int) -> bool:
    descriptor = library().bpf_prog_get_fd_by_id(ctypes.c_uint32(program))
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0)


@pytest.mark.parametrize("tcx", [True, False])
def test_nothing_is_left_of_an_interface_that_went_away(place: Path, tcx: bool) -> None:
    xdp = Xdp(place, wish=Wish(), sizes=SMALL, slots=SLOTS, tcx=tcx)
    for line in ("link add later type veth peer name beyond", "addr add 10.8.0.1/24 dev later", "link set later up"):
        ip(line)
    converge(xdp, ONE)
    went = link("later").index
    assert [path for path in place.iterdir() if path.name.endswith(f"-{went}")]
    ip("link del later")
    xdp.tend()
    assert not [path for path in place.iterdir() if path.name.endswith(f"-{went}")]
    assert set(xdp.hooks()) == {link("front").index}
