"""What `status` says: each virtual service with each configured server, in the kernel or not. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

from kernlb.assessment import Assessment
from kernlb.config.values import Server, Service
from kernlb.counters import Counters
from kernlb.desired import Name
from kernlb.engines import Transit
from kernlb.model import Endpoint, Forwarding, Fwmark, Key, ServerKey, ServiceKey, Table
from kernlb.operator import live_connections
from kernlb.pool import Hold, Override, scale_of
from kernlb.ratings import all_servers
from kernlb.showing import services_document

_NO_OVERRIDE = Override()


def service_documents(
    assessment: Assessment,
    *,
    table: Table,
    names: Mapping[Key, Name],
    counters: Callable[[Key], Counters],
    response_time: Callable[[tuple[str, str]], float | None],
    transits: Mapping[ServiceKey, Transit],
) -> list[dict[str, Any]]:
    """`table` is what the kernel has, `names` what kernlb calls its keys. Services that are not kernlb's stay out."""
    configured = {service.name: service for service in assessment.config.services}
    owned: dict[ServiceKey, str] = {
        key: name.service
        for key, name in names.items()
        if isinstance(key, Endpoint | Fwmark) and name.service in configured
    }
    by_name: dict[tuple[ServiceKey, str], ServerKey] = {
        (key.service, name.server): key for key, name in names.items() if isinstance(key, ServerKey) and name.server
    }
    present = {key: value for key, value in table.items() if not isinstance(key, ServerKey) or key.service in owned}
    counted: dict[Key, Counters] = {key: counters(key) for key in present if isinstance(key, ServerKey)}
    documents = services_document(present, names=names, owned=frozenset(owned), counters=counted)
    found = []
    by_bind = {(name.service, name.bind): key for key, name in names.items() if key in owned}
    for shown in documents:
        key = by_bind.get((shown["name"], shown["bind"]))
        if key is None:
            continue
        service = configured[owned[key]]
        rows = {row["name"]: row for row in shown["servers"]}
        pool = assessment.pools[service.name]
        transit = transits.get(key)
        servers = []
        for server in all_servers(service):
            at = by_name.get((key, server.name))
            if at is None and server.name not in rows and server is not service.sorry_server:
                continue  # of the other family
            row = rows.get(server.name) or _absent(server, counters(at) if at else Counters())
            condition = _condition(assessment, service, server, row, response_time)
            before = transit.before.get(at, 0) if transit is not None and at is not None else None
            servers.append(row | condition | {"previous_weight": _weight(service, before)})
        standing = {"quorum": pool.quorum, "panic": pool.panic, "sorry": pool.sorry}
        found.append(shown | standing | {"transition": _transition(transit), "servers": servers})
    return found


def _transition(transit: Transit | None) -> dict[str, Any] | None:
    if transit is None:
        return None
    return {"slots": transit.slots, "of": transit.of, "seconds": round(transit.seconds, 1)}


def _weight(service: Service, weight: int | None) -> float | None:
    """A weight of the kernel's in configured units."""
    if weight is None:
        return None
    units = weight / scale_of(service)
    return int(units) if units == int(units) else round(units, 2)


def condition_of(assessment: Assessment, service: Service, server: Server) -> tuple[str, float | None, str]:
    """A server's status, since when (seconds since the epoch) and why."""
    name = (service.name, server.name)
    override = assessment.overrides.get(name, _NO_OVERRIDE)
    state = assessment.states.get(name)
    if override.hold is Hold.DRAIN:
        if override.drained:
            return "disabled", override.since, "drained by the operator"
        return "draining", override.since, "drained by the operator"
    if override.hold is Hold.DISABLE:
        return "disabled", override.since, "disabled by the operator"
    if server.disabled:
        return "disabled", None, "disabled in the configuration"
    if state is None:
        return "unknown", None, "no check"
    return str(state.status), state.since, state.reason


def _condition(
    assessment: Assessment,
    service: Service,
    server: Server,
    row: Mapping[str, Any],
    response_time: Callable[[tuple[str, str]], float | None],
) -> dict[str, Any]:
    name = (service.name, server.name)
    override = assessment.overrides.get(name, _NO_OVERRIDE)
    status, since, reason = condition_of(assessment, service, server)
    seconds = response_time(name)
    return {
        "status": status,
        "since": None if since is None else round(since, 3),
        "reason": reason,
        "response_time_ms": None if seconds is None else round(seconds * 1000, 3),
        "configured_weight": server.weight if override.weight is None else override.weight,
        "effective_weight": _weight(service, row["weight"]),
        "drain_deadline": override.deadline if status == "draining" else None,
        "drain_connections": live_connections(service.protocol, [_live(row)]) if status == "draining" else None,
    }


def _live(row: Mapping[str, Any]) -> Counters:
    return Counters(active_connections=row["active_connections"], inactive_connections=row["inactive_connections"])


def _absent(server: Server, counters: Counters) -> dict[str, Any]:
    """The row of a server that is not in the kernel."""
    return {
        "name": server.name,
        "address": str(server.address),
        "port": server.port,
        "weight": 0,
        "forwarding": str(Forwarding(server.forwarding)),
        "active_connections": 0,
        "inactive_connections": 0,
        "connections": counters.connections,
        "packets_in": counters.packets_in,
        "bytes_in": counters.bytes_in,
        "packets_out": counters.packets_out,
        "bytes_out": counters.bytes_out,
    }
