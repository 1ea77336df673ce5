"""What the eBPF engine carries: services and servers, and the numbers that the program knows them by. Pure.

It lives in the kernel beside the program's maps (pins.Ledger), because weights and names are not in those.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from kernlb.errors import Unsupported
from kernlb.keytext import key_from, key_text
from kernlb.model import (
    Bounds,
    Endpoint,
    Forwarding,
    IPAddress,
    Persistence,
    RealServer,
    Scheduler,
    ServerKey,
    ServiceKey,
    Table,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
    VirtualService,
)
from kernlb.ports import PortRange

SCHEMA = 3
NOBODY = 0
"""The number of no server: what comes to it goes to the stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """`interfaces`: where to attach; empty: everywhere. `sources` and `ports`: of full NAT; empty: the route's own, and
    any. Seconds."""

    interfaces: tuple[str, ...] = ()
    sources: tuple[IPAddress, ...] = ()
    ports: PortRange | None = None
    idle: float = 900.0
    tcp: float = 900.0
    tcp_fin: float = 120.0
    udp: float = 300.0


@dataclass(slots=True)
class Member:
    """`before`: the weight that the connections of before the transition go by; None where none is under way."""

    id: int
    value: RealServer
    before: int | None = None


@dataclass(slots=True)
class Carried:
    """`changed`: monotonic seconds at which the slots last changed."""

    id: int
    value: VirtualService
    members: dict[ServerKey, Member] = field(default_factory=dict)
    changed: float = 0.0
    _part: Table | None = None
    _text: str | None = None

    def part(self, key: Endpoint) -> Table:
        """The same object until something changes."""
        if self._part is None:
            self._part = {key: self.value, **{server: member.value for server, member in self.members.items()}}
        return self._part

    def text(self, key: Endpoint) -> str:
        if self._text is None:
            self._text = json.dumps(_service(key, self), separators=(",", ":"))
        return self._text

    def moved(self, now: float, *, under_way: bool) -> None:
        """Its slots have changed; `under_way`: some still keep the connections of before."""
        self.changed = now
        if not under_way:
            self.settled()
        self._text = None

    def settled(self) -> None:
        for member in self.members.values():
            if member.before is not None:
                member.before = self._text = None

    def follow(self, value: VirtualService, wanted: Mapping[ServerKey, RealServer], numbers: Iterator[int]) -> "Change":
        """Take over what a Table says of it; `numbers` are free for members that come."""
        shaped = {key: replace(each, weight=0) for key, each in wanted.items()}
        had = {key: replace(member.value, weight=0) for key, member in self.members.items()}
        change = Change(reshaped=(self.value, had) != (value, shaped))
        for member in self.members.values():
            member.before = member.value.weight if member.before is None else member.before
        for key, real in wanted.items():
            if key in self.members:
                self.members[key].value = real
            else:
                self.members[key] = Member(next(numbers), real, before=0)
                change.came.append(key)
        # At last: who comes must not get the number of one who leaves with the same change.
        change.left = [self.members.pop(key) for key in list(self.members) if key not in wanted]
        self.value, self._part, self._text = value, None, None
        return change


@dataclass(slots=True)
class Change:
    """The services that changed, the members that came and left, whether anything but weights is not as it was."""

    services: list[Endpoint] = field(default_factory=list)
    came: list[ServerKey] = field(default_factory=list)
    left: list[Member] = field(default_factory=list)
    reshaped: bool = False


@dataclass(slots=True, kw_only=True)
class Book:
    """`sources` gives for each group of source addresses its first place in the program's list. `retired` gives, for
    the numbers of servers that left, since when: a flow may still remember them. `refused` gives, for interfaces that
    took no native XDP, why."""

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
    refused: dict[int, str] = field(default_factory=dict)

    def parts(self) -> dict[ServiceKey | None, Table]:
        """What is carried, by service; a part that did not change is the same object as before."""
        return {key: carried.part(key) for key, carried in self.services.items()}

    def members(self) -> Iterator[tuple[Endpoint, ServerKey, Member]]:
        for key, carried in self.services.items():
            for server, member in carried.members.items():
                yield key, server, member

    def numbers(self) -> int:
        """How many numbers to ask for, so that those of all members are among them."""
        return max((member.id for _, _, member in self.members()), default=NOBODY) + 1

    def source_range(self, group: tuple[IPAddress, ...]) -> tuple[int, int]:
        """First place and count of a group, which gets its place the first time. Places never change hands."""
        if group not in self.sources:
            self.sources[group] = sum(map(len, self.sources))
        return self.sources[group], len(group)

    def follow(self, parts: Mapping[Endpoint, Table], *, now: float, servers: int, rest: float) -> Change:
        """Take over what a Table says of some services; one that has an empty part goes.

        `servers` numbers there are; that of a member that left rests for `rest` seconds.
        """
        self.retired = {id_: since for id_, since in self.retired.items() if now - since < rest}
        numbers, rooms = self._free(servers), self._rooms()
        whole = Change()
        for key, part in parts.items():
            value = part.get(key)
            if not isinstance(value, VirtualService):
                gone = self.services.pop(key, None)
                change = Change(left=list(gone.members.values()) if gone else [], reshaped=gone is not None)
            elif key in self.services and self.services[key].part(key) == part:
                continue
            else:
                wanted = {k: v for k, v in part.items() if isinstance(k, ServerKey) and isinstance(v, RealServer)}
                made = key not in self.services
                if made:
                    self.services[key] = Carried(next(rooms), value)
                change = self.services[key].follow(value, wanted, numbers)
                change.reshaped |= made
                whole.services.append(key)
            self.retired |= {member.id: now for member in change.left}
            whole.came += change.came
            whole.left += change.left
            whole.reshaped |= change.reshaped
        return whole

    def _free(self, servers: int) -> Iterator[int]:
        """Numbers for members that come, looked for when the first is asked for."""
        taken = {member.id for _, _, member in self.members()} | set(self.retired) | {NOBODY}
        yield from (number for number in range(servers) if number not in taken)
        raise Unsupported(f"the eBPF program has room for {servers:,} real servers, those that left lately included")

    def _rooms(self) -> Iterator[int]:
        """Numbers for services that come; those of services that go now stay theirs until then."""
        housed = {carried.id for carried in self.services.values()}
        return (number for number in range(1 << 16) if number not in housed)


