"""Real traffic through native XDP, on a veth: a gateway with one arm, whose servers answer past it."""

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.engines.abi import Cause
from kernlb.engines.attach import Hook
from kernlb.engines.carried import Wish
from kernlb.engines.libbpf import check, library
from kernlb.engines.xdp import Xdp
from kernlb.model import (
    Endpoint,
    EngineName,
    Forwarding,
    Key,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    Tunnel,
    Value,
    VirtualService,
)
from kernlb.plan import diff
from tests.engines.test_loaders import loaded
from tests.system.engine import SMALL
from tests.system.network import inside, run
from tests.system.segment import PORT, SERVERS, VIP, Segment, segment, who

pytestmark = [pytest.mark.bpf, pytest.mark.netns]
CONNECTIONS = 60
SMALL_MTU = 1300
XDP_PROGRAM, DRIVER_MODE = 6, 1 << 2


@pytest.fixture
def network(balancer: Path) -> Iterator[Segment]:
    with segment() as built:
        # A frame of XDP has no note that its checksum is still to be made.
        run("ip", "netns", "exec", built.client, "ethtool", "-K", "eth0", "tx", "off")
        # A veth takes what comes by XDP_TX from its other end only where it has a program itself (veth_xdp_flush).
        with inside(built.router), loaded(XDP_PROGRAM) as passing:
            check(library().bpf_xdp_attach(socket.if_nametoindex("gw1"), passing, DRIVER_MODE, None), "attach")
        yield built


def table(forwarding: Forwarding, weights: dict[str, int]) -> dict[Key, Value]:
    service = Endpoint(EngineName.XDP, Protocol.TCP, ip_address(VIP), PORT)
    tunnel = Tunnel() if forwarding is Forwarding.TUNNEL else None
    held: dict[Key, Value] = {service: VirtualService(Scheduler.MAGLEV)}
    for name, weight in weights.items():
        held[ServerKey(service, ip_address(SERVERS[name]), PORT)] = RealServer(forwarding, weight, tunnel=tunnel)
    return held


@pytest.mark.parametrize("forwarding", [Forwarding.DIRECT, Forwarding.TUNNEL])
def test_native_xdp_carries_connections_through_changes(network: Segment, forwarding: Forwarding) -> None:
    pins = Path(f"/sys/fs/bpf/kernlb/test-{os.getpid()}")
    with inside(network.gateways["gw1"]):
        xdp = Xdp(pins, wish=Wish(interfaces=("eth0",)), sizes=SMALL, slots=1009, virtual=True)
        try:
            xdp.apply(diff(table(forwarding, {"s1": 1, "s2": 1}), xdp.read()))
            assert set(xdp.hooks().values()) == {Hook.XDP}
            connections = [network.connect() for _ in range(CONNECTIONS)]
            first = [who(connection) for connection in connections]
            assert set(first) == {"s1", "s2"}
            xdp.apply(diff(table(forwarding, {"s1": 0, "s2": 1, "s3": 2}), xdp.read()))
            # Whose address the kernel has forgotten is found as before: at XDP nobody asks for it.
            run("ip", "neigh", "flush", "dev", "eth0")
            xdp.tend()
            later = [network.connect() for _ in range(CONNECTIONS)]
            assert {who(connection) for connection in later} == {"s2", "s3"}
            assert [who(connection) for connection in connections] == first
            assert sum(counted.packets_in or 0 for counted in xdp.counters().values()) > 6 * CONNECTIONS
            for connection in (*connections, *later):
                connection.close()
        finally:
            xdp.apply(diff({}, xdp.read()))
        assert not pins.exists()


def test_a_client_learns_of_a_route_that_takes_less(network: Segment) -> None:
    pins = Path(f"/sys/fs/bpf/kernlb/test-{os.getpid()}")
    run("ip", "-n", network.gateways["gw1"], "route", "add", SERVERS["s1"], "dev", "eth0", "mtu", str(SMALL_MTU))
    with inside(network.gateways["gw1"]):
        xdp = Xdp(pins, wish=Wish(interfaces=("eth0",)), sizes=SMALL, slots=1009, virtual=True)
        try:
            xdp.apply(diff(table(Forwarding.DIRECT, {"s1": 1}), xdp.read()))
            assert set(xdp.hooks().values()) == {Hook.XDP}
            with network.connect() as connection:
                connection.sendall(bytes(4 * SMALL_MTU))
                assert connection.recv(100)
            assert xdp.causes()[Cause.TOO_BIG]
        finally:
            xdp.apply(diff({}, xdp.read()))
