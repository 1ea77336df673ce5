"""Whose answers the director does not see."""

from ipaddress import ip_address

import pytest

from kernlb.config import load
from kernlb.daemon.watched import bypassing
from kernlb.model import Endpoint, EngineName, Protocol, ServerKey

TEXT = """
[service.web]
bind = "192.0.2.1:80"
forwarding = "{forwarding}"
[service.web.servers]
one = "10.0.0.1:80"
"""


@pytest.mark.parametrize(
    ("forwarding", "engine", "expected"),
    [
        ("direct", EngineName.IPVS, True),
        ("tunnel", EngineName.IPVS, True),
        ("nat", EngineName.IPVS, False),
        ("fullnat", EngineName.IPVS, False),
        ("direct", EngineName.XDP, False),
    ],
)
def test_ipvs_does_not_see_the_answers_of_direct_and_tunnel_servers(
    forwarding: str, engine: EngineName, expected: bool
) -> None:
    service = Endpoint(engine, Protocol.TCP, ip_address("192.0.2.1"), 80)
    servers = {("web", "one"): [ServerKey(service, ip_address("10.0.0.1"), 80)]}
    assert bypassing(load(TEXT.format(forwarding=forwarding), "kernlb.toml"), servers) is expected
    assert not bypassing(load(TEXT.format(forwarding=forwarding), "kernlb.toml"), {})
