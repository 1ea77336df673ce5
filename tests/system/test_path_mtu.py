"""Path MTU discovery through full NAT and direct routing: a small link on either side, at the director and beyond."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernlb.model import Forwarding
from tests.system.network import until
from tests.system.routed import CLIENT, FIRST, REAL, Routed, download, read, routed, upload

pytestmark = [pytest.mark.bpf, pytest.mark.netns]
SMALL = 1300
LENGTH = 1 << 21
WIRES = {
    "near": (("director", "to-near"), ("director", "near"), ("near", "eth0")),
    "far": (("router", "far"), ("far", "eth0")),
    "front": (("director", "to-r1"), ("director", "front"), ("r1", "director")),
    "client": (("r1", "client"), ("client", "r1")),
}


@pytest.fixture(scope="module")
def built(balancer: Path) -> Iterator[Routed]:
    with routed(bridged=True) as network:
        yield network


@pytest.fixture
def network(built: Routed) -> Iterator[Routed]:
    yield built
    for wire in WIRES.values():
        built.squeeze(wire, 1500)
    built.forget()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("forwarding", "server", "small", "answers"),
    [
        pytest.param(Forwarding.DIRECT, "near", "near", True, id="direct, at the director"),
        pytest.param(Forwarding.FULLNAT, "near", "near", True, id="full NAT, at the director"),
        pytest.param(Forwarding.FULLNAT, "far", "far", False, id="full NAT, beyond"),
        pytest.param(Forwarding.FULLNAT, "near", "front", True, id="full NAT, to the client at the director"),
        pytest.param(Forwarding.FULLNAT, "near", "client", False, id="full NAT, to the client beyond"),
    ],
)
def test_both_ends_learn_how_much_fits(
    network: Routed, forwarding: Forwarding, server: str, small: str, answers: bool, family: int
) -> None:
    """Both say in their SYN to take more than the small link does; `answers`: the program tells, and not a router."""
    network.squeeze(WIRES[small], SMALL)
    network.hold(server, forwarding)
    with network.connect(family) as connection:
        assert upload(connection, LENGTH) == LENGTH
    with network.connect(family) as connection:
        assert download(connection, LENGTH) >= LENGTH
    assert ("TOO_BIG" in network.causes()) == answers


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("way", ["link", "route"])
@pytest.mark.parametrize("forwarding", [Forwarding.DIRECT, Forwarding.FULLNAT])
def test_a_link_and_a_route_that_become_smaller_are_followed(
    network: Routed, forwarding: Forwarding, way: str, family: int
) -> None:
    network.hold("near", forwarding)
    with network.connect(family) as connection:
        assert upload(connection, LENGTH) == LENGTH
    assert "TOO_BIG" not in network.causes()
    if way == "link":
        network.squeeze(WIRES["near"], SMALL)
    else:
        network.ip("director", f"route add {REAL['near'][family]} dev near mtu {SMALL}")
    network.engine.tend()
    with network.connect(family) as connection:
        assert upload(connection, LENGTH) == LENGTH
    assert "TOO_BIG" in network.causes()
    if way == "route":
        network.ip("director", f"route del {REAL['near'][family]} dev near")


@pytest.mark.parametrize("family", [4, 6])
def test_a_route_to_the_client_that_becomes_smaller_is_followed_by_the_connections_there_are(
    network: Routed, family: int
) -> None:
    network.hold("near", Forwarding.FULLNAT)
    route = f"route change {CLIENT[family]} via {FIRST[family]}"
    with network.connect(family) as connection:
        assert download(connection, LENGTH) >= LENGTH
        network.ip("director", f"{route} mtu lock {SMALL}")
        assert until(lambda: read(connection, LENGTH) >= LENGTH and "TOO_BIG" in network.causes())
    network.ip("director", f"{route} mtu 1500")
