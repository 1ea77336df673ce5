"""What `explain` says of flows: the program's own answers, and what IPVS can know."""

import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from kernlb.engines.carried import Wish
from kernlb.engines.dataplane import Sizes
from kernlb.engines.frames import SYN, frame
from kernlb.engines.frames import TCP as TCP_NUMBER
from kernlb.engines.frames import UDP as UDP_NUMBER
from kernlb.engines.xdp import Xdp
from kernlb.explaining import Answer, Flow, ask_ipvs, ask_program
from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Forwarding,
    Fwmark,
    Key,
    Mark,
    MarkKey,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    Value,
    VirtualService,
)
from kernlb.plan import diff
from tests.bpf.conftest import balancer
from tests.engines.namespace import one_interface

__all__ = ["balancer"]
SERVICE = Endpoint(EngineName.XDP, Protocol.TCP, ip_address("192.0.2.1"), 80)
ONE, TWO = (ServerKey(SERVICE, ip_address(f"10.7.0.{n}"), 80) for n in (1, 2))


@pytest.fixture
def engine(balancer: Path) -> Iterator[Xdp]:
    place = Path(f"/sys/fs/bpf/kernlb/explain-{os.getpid()}")
    sizes = Sizes(services=4, keys=16, servers=64, sources=4, memory_buckets=256, flow_buckets=64)
    with one_interface():
        xdp = Xdp(place, wish=Wish(), sizes=sizes, slots=251)
        yield xdp
        xdp.apply(diff({}, xdp.read()))


def flow(vip: str = "192.0.2.1", *, port: int = 40000, vip_port: int = 80, begins: bool = True) -> Flow:
    client = ip_address("198.51.100.7")
    return Flow(
        client=client,
        client_port=port,
        vip=ip_address(vip),
        vip_port=vip_port,
        protocol=Protocol.TCP,
        begins=begins,
    )


def ports(engine: Xdp, **how: bool) -> list[Answer]:
    return [ask_program(engine, flow(port=port, **how)) for port in range(1024, 1124)]


@pytest.mark.bpf
@pytest.mark.netns
def test_the_program_names_the_server_of_a_flow_and_why(engine: Xdp) -> None:
    server = RealServer(Forwarding.DIRECT, 1)
    hashed = VirtualService(Scheduler.MAGLEV)
    table: dict[Key, Value] = {SERVICE: hashed, ONE: server}
    engine.apply(diff(table, {}))
    answers = ports(engine)
    assert {(a.service, a.server, a.current, a.previous) for a in answers} == {(SERVICE, ONE, ONE, ONE)}
    assert all("one server" in answer.why for answer in answers)
    assert {answer.rule for answer in answers} == {"192.0.2.1, port 80"}
    engine.apply(diff({**table, TWO: server}, table))
    new, before = ports(engine), ports(engine, begins=False)
    assert {answer.server for answer in new} == {ONE, TWO}
    assert {answer.server for answer in before} == {ONE}, "what was there before stays"
    moved = [answer for answer in new if answer.server == TWO]
    assert all(answer.current == TWO and answer.previous == ONE and "new" in answer.why for answer in moved)
    other = ask_program(engine, flow(vip_port=81))
    assert other.server is None
    assert "no service has the port" in other.why
    assert "not an address" in ask_program(engine, flow("192.0.2.77")).why


def test_ipvs_is_asked_by_mark_then_address_then_wildcard() -> None:
    here = Endpoint(EngineName.IPVS, Protocol.TCP, ip_address("192.0.2.1"), 80)
    everywhere = Fwmark(Family.IPV4, 5)
    table: dict[Key, Value] = {
        everywhere: VirtualService(Scheduler.WRR),
        MarkKey(Family.IPV4, Protocol.TCP, 80, 80): Mark(5),
        here: VirtualService(Scheduler.WLC),
    }
    said = ask_ipvs(table, flow())
    assert said is not None
    assert said.service == here
    assert "wlc" in said.why
    assert said.rule == "192.0.2.1, port 80"
    said = ask_ipvs(table, flow("192.0.2.9"))
    assert said is not None
    assert said.service == everywhere
    assert said.rule == "mark for tcp *:80, 0x5"
    assert ask_ipvs(table, flow("192.0.2.9", vip_port=81)) is None


@pytest.mark.parametrize("protocol", [TCP_NUMBER, UDP_NUMBER])
@pytest.mark.parametrize(("client", "vip"), [("198.51.100.7", "192.0.2.1"), ("2001:db8::7", "2001:db8::1")])
def test_a_frame_is_what_it_says(protocol: int, client: str, vip: str) -> None:
    packet = Ether(frame(ip_address(client), 4242, ip_address(vip), 80, protocol=protocol, flags=SYN))
    head = packet[IP] if IP in packet else packet[IPv6]
    body = packet[TCP] if protocol == TCP_NUMBER else packet[UDP]
    assert (head.src, head.dst, body.sport, body.dport) == (client, vip, 4242, 80)
    if IP in packet:
        assert head.chksum == IP(bytes(IP(**{**head.fields, "chksum": None, "options": []}))[:20]).chksum