def to_text(book: Book) -> bytes:
    wish = book.wish
    document = {
        "schema": SCHEMA,
        **{name: getattr(book, name) for name in _PLAIN},
        "wish": [list(wish.interfaces), list(map(str, wish.sources)), wish.idle, wish.tcp, wish.tcp_fin, wish.udp],
        "ports": [wish.ports.first, wish.ports.last] if wish.ports else None,
        "sources": [[list(map(str, group)), first] for group, first in book.sources.items()],
        "retired": list(book.retired.items()),
        "refused": list(book.refused.items()),
    }
    head = json.dumps(document, separators=(",", ":")).removesuffix("}")
    services = ",".join(carried.text(key) for key, carried in book.services.items())
    return f'{head},"services":[{services}]}}'.encode()


def from_text(text: bytes) -> Book:
    """Raises ValueError, KeyError or TypeError where another version of kernlb wrote it in another way."""
    document = json.loads(text)
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']}")
    interfaces, sources, idle, tcp, tcp_fin, udp = document["wish"]
    ports = document.get("ports")
    return Book(
        **{name: document[name] for name in _PLAIN},
        wish=Wish(
            interfaces=tuple(interfaces),
            sources=_addresses(sources),
            ports=PortRange(*ports) if ports else None,
            idle=idle,
            tcp=tcp,
            tcp_fin=tcp_fin,
            udp=udp,
        ),
        services=dict(map(_service_from, document["services"])),
        sources={_addresses(group): first for group, first in document["sources"]},
        retired=dict(map(tuple, document["retired"])),
        refused=dict(map(tuple, document.get("refused", ()))),
    )


_PLAIN = ("abi", "namespace", "secret", "fingerprint", "tick_shift", "memory_buckets", "flow_buckets", "slots")


def _addresses(texts: list[str]) -> tuple[IPv4Address | IPv6Address, ...]:
    return tuple(map(ip_address, texts))


def _service(key: Endpoint, carried: Carried) -> list[Any]:
    kept, bounds = carried.value.persistence, carried.value.bounds
    return [
        key_text(key),
        carried.id,
        carried.changed,
        str(carried.value.scheduler),
        [kept.timeout, kept.prefix] if kept else None,
        [bounds.number, bounds.connections, bounds.together] if bounds else None,
        [
            [str(key.address), key.port, member.id, member.before, *_server(member.value)]
            for key, member in carried.members.items()
        ],
    ]


def _service_from(listed: list[Any]) -> tuple[Endpoint, Carried]:
    text, id_, changed, scheduler, kept, bounds, members = listed
    key = key_from(text)
    if not isinstance(key, Endpoint):
        raise TypeError(text)
    value = VirtualService(
        Scheduler(scheduler),
        persistence=Persistence(*kept) if kept else None,
        bounds=Bounds(*bounds) if bounds else None,
    )
    carried = Carried(id_, value, {}, changed)
    for address, port, number, before, *server in members:
        carried.members[ServerKey(key, ip_address(address), port)] = Member(number, _server_from(server), before)
    return key, carried


def _server(value: RealServer) -> list[Any]:
    tunnel = [value.tunnel.kind, value.tunnel.port, value.tunnel.checksum] if value.tunnel else None
    return [str(value.forwarding), value.weight, value.upper_threshold, value.lower_threshold, tunnel]


def _server_from(listed: list[Any]) -> RealServer:
    forwarding, weight, upper, lower, tunnel = listed
    kind = Tunnel(TunnelKind(tunnel[0]), tunnel[1], TunnelChecksum(tunnel[2])) if tunnel else None
    return RealServer(Forwarding(forwarding), weight, upper, lower, kind)
