"""What of health is written into the state file, and what is made of it after a restart. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from kernlb.health import State, dumped, loaded
from kernlb.pool import ServerName


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
