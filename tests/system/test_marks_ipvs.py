"""Marks, limits and source NAT together with IPVS: the packets of real clients through a gateway to a real server."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from kernlb.config.values import MARK_BASE
from kernlb.engines.ipvs import Ipvs
from kernlb.engines.nftables import Nftables, ruleset
from kernlb.engines.sysctls import Sysctls
from kernlb.kernel import Kernel
from kernlb.model import (
    Endpoint,
    EngineName,
    Exempt,
    ExemptKey,
    Family,
    Forwarding,
    Fwmark,
    Key,
    Limit,
    LimitKey,
    Mark,
    MarkKey,
    Protocol,
    RealServer,
    RulesetKey,
    Scheduler,
    ServerKey,
    ServiceKey,
    SourceKey,
    SourceNat,
    Sysctl,
    SysctlKey,
    Table,
    TimersKey,
    Value,
    VirtualService,
)
from kernlb.plan import diff
from kernlb.ports import PortRange
from tests.system.gateway import Gateway, gateway
from tests.system.network import Client, heard, inside, ip, refused, server, until

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.nftables, pytest.mark.ipvs]

TCP = Protocol.TCP
ONE, TWO = MARK_BASE + 1, MARK_BASE + 2
CONNTRACK = SysctlKey("net.ipv4.vs.conntrack")
SERVERS = {Family.IPV4: ip_address("10.9.2.2"), Family.IPV6: ip_address("fd09:2::2")}


@pytest.fixture
def net() -> Iterator[Gateway]:
    with gateway() as made:
        yield made


def bring(namespace: str, desired: Table) -> None:
    with inside(namespace):
        kernel = Kernel({EngineName.IPVS: Ipvs()}, (Nftables(), Sysctls([CONNTRACK.name])))
        observed = kernel.read()
        timers = {key: value for key, value in observed.items() if isinstance(key, TimersKey)}
        desired = {RulesetKey(): ruleset(), CONNTRACK: Sysctl("1"), **timers, **desired}
        kernel.apply(diff(desired, observed))
        assert diff(desired, kernel.read()) == []


def balanced(service: ServiceKey, port: int = 80) -> dict[Key, Value]:
    """A virtual service with the one real server of its family."""
    return {
        service: VirtualService(Scheduler.WRR),
        ServerKey(service, SERVERS[service.family], port): RealServer(Forwarding.NAT, 1),
    }


def fullnat(mark: int, *sources: str, ports: PortRange | None = None) -> dict[Key, Value]:
    given = [ip_address(source) for source in sources]
    return {
        SourceKey(mark, server, TCP, 80): SourceNat(tuple(a for a in given if a.version == server.version), ports)
        for server in SERVERS.values()
    }


def wildcard(mark: int) -> dict[Key, Value]:
    return {MarkKey(family, TCP, 8080, 8081): Mark(mark) for family in Family} | {
        key: value for family in Family for key, value in balanced(Fwmark(family, mark)).items()
    }


def test_fullnat_of_a_wildcard_and_of_a_plain_service_reaches_a_server_without_a_route_back(net: Gateway) -> None:
    ip(net.gateway, "addr add 10.9.1.5/24 dev near\naddr add 10.9.2.7/24 dev far\n")
    plain = Endpoint(EngineName.IPVS, TCP, ip_address("10.9.1.5"), 8080)
    bring(
        net.gateway,
        wildcard(ONE)
        | fullnat(ONE)
        | balanced(plain)
        | {MarkKey(ip_address("10.9.1.5"), TCP, 8080, 8080): Mark(TWO)}
        | fullnat(TWO, "10.9.2.7"),
    )
    with server(net.server, "10.9.2.2", 80), server(net.server, "fd09:2::2", 80):
        assert Client(net.client, "10.9.1.1", 8080).seen == "10.9.2.1"
        assert Client(net.client, "10.9.2.1", 8081).seen == "10.9.2.1"
        assert Client(net.client, "fd09:1::1", 8080).seen == "fd09:2::1"
        assert Client(net.client, "10.9.1.5", 8080).seen == "10.9.2.7"
        assert Client(net.client, "10.9.1.5", 8081).seen == "10.9.2.1"


@pytest.mark.parametrize("given", [(), ("10.9.2.7", "fd09:2::7"), ("10.9.2.7", "10.9.2.8", "fd09:2::7", "fd09:2::8")])
def test_full_nat_takes_ports_of_the_range_alone_and_another_range_breaks_no_connection(
    net: Gateway, given: tuple[str, ...]
) -> None:
    ip(net.gateway, "".join(f"addr add 10.9.2.{n}/24 dev far\naddr add fd09:2::{n}/64 dev far nodad\n" for n in (7, 8)))
    held: list[Client] = []
    with server(net.server, "10.9.2.2", 80), server(net.server, "fd09:2::2", 80):
        for ports in (PortRange(1024, 1055), PortRange(20000, 20031)):
            bring(net.gateway, wildcard(ONE) | fullnat(ONE, *given, ports=ports))
            came = [Client(net.client, address, 8080) for address in ("10.9.1.1", "fd09:1::1") * 8]
            assert all(ports.first <= int(client.port) <= ports.last for client in came)
            assert len({(client.seen, client.port) for client in came}) == len(came)
            held += came
            assert heard(held)
    for client in held:
        client.close()


def test_an_exempt_service_is_served_by_its_address_and_not_by_the_wildcards_mark(net: Gateway) -> None:
    ip(net.gateway, "addr add 10.9.1.5/24 dev near\n")
    ip(net.server, "route add 10.9.1.0/24 via 10.9.2.1\n")
    plain = Endpoint(EngineName.IPVS, TCP, ip_address("10.9.1.5"), 8080)
    exempt = {ExemptKey(ip_address("10.9.1.5"), TCP, 8080): Exempt()}
    bring(net.gateway, wildcard(ONE) | fullnat(ONE) | balanced(plain, 81) | exempt)
    with server(net.server, "10.9.2.2", 81):
        assert Client(net.client, "10.9.1.5", 8080).seen == "10.9.1.2"
        assert refused(net.client, "10.9.1.1", 8080)


def test_the_kernel_refuses_connections_beyond_the_limit_of_a_balanced_service(net: Gateway) -> None:
    desired = wildcard(ONE) | fullnat(ONE) | {LimitKey(ONE): Limit(4), LimitKey(None): Limit(100)}
    bring(net.gateway, desired)
    with server(net.server, "10.9.2.2", 80), server(net.server, "fd09:2::2", 80):
        held = [Client(net.client, address, 8080) for address in ("10.9.1.1", "fd09:1::1") * 2]
        assert refused(net.client, "10.9.1.1", 8080)
        bring(net.gateway, {**desired, MarkKey(Family.IPV4, TCP, 9090, 9090): Mark(TWO)})
        assert refused(net.client, "10.9.1.1", 8080)
        assert refused(net.client, "fd09:1::1", 8080)
        held.pop().close()
        assert until(lambda: not refused(net.client, "10.9.1.1", 8080))
        for client in held:
            client.close()
