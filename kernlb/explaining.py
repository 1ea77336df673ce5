"""Which service, slot and server a flow meets, and why: the loaded program's own answer, or what IPVS tells."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from kernlb.engines import abi
from kernlb.engines.abi import Cause, Reason
from kernlb.engines.frames import ACK, SYN, TCP, UDP, frame
from kernlb.engines.xdp import Xdp
from kernlb.model import (
    Endpoint,
    Family,
    Fwmark,
    IPAddress,
    Mark,
    MarkKey,
    Protocol,
    ServerKey,
    ServiceKey,
    Table,
    family_of,
)
from kernlb.text import thing

_CONNECTIONS = Path("/proc/net/ip_vs_conn")

REASONS = {
    Reason.STEADY: "the slot has one server, so no state is asked",
    Reason.REMEMBERED: "the slot is in transition, and the flow is remembered",
    Reason.NEW: "the slot is in transition, and the flow is new: it gets the slot's new server",
    Reason.BEFORE: "the slot is in transition, and the flow was there before: it keeps the slot's former server",
    Reason.FLOW: "its connection is in the full NAT table",
    Reason.FEWER: "of two servers that its hash draws, this one has fewer connections for its weight",
}
CAUSES = {
    Cause.NO_SERVICE: "the address is known, but no service has the port",
    Cause.NO_SERVER: "the slot has no server",
    Cause.NO_FLOW: "in the middle of a connection that the program has never seen",
    Cause.FAMILY: "the server cannot be reached over this address family",
    Cause.NO_HOP: "the next hop has no neighbour yet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """`begins`: asked as a first packet (SYN), else as one in the middle of a connection."""

    client: IPAddress
    client_port: int
    vip: IPAddress
    vip_port: int
    protocol: Protocol
    begins: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`rule`: what of the service the flow fits. `server` is None where the flow goes to this machine's own stack, or
    where nobody can tell."""

    engine: str | None
    service: ServiceKey | None = None
    rule: str | None = None
    slot: int | None = None
    server: ServerKey | None = None
    current: ServerKey | None = None
    previous: ServerKey | None = None
    why: str


def ask_program(engine: Xdp, flow: Flow) -> Answer:
    """From the program that forwards, through BPF_PROG_TEST_RUN: nothing is sent, nothing is changed."""
    packet = frame(
        flow.client,
        flow.client_port,
        flow.vip,
        flow.vip_port,
        protocol=TCP if flow.protocol is Protocol.TCP else UDP,
        flags=SYN if flow.begins else ACK,
    )
    told, service, members = engine.explain(packet)
    known = told.reason is not Reason.NONE
    if not known:
        why = (
            CAUSES.get(told.cause, told.cause.name.lower()) if told.cause is not None else "not an address of a service"
        )
        return Answer(engine="xdp", why=f"left to this machine's own stack: {why}")
    server = members.get(told.server)
    if told.reason is Reason.FLOW:
        service = server.service if server and isinstance(server.service, Endpoint) else None
        return Answer(engine="xdp", service=service, rule=_bind(service), server=server, why=REASONS[told.reason])
    refused = CAUSES.get(told.cause, told.cause.name.lower()) if told.cause is not None else None
    why = REASONS[told.reason] + (f"; yet it is left to this machine's own stack: {refused}" if refused else "")
    return Answer(
        engine="xdp",
        service=service,
        rule=_bind(service),
        slot=told.slot,
        server=None if refused else server,
        current=members.get(told.current),
        previous=members.get(told.previous & ~abi.SLOT_TRACKED),
        why=why,
    )


def ask_ipvs(table: Table, flow: Flow) -> Answer | None:
    """From the connections that the kernel lists, else the service that would schedule it. None: none takes it."""
    service, rule = next(_matching(table, flow), (None, None))
    if service is None:
        return None
    found = _connection(flow)
    if found is not None:
        address, port, state = found
        server = next((k for k in table if isinstance(k, ServerKey) and (k.address, k.port) == (address, port)), None)
        why = f"its connection is known, {state.lower()}"
        return Answer(engine="ipvs", service=service, rule=rule, server=server, why=why)
    scheduler = getattr(table[service], "scheduler", "")
    why = f"a new connection: the scheduler {scheduler} decides when it comes, and the kernel tells nobody before"
    return Answer(engine="ipvs", service=service, rule=rule, why=why)


def _bind(service: Endpoint | None) -> str | None:
    """In words, what an endpoint takes."""
    if service is None:
        return None
    where = f"every local {service.address} address" if isinstance(service.address, Family) else f"{service.address}"
    return f"{where}, port {service.port}" if service.port else f"{where}, every port that no other service has"


def _matching(table: Table, flow: Flow) -> Iterator[tuple[ServiceKey, str | None]]:
    """IPVS looks marks up first; an address wins over a wildcard, as the rules have it."""
    marked = [
        (key, value.mark)
        for key, value in table.items()
        if isinstance(key, MarkKey) and isinstance(value, Mark) and _covers(key, flow)
    ]
    for wildcard in (False, True):
        for key, mark in marked:
            if isinstance(key.address, Family) is wildcard and Fwmark(family_of(flow.vip), mark) in table:
                yield Fwmark(family_of(flow.vip), mark), f"{thing(key)}, {mark:#x}"
        for port in (flow.vip_port, 0) if not wildcard else ():
            yield from (
                (key, _bind(key))
                for key in table
                if isinstance(key, Endpoint)
                and (key.address, key.protocol, key.port) == (flow.vip, flow.protocol, port)
            )


def _covers(key: MarkKey, flow: Flow) -> bool:
    here = key.address in (flow.vip, family_of(flow.vip)) and key.protocol is flow.protocol
    return here and (not key.last or key.first <= flow.vip_port <= key.last)


def _connection(flow: Flow) -> tuple[IPAddress, int, str] | None:
    wanted = (str(flow.protocol).upper(), flow.client, flow.client_port, flow.vip, flow.vip_port)
    try:
        lines = _CONNECTIONS.read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        protocol, client, port, vip, vip_port, server, server_port, state, *_ = line.split()
        if (protocol, _hex(client), int(port, 16), _hex(vip), int(vip_port, 16)) == wanted:
            return _hex(server), int(server_port, 16), state
    return None


def _hex(text: str) -> IPAddress:
    return IPv6Address(text.strip("[]")) if ":" in text else IPv4Address(int(text, 16))
