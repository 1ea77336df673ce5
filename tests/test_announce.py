"""VIPs that leave while their services lack quorum."""

from ipaddress import IPv4Address

import pytest

from kernlb.config.values import AddressBind, Addresses, Announce, Config, Server, Service
from kernlb.desired import desired
from kernlb.model import EngineName, Ruleset, VipKey
from kernlb.pool import Rating, pool

VIP = IPv4Address("192.0.2.1")


def service(name: str, port: int) -> Service:
    server = Server(name="one", address=IPv4Address("10.0.0.1"), port=port)
    return Service(name=name, binds=(AddressBind(VIP, port, port),), servers=(server,))


@pytest.mark.parametrize(
    ("announce", "down", "there"),
    [
        (Announce.ALWAYS, ["web", "tls"], True),
        (Announce.QUORUM, [], True),
        (Announce.QUORUM, ["web"], True),  # the other service of this VIP still has quorum
        (Announce.QUORUM, ["web", "tls"], False),
    ],
)
def test_a_vip_leaves_when_none_of_its_services_has_quorum(announce: Announce, down: list[str], there: bool) -> None:
    config = Config(
        services=(service("web", 80), service("tls", 443)),
        addresses=Addresses(manage=True, interface="lo", announce=announce),
    )
    ratings = {(name, "one"): Rating(up=False) for name in down}
    pools = {each.name: pool(each, ratings=ratings) for each in config.services}
    engines = {each.name: EngineName.IPVS for each in config.services}
    table = desired(config, pools, engines=engines, ruleset=Ruleset("x")).table
    assert (VipKey("lo", VIP) in table) is there
