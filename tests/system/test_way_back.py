"""Answers of full NAT on their way back to a client behind routers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernlb.model import Forwarding
from tests.system.routed import Routed, download, read, routed, send, sent, upload

pytestmark = [pytest.mark.bpf, pytest.mark.netns]
MUCH = 1 << 25
"""Bytes, several times what sockets hold."""


@pytest.fixture(params=[False, True], ids=["an interface each", "one interface"])
def network(balancer: Path, request: pytest.FixtureRequest) -> Iterator[Routed]:
    with routed(bridged=request.param) as built:
        yield built


@pytest.mark.parametrize("family", [4, 6])
def test_answers_go_through_a_router_that_nobody_has_spoken_with(network: Routed, family: int) -> None:
    """A router of IPv6 asks for us by an address of its link: ours of its other address is still to be asked for."""
    network.hold("near", Forwarding.FULLNAT)
    with network.connect(family) as connection:
        assert upload(connection, 1 << 16) == 1 << 16


@pytest.mark.parametrize("family", [4, 6])
def test_a_download_goes_on_when_the_route_to_the_client_moves(network: Routed, family: int) -> None:
    """Nothing reaches the client any more, so it says nothing: what asks for the way are the server's packets."""
    network.hold("near", Forwarding.FULLNAT)
    with network.connect(family) as connection:
        assert download(connection, MUCH) >= MUCH
        network.move(family)
        assert read(connection, MUCH) >= MUCH


@pytest.mark.parametrize("family", [4, 6])
def test_an_upload_goes_on_when_the_route_to_the_client_moves(network: Routed, family: int) -> None:
    network.hold("near", Forwarding.FULLNAT)
    with network.connect(family) as connection:
        connection.sendall(b"u")
        send(connection, MUCH)
        network.move(family)
        send(connection, MUCH)
        assert sent(connection) == 2 * MUCH
