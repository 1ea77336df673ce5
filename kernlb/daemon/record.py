"""What the daemon writes into the state file, and what it makes of it after a restart. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from kernlb.assessment import all_servers
from kernlb.checker import Watched
from kernlb.config.values import Config, Policy
from kernlb.health import State, dumped, loaded
from kernlb.pool import ServerName


def watched(config: Config) -> Iterable[Watched[ServerName]]:
    """Every server with a check, under its configured names."""
    for service in config.services:
        timed = isinstance(service.scheduler, Policy)
        for server in all_servers(service):
            checks = tuple(check for check in (server.check, server.agent) if check is not None)
            if checks:
                yield Watched(
                    key=(service.name, server.name),
                    address=server.address,
                    port=server.port or _port_of(service.binds),
                    checks=checks,
                    timed=timed and not server.backup,
                )


def _port_of(binds: Iterable[Any]) -> int:
    """A server of port 0 is asked on the port that its service is bound to."""
    return next((bind.first for bind in binds if getattr(bind, "first", 0)), 0)


def written(standing: Mapping[ServerName, Iterable[State]], assessment: Mapping[str, Any]) -> dict[str, Any]:
    servers: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (service, server), states in standing.items():
        servers.setdefault(service, {})[server] = [dumped(state) for state in states]
    return {"servers": servers, **assessment}


def standing(record: Mapping[str, Any]) -> dict[ServerName, tuple[State, ...]]:
    """What `written` kept; what cannot be understood is left out: the check will tell."""
    found: dict[ServerName, tuple[State, ...]] = {}
    servers = record.get("servers", {})
    for service, each in servers.items() if isinstance(servers, dict) else ():
        for server, states in each.items() if isinstance(each, dict) else ():
            known = [state for data in states if isinstance(data, dict) and (state := loaded(data))]
            if len(known) == len(states):
                found[service, server] = tuple(known)
    return found
