"""What `show` says of a Table: one object a virtual service of the kernel, by name. Pure."""

from collections.abc import Mapping
from typing import Any

from kernlb.desired import Name
from kernlb.model import (
    Counters,
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
from kernlb.text import socket_address


def services_document(
    table: Table,
    *,
    names: Mapping[Key, Name],
    owned: frozenset[Key],
    counters: Mapping[Key, Counters],
) -> list[dict[str, Any]]:
    """The `services` of `show --json`: null for what an engine cannot know, never 0."""
    sources = [key for key in table if isinstance(key, SourceKey)]
    members = servers_by_service(table)
    documents = []
    for key, service in services(table):
        name = names.get(key) if key in owned else None
        mark = _mark(key, table)
        rows = []
        for server_key, server in members[key]:
            fullnat = any(
                s.mark == mark and s.address == server_key.address and s.port == server_key.port for s in sources
            )
            rows.append(_server(server_key, server, names, counters.get(server_key, Counters()), fullnat=fullnat))
        forwardings = {row["forwarding"] for row in rows}
        documents.append(
            {
                "name": name.service if name else None,
                "bind": name.bind if name else bind_of(key),
                "mark": mark,
                "protocol": _protocol(key, table),
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


def _protocol(key: ServiceKey, table: Table) -> str | None:
    if isinstance(key, Endpoint):
        return str(key.protocol)
    marked = [k for k, v in table.items() if isinstance(k, MarkKey) and isinstance(v, Mark) and v.mark == key.mark]
    protocols = {str(k.protocol) for k in marked}
    return protocols.pop() if len(protocols) == 1 else None


def _persistence(service: VirtualService) -> dict[str, Any] | None:
    kept = service.persistence
    return {"timeout": kept.timeout, "prefix": kept.prefix, "engine": kept.engine} if kept else None
