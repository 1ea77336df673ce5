"""What of the kernel's news makes another picture of the network, and what does not."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from kernlb.engines.nexthops import Outlook, Surroundings
from kernlb.engines.rtnetlink import Rtnetlink
from tests.engines.namespace import ip, one_interface

pytestmark = pytest.mark.netns
SERVER, STRANGER = ip_address("10.7.0.1"), ip_address("10.7.0.2")
HERE, THERE = "02:00:00:00:00:01", "02:00:00:00:00:02"


@pytest.fixture
def outlook() -> Iterator[Outlook]:
    with one_interface():
        ip(f"neigh add {SERVER} lladdr {HERE} dev front")
        found = Outlook()
        yield found
        found.close()


def look(outlook: Outlook) -> Surroundings:
    with Rtnetlink() as netlink:
        seen = outlook.look(netlink)
        assert seen.way(SERVER).next == SERVER
    assert outlook.holds()
    return seen


def test_neighbours_that_nobody_is_reached_by_change_nothing(outlook: Outlook) -> None:
    assert not outlook.holds(), "nobody has looked yet"
    look(outlook)
    ip(f"neigh add {STRANGER} lladdr {THERE} dev front")
    ip(f"neigh change {SERVER} lladdr {HERE} nud stale dev front")
    assert outlook.holds()


@pytest.mark.parametrize(
    "news",
    [
        f"neigh change {SERVER} lladdr {THERE} dev front",
        f"neigh del {SERVER} dev front",
        "addr add 10.7.255.253/16 dev front",
        "route add 10.9.0.0/16 via 10.7.0.1",
        "link set front mtu 1400",
    ],
)
def test_whatever_leads_elsewhere_is_looked_at_again(outlook: Outlook, news: str) -> None:
    look(outlook)
    ip(news)
    assert not outlook.holds()
    look(outlook)


def test_a_new_neighbour_s_address_is_found(outlook: Outlook) -> None:
    assert look(outlook).way(SERVER).hop.destination == bytes.fromhex(HERE.replace(":", ""))
    ip(f"neigh change {SERVER} lladdr {THERE} dev front")
    assert look(outlook).way(SERVER).hop.destination == bytes.fromhex(THERE.replace(":", ""))


@pytest.mark.parametrize(
    ("link", "route", "told"), [(9000, 0, 9000), (9000, 1300, 1300), (1400, 9000, 1400), (65535, 0, 65535)]
)
def test_what_fits_is_the_least_of_link_and_route(outlook: Outlook, link: int, route: int, told: int) -> None:
    ip(f"link set front mtu {link}")
    ip(f"route add {SERVER} dev front{f' mtu {route}' if route else ''}")
    assert look(outlook).way(SERVER).hop.mtu == told


def test_a_link_that_takes_more_than_any_packet_has_is_no_limit(outlook: Outlook) -> None:
    seen = look(outlook)
    (hop,) = (seen.leaving(link) for link in seen.links.values() if link.loopback and link.mtu > 65535)
    assert hop.mtu == 0
    assert hop.pack()
