"""What the doctor finds of a network: each fault made for real, then mended as the finding says.

client 192.0.2.10 -- 192.0.2.1 director 10.0.0.254 -- 10.0.0.1 server
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from kernlb.config import load
from kernlb.config.values import Config
from kernlb.counters import Counters
from kernlb.doctor import network
from kernlb.doctor.finding import Finding, Verdict
from kernlb.doctor.patient import Patient
from kernlb.model import Endpoint, EngineName, Protocol, ServerKey
from tests.system.network import inside, ip, namespaces, nft, run

pytestmark = [pytest.mark.root, pytest.mark.netns]
ALL = "net.ipv4.conf.all"


@dataclass(frozen=True, slots=True)
class Ward:
    """The network, by its namespaces."""

    director: str
    server: str

    def look(self, question: Callable[[Patient], Iterable[Finding]]) -> list[tuple[str, str]]:
        """Topic and verdict of each finding; that a fault comes with its cure is checked here."""
        with inside(self.director), Patient() as patient:
            findings = list(question(patient))
        assert all(bool(each.fix) == (each.verdict is not Verdict.OK) for each in findings), findings
        return [(each.topic, str(each.verdict)) for each in findings]

    def sysctl(self, where: str, *settings: str) -> None:
        with inside(where):
            run("sysctl", "-qw", *settings)


@pytest.fixture
def ward() -> Iterator[Ward]:
    with namespaces("director", "client", "server") as (director, client, server):
        ip(director, f"link add front type veth peer name eth0 netns {client}\n")
        ip(director, f"link add back type veth peer name eth0 netns {server}\n")
        for place, lines in (
            (director, "addr add 192.0.2.1/24 dev front\naddr add 10.0.0.254/24 dev back\nlink set front up\n"),
            (director, "link set back up\n"),
            (client, "addr add 192.0.2.10/24 dev eth0\nlink set eth0 up\n"),
            (server, "addr add 10.0.0.1/24 dev eth0\nlink set eth0 up\nroute add default via 10.0.0.254\n"),
        ):
            ip(place, lines)
        yield Ward(director, server)


def config(forwarding: str, *, server: str = "10.0.0.1:80", vip: str = "192.0.2.1", more: str = "") -> Config:
    text = (
        f'[service.web]\nbind = "{vip}:80"\nforwarding = "{forwarding}"\n{more}[service.web.servers]\na = "{server}"\n'
    )
    return load(text, "test")


def placed(of: Config, patient: Patient) -> list[network.Placed]:
    return network.placed(of, {"web": EngineName.IPVS}, patient)


def test_a_vip_belongs_to_this_machine_or_is_going_to(ward: Ward) -> None:
    foreign = config("nat", vip="192.0.2.77")
    assert ward.look(lambda patient: network.vips(foreign, patient)) == [("vip", "problem")]
    ip(ward.director, "addr add 192.0.2.77/32 dev lo\n")
    assert ward.look(lambda patient: network.vips(foreign, patient)) == [("vip", "ok")]
    managed = load('[addresses]\nmanage = true\n[service.web]\nbind = "192.0.2.78:80"\n', "test")
    assert ward.look(lambda patient: network.vips(managed, patient)) == [("vip", "ok")]


def test_answers_to_full_nat_come_to_this_gateway_and_to_no_other(ward: Ward) -> None:
    for source, found in (("10.0.0.254", "ok"), ("192.0.2.1", "warning"), ("10.0.0.77", "warning")):
        of = config("fullnat", more=f'[addresses]\nsource = ["{source}"]\n')
        assert ward.look(lambda patient, of=of: network.sources(of, patient)) == [("source", found)]
    ip(ward.director, "addr add 10.0.0.77/32 dev lo\n")
    assert ward.look(lambda patient: network.sources(of, patient)) == [("source", "ok")]


@pytest.mark.parametrize(
    ("forwarding", "near", "far"),
    [
        ("nat", ("route", "ok"), ("return path", "warning")),
        ("fullnat", ("route", "ok"), ("route", "ok")),
        ("direct", ("route", "ok"), ("route", "problem")),
        ("tunnel", ("route", "ok"), ("route", "ok")),
    ],
)
def test_a_real_server_is_where_its_forwarding_can_reach_it(
    ward: Ward, forwarding: str, near: tuple[str, str], far: tuple[str, str]
) -> None:
    def ask(server: str) -> list[tuple[str, str]]:
        return ward.look(lambda patient: network.routes(placed(config(forwarding, server=server), patient)))

    assert ask("10.0.0.1:80") == [near]
    assert ask("10.9.0.1:80") == [("route", "problem")]
    ip(ward.director, "route add 10.9.0.0/24 via 10.0.0.1\n")
    assert ask("10.9.0.1:80") == [far]


def test_a_server_beside_the_vip_answers_its_neighbours_past_the_director(ward: Ward) -> None:
    for server, found in (("192.0.2.20:80", [("return path", "warning")]), ("10.0.0.1:80", [])):
        of = config("nat", server=server)
        assert ward.look(lambda patient, of=of: network.one_arm(of, placed(of, patient), patient)) == found


def test_packets_that_never_come_back_are_told_by_the_counters(ward: Ward) -> None:
    of = config("nat")
    key = ServerKey(Endpoint(EngineName.IPVS, Protocol.TCP, ip_address("192.0.2.1"), 80), ip_address("10.0.0.1"), 80)
    for out, back, found in ((0, 0, []), (3, 0, ["warning"]), (500, 0, ["problem"]), (500, 400, ["ok"])):
        counted = {key: Counters(packets_in=out, packets_out=back)}
        seen = ward.look(lambda patient, c=counted: network.answers(placed(of, patient), {key: ("web", "a")}, c))
        assert [verdict for _, verdict in seen] == found


def test_a_real_server_that_answers_arp_for_the_vip_is_found_out(ward: Ward) -> None:
    of = config("direct")

    def ask() -> list[tuple[str, str]]:
        return ward.look(lambda patient: network.silence(of, placed(of, patient), patient))

    assert ask() == [("arp", "ok")]
    ip(ward.server, "addr add 192.0.2.1/32 dev lo\n")
    assert ask() == [("arp", "problem")]
    ward.sysctl(ward.server, f"{ALL}.arp_ignore=1", f"{ALL}.arp_announce=2")
    assert ask() == [("arp", "ok")]


def test_what_clients_send_has_to_fit_into_the_tunnel(ward: Ward) -> None:
    of = config("tunnel")

    def ask() -> list[tuple[str, str]]:
        return ward.look(lambda patient: network.tunnels(of, placed(of, patient), patient))

    assert ask() == [("mtu", "warning")]
    ip(ward.director, "link set back mtu 1520\n")
    assert ask() == [("mtu", "ok")]


def test_strict_reverse_path_filtering_stands_in_the_way_of_checks_through_the_vip(ward: Ward) -> None:
    of = config("direct", more='check = { type = "tcp", via_vip = true }\n')

    def ask() -> list[tuple[str, str]]:
        return ward.look(lambda patient: network.reverse_path(of, patient))

    ward.sysctl(ward.director, f"{ALL}.rp_filter=0", "net.ipv4.conf.back.rp_filter=1")
    assert ask() == [("rp_filter", "problem")]
    ward.sysctl(ward.director, f"{ALL}.rp_filter=2")
    assert ask() == [("rp_filter", "ok")]
    assert ward.look(lambda patient: network.reverse_path(config("direct"), patient)) == []


@pytest.mark.nftables
def test_a_firewall_that_forwards_nothing_loses_the_answers_of_nat(ward: Ward) -> None:
    of = config("nat")

    def ask() -> list[tuple[str, str]]:
        return ward.look(lambda patient: network.forward_policy(placed(of, patient), patient))

    assert ask() == []
    nft(ward.director, "table inet f { chain c { type filter hook forward priority 0; policy drop; }; }")
    assert ask() == [("firewall", "warning")]
    nft(ward.director, "flush ruleset")
    nft(ward.director, "table inet f { chain c { type filter hook forward priority 0; }; }")
    assert ask() == []
