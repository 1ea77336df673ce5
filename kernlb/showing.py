"""What `show` says of a Table: one object a virtual service of the kernel, by name. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kernlb.counters import Counters
from kernlb.desired import Name
from kernlb.model import (
    Endpoint,
    Forwarding,
    Fwmark,
    IPAddress,
    Key,
    Mark,
    MarkKey,
    RealServer,
    ServerKey,
    ServiceKey,
    SourceKey,
    Table,
    VirtualService,
    servers_by_service,
    services,
)
from kernlb.plan import Operation
from kernlb.text import described, operation, socket_address, thing


def services_document(
    table: Table,
    *,
    names: Mapping[Key, Name],
    owned: frozenset[Key],
    counters: Mapping[Key, Counters],
    everything: bool = False,
) -> list[dict[str, Any]]:
    """The `services` of `show --json`: null for what an engine cannot know, never 0. `everything`: those that only
    checks use too."""
    marks = Marks(table)
    # The kernel lists what came last first; people wrote it in the order of the names.
    order = {key: number for number, key in enumerate(names)}

    def place(entry: tuple[Key, object]) -> tuple[int, str]:
        return order.get(entry[0], len(order)), str(entry[0])

    members = servers_by_service(table)
    documents = []
    for key, service in sorted(services(table), key=place):
        name = names.get(key) if key in owned else None
        if name is not None and name.check and not everything:
            continue
        shown = [
            (key, server, names.get(key), counters.get(key, Counters()))
            for key, server in sorted(members[key], key=place)
        ]
        documents.append(service_document(key, service, shown, name=name, owned=key in owned, marks=marks))
    return documents


class Marks:
    """What a Table says of marks: the packets that carry them, and from where the connections of each come."""

    def __init__(self, table: Table) -> None:
        self._marks: dict[MarkKey, int] = {}
        self._protocols: dict[int, set[str]] = {}
        self._sources: dict[int, list[SourceKey]] = {}
        for key, value in table.items():
            if isinstance(key, SourceKey):
                self._sources.setdefault(key.mark, []).append(key)
            elif isinstance(key, MarkKey) and isinstance(value, Mark):
                self._marks[key] = value.mark
                self._protocols.setdefault(value.mark, set()).add(str(key.protocol))

    def of(self, key: ServiceKey) -> int | None:
        if isinstance(key, Fwmark):
            return key.mark
        return self._marks.get(MarkKey(key.address, key.protocol, key.port, key.port)) if self._marks else None

    def protocol(self, key: ServiceKey) -> str | None:
        if isinstance(key, Endpoint):
            return str(key.protocol)
        protocols = self._protocols.get(key.mark, set())
        return next(iter(protocols)) if len(protocols) == 1 else None

    def masqueraded(self, mark: int | None) -> set[tuple[IPAddress, int]]:
        """The real servers that do not see their clients' addresses."""
        return set() if mark is None else {(key.address, key.port) for key in self._sources.get(mark, ())}


def service_document(
    key: ServiceKey,
    service: VirtualService,
    servers: Sequence[tuple[ServerKey, RealServer, Name | None, Counters]],
    *,
    name: Name | None,
    owned: bool,
    marks: Marks,
) -> dict[str, Any]:
    mark = marks.of(key)
    sources = marks.masqueraded(mark)
    rows = [
        _server(at, server, called, counters, fullnat=bool(sources) and (at.address, at.port) in sources)
        for at, server, called, counters in servers
    ]
    forwardings = {row["forwarding"] for row in rows}
    return {
        "name": name.service if name else None,
        "bind": name.bind if name else bind_of(key),
        "mark": mark,
        "protocol": marks.protocol(key),
        "engine": str(key.engine),
        "scheduler": str(service.scheduler),
        "policy": name.policy if name else None,
        "forwarding": forwardings.pop() if len(forwardings) == 1 else None,
        "owned": owned,
        "persistence": _persistence(service),
        "servers": rows,
    }


def operations_document(
    operations: Iterable[Operation], names: Mapping[Key, Name], breaks: Mapping[Key, int | None]
) -> dict[str, Any]:
    """What plan, apply and clear say in JSON. `breaks` counts live connections; null where the kernel cannot know.
    `before` and `after` are null where the object was not, or will not be, there."""
    listed = [
        {
            "verb": str(op.verb),
            "object": thing(op.key, names),
            "text": operation(op, names),
            "breaks": breaks.get(op.key, 0),
            "before": None if op.before is None else described(op.key, op.before, names),
            "after": None if op.after is None else described(op.key, op.after, names),
        }
        for op in operations
    ]
    return {"changed": bool(listed), "operations": listed}


def bind_of(key: ServiceKey) -> str:
    match key:
        case Fwmark(mark=mark):
            return f"fwmark:{mark}"
        case Endpoint(address=address, port=port):
            return socket_address(address, port)


def _server(
    key: ServerKey, server: RealServer, name: Name | None, counters: Counters, *, fullnat: bool
) -> dict[str, Any]:
    return {
        "name": name.server if name else None,
        "address": str(key.address),
        "port": key.port,
        "weight": server.weight,
        "forwarding": str(Forwarding.FULLNAT if fullnat else server.forwarding),
        "active_connections": counters.active_connections,
        "inactive_connections": counters.inactive_connections,
        "connections": counters.connections,
        "packets_in": counters.packets_in,
        "bytes_in": counters.bytes_in,
        "packets_out": counters.packets_out,
        "bytes_out": counters.bytes_out,
    }


def _persistence(service: VirtualService) -> dict[str, Any] | None:
    kept = service.persistence
    return {"timeout": kept.timeout, "prefix": kept.prefix, "engine": kept.engine} if kept else None
