"""Two gateways with the same configuration, and a router that moves flows between them: nobody notices."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.segment import PORT, SERVERS, VIP, Download, Segment, segment, who

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(300)]
CONNECTIONS, DOWNLOADS = 200, 4
WAYS = [("gw2",), ("gw1", "gw2"), ("gw1",), ("gw2", "gw1"), ("gw2",)]


@pytest.fixture(scope="module")
def network(balancer: Path) -> Iterator[Segment]:
    with segment(gateways=("gw1", "gw2")) as built:
        yield built


def configuration(names: list[str], forwarding: str) -> str:
    listed = "".join(
        f'{name} = {{ address = "{SERVERS[name]}:{PORT}", weight = {1 + int(name[1:]) % 3} }}\n' for name in names
    )
    return (
        f'[service.web]\nengine = "xdp"\nbind = ["{VIP}:{PORT}"]\nscheduler = "maglev"\nforwarding = "{forwarding}"\n'
        f"[service.web.servers]\n{listed}"
    )


@pytest.mark.parametrize("forwarding", ["direct", "tunnel"])
def test_flows_that_move_between_gateways_stay_on_their_server(
    network: Segment, tmp_path: Path, forwarding: str
) -> None:
    for gateway, names in (("gw1", sorted(SERVERS)), ("gw2", sorted(SERVERS, reverse=True))):
        (tmp_path / f"{gateway}.toml").write_text(configuration(names, forwarding))
        network.call(gateway, tmp_path, "apply", str(tmp_path / f"{gateway}.toml"))
    try:
        network.lead("gw1")
        connections = [network.connect() for _ in range(CONNECTIONS)]
        downloads = [Download(network) for _ in range(DOWNLOADS)]
        first = [who(connection) for connection in connections]
        assert set(first) == set(SERVERS)
        for way in WAYS:
            network.lead(*way)
            assert [who(connection) for connection in connections] == first, way
        for gateway in network.gateways:
            shown = json.loads(network.call(gateway, tmp_path, "show", "--json"))
            assert sum(server["packets_in"] for server in shown["services"][0]["servers"]) > CONNECTIONS
        for download in downloads:
            download.end()
            assert download.wrong is None
            assert download.length > 0
        for connection in connections:
            connection.close()
    finally:
        for gateway in network.gateways:
            network.call(gateway, tmp_path, "clear")
