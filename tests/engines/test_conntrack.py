"""What connection tracking of this kernel forgets of a server, and what it keeps."""

import re
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from kernlb.engines.conntrack import Conntrack
from kernlb.model import Endpoint, EngineName, Family, Fwmark, Protocol, ServerKey, ServiceKey
from tests.system.network import inside, ip, namespaces, run

pytestmark = [pytest.mark.netns, pytest.mark.nftables]

VIPS, SERVERS, OTHERS = ("192.0.2.1", "fd77::1"), ("10.77.0.1", "fd78::1"), ("10.77.0.2", "fd78::2")
_FIRST = re.compile(r"^udp .*?dst=(\S+) sport=(\d+)", re.MULTILINE)


@pytest.fixture(scope="module")
def wire() -> Iterator[tuple[str, str]]:
    """client .10 -- VIP director .254 -- .1 and .2 server; the director translates what is sent to the VIP, ports
    below 4000 to .1, others to .2"""
    with namespaces("client", "director", "server") as (client, director, server):
        ip(director, f"link add front type veth peer name eth0 netns {client}\n")
        ip(director, f"link add back type veth peer name eth0 netns {server}\n")
        ip(director, "addr add 192.0.2.1/24 dev front\naddr add fd77::1/64 dev front nodad\nlink set front up\n")
        ip(director, "addr add 10.77.0.254/24 dev back\naddr add fd78::254/64 dev back nodad\nlink set back up\n")
        ip(client, "addr add 192.0.2.10/24 dev eth0\naddr add fd77::10/64 dev eth0 nodad\nlink set eth0 up\n")
        ip(client, "route add default via 192.0.2.1\nroute add default via fd77::1\n")
        for one, other in zip(SERVERS, OTHERS, strict=True):
            ip(server, f"addr add {one} dev eth0\naddr add {other} dev eth0\n")
        ip(server, "link set eth0 up\nroute add 10.77.0.254 dev eth0\nroute add fd78::254 dev eth0\n")
        with inside(director):
            run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
            run(
                "nft",
                "table inet t { chain c { type nat hook prerouting priority -100;"
                " ip daddr 192.0.2.1 udp sport < 4000 dnat ip to 10.77.0.1;"
                " ip daddr 192.0.2.1 udp sport >= 4000 dnat ip to 10.77.0.2;"
                " ip6 daddr fd77::1 udp sport < 4000 dnat ip6 to fd78::1;"
                " ip6 daddr fd77::1 udp sport >= 4000 dnat ip6 to fd78::2; }; }",
            )
            for address in (*SERVERS, *OTHERS):
                run("ping", "-c1", "-w10", address)
        with inside(client):
            for address in VIPS:
                run("ping", "-c1", "-w10", address)
        yield client, director


def send(client: str, address: str, source_port: int) -> None:
    with (
        inside(client),
        socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind(("", source_port))
        sock.sendto(b"?", (address, 53))


def tracked(director: str) -> set[str]:
    """Addresses and ports as first sent."""
    with inside(director):
        lines = run("conntrack", "-L", "-p", "udp") + run("conntrack", "-L", "-p", "udp", "-f", "ipv6")
    return {f"{port} {ip_address(address)}" for address, port in _FIRST.findall(lines)}


def service(vip: str, *, marked: bool) -> ServiceKey:
    family = Family.IPV6 if ":" in vip else Family.IPV4
    return Fwmark(family, 7) if marked else Endpoint(EngineName.IPVS, Protocol.UDP, ip_address(vip), 53)


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("port", [53, 0])
@pytest.mark.parametrize(("vip", "server", "other"), list(zip(VIPS, SERVERS, OTHERS, strict=True)))
def test_what_was_sent_to_a_vip_is_forgotten_and_nothing_else(
    wire: tuple[str, str], vip: str, server: str, other: str, port: int, marked: bool
) -> None:
    client, director = wire
    for number in range(3000, 3300):
        send(client, vip, number)
    send(client, vip, 4000)
    send(client, server, 3999)
    send(client, other, 4001)
    kept = {f"4000 {vip}", f"3999 {server}", f"4001 {other}"}
    assert {f"3000 {vip}", f"3299 {vip}"} | kept <= tracked(director)
    with inside(director):
        conntrack = Conntrack()
    try:
        forgotten = conntrack.forget_server(ServerKey(service(vip, marked=marked), ip_address(server), port))
    finally:
        conntrack.close()
    left = tracked(director)
    assert forgotten == 300
    assert not {each for each in left if each.startswith("3") and each.endswith(f" {vip}")}
    assert kept <= left


def test_another_port_is_another_server(wire: tuple[str, str]) -> None:
    client, director = wire
    send(client, VIPS[0], 3000)
    with inside(director):
        conntrack = Conntrack()
    try:
        key = ServerKey(service(VIPS[0], marked=False), ip_address(SERVERS[0]), 54)
        assert conntrack.forget_server(key) == 0
    finally:
        conntrack.close()
    assert f"3000 {VIPS[0]}" in tracked(director)
