"""What `status` says: each virtual service with each configured server, in the kernel or not. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kernlb.config.values import Config, Server, Service
from kernlb.counters import Counters
from kernlb.desired import Name
from kernlb.engines import Transit
from kernlb.health import State
from kernlb.model import Endpoint, Forwarding, Fwmark, Key, RealServer, ServerKey, ServiceKey, Table, VirtualService
from kernlb.operator import live_connections
from kernlb.pool import Hold, Override, Pool, ServerName, scale_of
from kernlb.ratings import all_servers
from kernlb.showing import Marks, service_document

_NO_OVERRIDE = Override()


class Places:
    """Where what is configured is in a Table: the virtual services of each service, and their real servers by name."""

    def __init__(self, names: Mapping[Key, Name]) -> None:
        self.names = names
        self.services: dict[str, list[ServiceKey]] = {}
        self.servers: dict[ServiceKey, dict[str, ServerKey]] = {}
        for key, name in names.items():
            if name.check:
                continue
            if isinstance(key, Endpoint | Fwmark):
                self.services.setdefault(name.service, []).append(key)
            elif isinstance(key, ServerKey) and name.server:
                self.servers.setdefault(key.service, {})[name.server] = key


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was known at one moment. `table` is what the kernel has; `counters` and `response_time` may be of later.
    `hindered` are servers that could not be asked the last time, and why."""

    config: Config
    pools: Mapping[str, Pool]
    states: Mapping[ServerName, State]
    overrides: Mapping[ServerName, Override]
    table: Table
    places: Places
    counters: Callable[[Key], Counters]
    response_time: Callable[[ServerName], float | None]
    hindered: Mapping[ServerName, str]
    transits: Mapping[ServiceKey, Transit]


def service_documents(known: Snapshot, services: Iterable[Service] | None = None) -> Iterator[dict[str, Any]]:
    """Of all services or of these, one after another; those that are not kernlb's stay out."""
    marks = Marks(known.table)
    for service in known.config.services if services is None else services:
        scale = scale_of(service)
        for key in known.places.services.get(service.name, ()):
            virtual = known.table.get(key)
            if isinstance(virtual, VirtualService):
                yield _service(known, service, key, virtual, marks, scale)


def _service(
    known: Snapshot, service: Service, key: ServiceKey, virtual: VirtualService, marks: Marks, scale: int
) -> dict[str, Any]:
    places, table = known.places, known.table
    members = places.servers.get(key, {})
    present = [
        (at, real, places.names[at], known.counters(at))
        for at in members.values()
        if isinstance(real := table.get(at), RealServer)
    ]
    shown = service_document(key, virtual, present, name=places.names[key], owned=True, marks=marks)
    rows = {row["name"]: row for row in shown["servers"]}
    transit = known.transits.get(key)
    servers = []
    for server in all_servers(service):
        at, row = members.get(server.name), rows.get(server.name)
        if at is None and server is not service.sorry_server:
            continue  # of the other family
        if row is None:
            row = _absent(server, known.counters(at) if at else Counters())
        before = transit.before.get(at, 0) if transit is not None and at is not None else None
        servers.append(
            row | _condition(known, service, server, row, scale) | {"previous_weight": _units(before, scale)}
        )
    pool = known.pools[service.name]
    standing = {"quorum": pool.quorum, "panic": pool.panic, "sorry": pool.sorry}
    return shown | standing | {"transition": _transition(transit), "servers": servers}


def _transition(transit: Transit | None) -> dict[str, Any] | None:
    if transit is None:
        return None
    return {"slots": transit.slots, "of": transit.of, "seconds": round(transit.seconds, 1)}


def _units(weight: int | None, scale: int) -> float | None:
    """A weight of the kernel's in configured units."""
    if weight is None:
        return None
    units = weight / scale
    return int(units) if units == int(units) else round(units, 2)


def _status(
    server: Server, override: Override, state: State | None, hindrance: str | None
) -> tuple[str, float | None, str]:
    """A server's status, since when (seconds since the epoch) and why."""
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
    reason = state.reason if hindrance is None else f"{state.reason}; cannot be checked: {hindrance}"
    return str(state.status), state.since, reason


def _condition(known: Snapshot, service: Service, server: Server, row: Mapping[str, Any], scale: int) -> dict[str, Any]:
    name = (service.name, server.name)
    override = known.overrides.get(name, _NO_OVERRIDE)
    status, since, reason = _status(server, override, known.states.get(name), known.hindered.get(name))
    seconds = known.response_time(name)
    return {
        "status": status,
        "since": None if since is None else round(since, 3),
        "reason": reason,
        "response_time_ms": None if seconds is None else round(seconds * 1000, 3),
        "configured_weight": server.weight if override.weight is None else override.weight,
        "effective_weight": _units(row["weight"], scale),
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
