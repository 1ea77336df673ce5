"""What `show` says of a Table: one object a virtual service of the kernel, by name. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from kernlb.counters import Counters
from kernlb.desired import Name
from kernlb.model import (
    Endpoint,
    Forwarding,
    Fwmark,
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
    sources = {(key.mark, key.address, key.port) for key in table if isinstance(key, SourceKey)}
    marked = _protocols(table)
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
        mark = _mark(key, table)
        rows = []
        for server_key, server in sorted(members[key], key=place):
            fullnat = (mark, server_key.address, server_key.port) in sources
            rows.append(_server(server_key, server, names, counters.get(server_key, Counters()), fullnat=fullnat))
        forwardings = {row["forwarding"] for row in rows}
        documents.append(
            {
                "name": name.service if name else None,
                "bind": name.bind if name else bind_of(key),
                "mark": mark,
                "protocol": _protocol(key, marked),
                "engine": str(key.engine),
                "scheduler": str(service.scheduler),
                "policy": name.policy if name else None,
                "forwarding": forwardings.pop() if len(forwardings) == 1 else None,
                "owned": key in owned,
                "persistence": _persistence(service),
                "servers": rows,
            }
        )
    return documents


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
    key: ServerKey, server: RealServer, names: Mapping[Key, Name], counters: Counters, *, fullnat: bool
) -> dict[str, Any]:
    name = names.get(key)
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


def _mark(key: ServiceKey, table: Table) -> int | None:
    if isinstance(key, Fwmark):
        return key.mark
    found = table.get(MarkKey(key.address, key.protocol, key.port, key.port))
    return getattr(found, "mark", None)


def _protocols(table: Table) -> dict[int, set[str]]:
    """The protocols of the packets that carry each mark."""
    found: dict[int, set[str]] = {}
    for key, value in table.items():
        if isinstance(key, MarkKey) and isinstance(value, Mark):
            found.setdefault(value.mark, set()).add(str(key.protocol))
    return found


def _protocol(key: ServiceKey, marked: Mapping[int, set[str]]) -> str | None:
    if isinstance(key, Endpoint):
        return str(key.protocol)
    protocols = marked.get(key.mark, set())
    return next(iter(protocols)) if len(protocols) == 1 else None


def _persistence(service: VirtualService) -> dict[str, Any] | None:
    kept = service.persistence
    return {"timeout": kept.timeout, "prefix": kept.prefix, "engine": kept.engine} if kept else None
