"""Two gateways with the same configuration, and a router that moves flows between them: nobody notices."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.segment import OTHER_PORT, PORT, SERVERS, VIP, Download, Segment, segment, who

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(300)]
FORWARDINGS = {"direct": PORT, "tunnel": OTHER_PORT}
CONNECTIONS, DOWNLOADS = 150, 3
"""Of each."""
WAYS = [("gw2",), ("gw1", "gw2"), ("gw1",), ("gw2", "gw1"), ("gw2",)]


@pytest.fixture
def network(balancer: Path) -> Iterator[Segment]:
    with segment(gateways=("gw1", "gw2")) as built:
        yield built


def configuration(names: list[str]) -> str:
    """One service by direct routing, one by tunnel, of the servers in this order."""
    return "".join(_service(names, forwarding, port) for forwarding, port in FORWARDINGS.items())


def _service(names: list[str], forwarding: str, port: int) -> str:
    listed = "".join(
        f'{name} = {{ address = "{SERVERS[name]}:{port}", weight = {1 + int(name[1:]) % 3} }}\n' for name in names
    )
    return (
        f'[service.{forwarding}]\nengine = "xdp"\nbind = ["{VIP}:{port}"]\nscheduler = "maglev"\n'
        f'forwarding = "{forwarding}"\n[service.{forwarding}.servers]\n{listed}'
    )


def test_flows_that_move_between_gateways_stay_on_their_server(network: Segment, tmp_path: Path) -> None:
    for gateway, names in (("gw1", sorted(SERVERS)), ("gw2", sorted(SERVERS, reverse=True))):
        (tmp_path / f"{gateway}.toml").write_text(configuration(names))
        network.call(gateway, tmp_path, "apply", str(tmp_path / f"{gateway}.toml"))
    try:
        network.lead("gw1")
        connections = [network.connect(port) for port in FORWARDINGS.values() for _ in range(CONNECTIONS)]
        downloads = [Download(network, port) for port in FORWARDINGS.values() for _ in range(DOWNLOADS)]
        first = [who(connection) for connection in connections]
        assert set(first[:CONNECTIONS]) == set(first[CONNECTIONS:]) == set(SERVERS)
        for way in WAYS:
            network.lead(*way)
            assert [who(connection) for connection in connections] == first, way
        for gateway in network.gateways:
            for service in json.loads(network.call(gateway, tmp_path, "show", "--json"))["services"]:
                assert sum(server["packets_in"] for server in service["servers"]) > CONNECTIONS, (gateway, service)
        for download in downloads:
            download.end()
            assert download.wrong is None
            assert download.length > 0
        for connection in connections:
            connection.close()
    finally:
        for gateway in network.gateways:
            network.call(gateway, tmp_path, "clear")
