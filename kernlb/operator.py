"""What an operator orders of real servers, and when a drain has ended: overrides in and out. No kernel, no clock."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from kernlb.config.values import Config, Service
from kernlb.counters import Counters
from kernlb.errors import KernlbError
from kernlb.model import Protocol
from kernlb.pool import Hold, Override, ServerName
from kernlb.ratings import all_servers

SETTLE = 1.0
"""Seconds a drain lasts at least: handshakes that were under way become connections that are seen."""

Overrides = Mapping[ServerName, Override]

_NONE = Override()


class Unknown(KernlbError):
    """No service or server of that name."""

    kind = "unknown"


def known(config: Config, service: str, server: str) -> ServerName:
    """The name, if it is configured. Raises Unknown with close matches."""
    names = {each.name: _servers(each) for each in config.services}
    if service not in names:
        raise _unknown("service", service, names)
    if server not in names[service]:
        raise _unknown(f"server of {service}", server, names[service])
    return service, server


def disabled(config: Config, name: ServerName) -> bool:
    """Whether the file gives it no connections, whatever is ordered."""
    servers = next(all_servers(each) for each in config.services if each.name == name[0])
    return any(each.name == name[1] and each.disabled for each in servers)


def drain(overrides: Overrides, name: ServerName, *, now: float, deadline: float) -> Overrides:
    """No new connections, and out of the kernel once idle or at `deadline` (seconds since the epoch). A drain that
    is under way only gets the new deadline; one that has ended stays so."""
    before = overrides.get(name, _NONE)
    if before.hold is Hold.DRAIN:
        return _with(overrides, name, replace(before, deadline=deadline))
    return _with(overrides, name, replace(before, hold=Hold.DRAIN, since=now, deadline=deadline, drained=False))


def disable(overrides: Overrides, name: ServerName, *, now: float) -> Overrides:
    """No new connections until told otherwise; the server stays in the kernel."""
    before = overrides.get(name, _NONE)
    if before.hold is Hold.DISABLE:
        return overrides
    return _with(overrides, name, replace(before, hold=Hold.DISABLE, since=now, deadline=None, drained=False))


def resume(overrides: Overrides, name: ServerName) -> Overrides:
    """Ends a drain or a disablement; a weight that was ordered stays."""
    before = overrides.get(name, _NONE)
    return _with(overrides, name, replace(before, hold=None, since=None, deadline=None, drained=False))


def weigh(overrides: Overrides, name: ServerName, weight: int | None) -> Overrides:
    """A weight in configured units in place of the file's; None gives that back."""
    return _with(overrides, name, replace(overrides.get(name, _NONE), weight=weight))


def ended(overrides: Overrides, live: Callable[[ServerName], int | None], *, now: float) -> Overrides:
    """The overrides where drains that reached their deadline, or whose last connection ended, are marked so.

    `live` counts a server's connections; None where it is unknown, and then only the deadline ends a drain.
    """
    result = dict(overrides)
    for name, override in overrides.items():
        if override.hold is Hold.DRAIN and not override.drained:
            late = override.deadline is not None and now >= override.deadline
            settled = now - (override.since or 0.0) >= SETTLE
            if late or (settled and live(name) == 0):
                result[name] = replace(override, drained=True)
    return result


def under_way(overrides: Overrides) -> list[ServerName]:
    """The servers whose drain has not ended."""
    return [name for name, each in overrides.items() if each.hold is Hold.DRAIN and not each.drained]


def live_connections(protocol: Protocol, counters: Iterable[Counters]) -> int | None:
    """What a drain waits for. A UDP flow has no end that the kernel sees, only an idle timer: it counts until then."""
    total = 0
    for counted in counters:
        parts = [counted.active_connections]
        if protocol is Protocol.UDP:
            parts.append(counted.inactive_connections)
        for part in parts:
            if part is None:
                return None
            total += part
    return total


def told(order: Override | None) -> dict[str, Any]:
    """An override as answers and journals have it."""
    order = order or Override()
    return {
        "hold": None if order.hold is None else str(order.hold),
        "deadline": order.deadline,
        "drained": order.drained,
        "weight": order.weight,
    }


def answer(before: Overrides, after: Overrides, name: ServerName) -> dict[str, Any]:
    """What an order did, or would do, to one server. A later deadline of the same drain is no change."""
    had, has = before.get(name, _NONE), after.get(name, _NONE)
    changed = (had.hold, had.weight) != (has.hold, has.weight)
    return {"service": name[0], "server": name[1], **told(has), "changed": changed, "before": told(had)}


def of_configuration(overrides: Overrides, config: Config) -> Overrides:
    """Without the overrides of servers that are configured no more."""
    names = {(service.name, server) for service in config.services for server in _servers(service)}
    return {name: override for name, override in overrides.items() if name in names}


def _with(overrides: Overrides, name: ServerName, override: Override) -> Overrides:
    others = {each: value for each, value in overrides.items() if each != name}
    return others if override == _NONE else {**others, name: override}


def _servers(service: Service) -> list[str]:
    return [server.name for server in (*service.servers, *filter(None, (service.sorry_server,)))]


def _unknown(what: str, name: str, names: Iterable[str]) -> Unknown:
    there = sorted(names)
    close = get_close_matches(name, there, n=3)
    listed = ", ".join(there[:10]) + (", …" if len(there) > 10 else "")
    hint = f"did you mean {' or '.join(close)}?" if close else f"there is: {listed or 'none'}"
    return Unknown(f"no {what} named {name!r}", where=name, hint=hint)
