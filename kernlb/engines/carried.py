"""What the eBPF engine carries: services and servers, and the numbers that the program knows them by. Pure.

It lives in the kernel beside the program's maps (pins.Ledger), because weights and names are not in those.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from kernlb.keytext import key_from, key_text
from kernlb.model import (
    Endpoint,
    Forwarding,
    IPAddress,
    Key,
    Persistence,
    RealServer,
    Scheduler,
    ServerKey,
    Table,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
    Value,
    VirtualService,
)

SCHEMA = 1
NOBODY = 0
"""The number of no server: what comes to it goes to the stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """`interfaces`: where to attach; empty: everywhere. `sources`: of full NAT; empty: the route's own. Seconds."""

    interfaces: tuple[str, ...] = ()
    sources: tuple[IPAddress, ...] = ()
    idle: float = 900.0
    tcp: float = 900.0
    tcp_fin: float = 120.0
    udp: float = 300.0


@dataclass(slots=True)
class Member:
    id: int
    value: RealServer


@dataclass(slots=True)
class Carried:
    """`changed`: monotonic seconds at which the slots last changed."""

    id: int
    value: VirtualService
    members: dict[ServerKey, Member] = field(default_factory=dict)
    changed: float = 0.0


@dataclass(slots=True, kw_only=True)
class Book:
    """`sources` gives for each group of source addresses its first place in the program's list. `retired` gives, for
    the numbers of servers that left, since when: a flow may still remember them."""

    abi: int
    namespace: int
    secret: int
    fingerprint: str
    tick_shift: int
    memory_buckets: int
    flow_buckets: int
    wish: Wish
    slots: int
    services: dict[Endpoint, Carried] = field(default_factory=dict)
    sources: dict[tuple[IPAddress, ...], int] = field(default_factory=dict)
    retired: dict[int, float] = field(default_factory=dict)

    def table(self) -> dict[Key, Value]:
        table: dict[Key, Value] = {}
        for key, carried in self.services.items():
            table[key] = carried.value
            table.update({server: member.value for server, member in carried.members.items()})
        return table

    def members(self) -> Iterator[tuple[Endpoint, ServerKey, Member]]:
        for key, carried in self.services.items():
            for server, member in carried.members.items():
                yield key, server, member

    def source_range(self, group: tuple[IPAddress, ...]) -> tuple[int, int]:
        """First place and count of a group, which gets its place the first time. Places never change hands."""
        if group not in self.sources:
            self.sources[group] = sum(map(len, self.sources))
        return self.sources[group], len(group)

    def follow(self, table: Table, *, now: float, servers: int, rest: float) -> tuple[list[Endpoint], list[Member]]:
        """Take over what a Table says: the services that changed, and the members that left.

        `servers` numbers there are; that of a member that left rests for `rest` seconds.
        """
        self.retired = {id_: since for id_, since in self.retired.items() if now - since < rest}
        taken = {member.id for _, _, member in self.members()} | set(self.retired) | {NOBODY}
        free = (number for number in range(servers) if number not in taken)
        housed = {carried.id for carried in self.services.values()}
        rooms = (number for number in range(1 << 16) if number not in housed)
        left: list[Member] = []
        changed: dict[Endpoint, None] = {}
        for key in [key for key in self.services if key not in table]:
            left += self.services.pop(key).members.values()
        wanted: dict[Endpoint, dict[ServerKey, RealServer]] = {}
        for thing, value in table.items():
            if isinstance(thing, Endpoint) and isinstance(value, VirtualService):
                if thing not in self.services:
                    self.services[thing] = Carried(next(rooms), value)
                    changed[thing] = None
                elif self.services[thing].value != value:
                    self.services[thing].value = value
                    changed[thing] = None
                wanted[thing] = {}
        for thing, value in table.items():
            if isinstance(thing, ServerKey) and isinstance(value, RealServer) and isinstance(thing.service, Endpoint):
                wanted[thing.service][thing] = value
        for service, servers_wanted in wanted.items():
            carried = self.services[service]
            members = carried.members
            if {server: member.value for server, member in members.items()} == servers_wanted:
                continue
            changed[service] = None
            left += [members.pop(server) for server in list(members) if server not in servers_wanted]
            for server, real in servers_wanted.items():
                if server in members:
                    members[server].value = real
                else:
                    members[server] = Member(next(free), real)
        self.retired |= {member.id: now for member in left}
        return list(changed), left


def to_text(book: Book) -> bytes:
    wish = book.wish
    document = {
        "schema": SCHEMA,
        **{name: getattr(book, name) for name in _PLAIN},
        "wish": [list(wish.interfaces), list(map(str, wish.sources)), wish.idle, wish.tcp, wish.tcp_fin, wish.udp],
        "services": [_service(key, carried) for key, carried in book.services.items()],
        "sources": [[list(map(str, group)), first] for group, first in book.sources.items()],
        "retired": list(book.retired.items()),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def from_text(text: bytes) -> Book:
    """Raises ValueError, KeyError or TypeError where another version of kernlb wrote it in another way."""
    document = json.loads(text)
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']}")
    interfaces, sources, idle, tcp, tcp_fin, udp = document["wish"]
    return Book(
        **{name: document[name] for name in _PLAIN},
        wish=Wish(
            interfaces=tuple(interfaces), sources=_addresses(sources), idle=idle, tcp=tcp, tcp_fin=tcp_fin, udp=udp
        ),
        services=dict(map(_service_from, document["services"])),
        sources={_addresses(group): first for group, first in document["sources"]},
        retired=dict(map(tuple, document["retired"])),
    )


_PLAIN = ("abi", "namespace", "secret", "fingerprint", "tick_shift", "memory_buckets", "flow_buckets", "slots")


def _addresses(texts: list[str]) -> tuple[IPv4Address | IPv6Address, ...]:
    return tuple(map(ip_address, texts))


def _service(key: Endpoint, carried: Carried) -> list[Any]:
    kept = carried.value.persistence
    return [
        key_text(key),
        carried.id,
        carried.changed,
        str(carried.value.scheduler),
        [kept.timeout, kept.prefix] if kept else None,
        [[str(key.address), key.port, member.id, *_server(member.value)] for key, member in carried.members.items()],
    ]


def _service_from(listed: list[Any]) -> tuple[Endpoint, Carried]:
    text, id_, changed, scheduler, kept, members = listed
    key = key_from(text)
    if not isinstance(key, Endpoint):
        raise TypeError(text)
    value = VirtualService(Scheduler(scheduler), persistence=Persistence(*kept) if kept else None)
    carried = Carried(id_, value, {}, changed)
    for address, port, number, *server in members:
        carried.members[ServerKey(key, ip_address(address), port)] = Member(number, _server_from(server))
    return key, carried


def _server(value: RealServer) -> list[Any]:
    tunnel = [value.tunnel.kind, value.tunnel.port, value.tunnel.checksum] if value.tunnel else None
    return [str(value.forwarding), value.weight, value.upper_threshold, value.lower_threshold, tunnel]


def _server_from(listed: list[Any]) -> RealServer:
    forwarding, weight, upper, lower, tunnel = listed
    kind = Tunnel(TunnelKind(tunnel[0]), tunnel[1], TunnelChecksum(tunnel[2])) if tunnel else None
    return RealServer(Forwarding(forwarding), weight, upper, lower, kind)
