"""What of health and of counters is written into the state file, and what is made of it after a restart. Pure."""

from collections.abc import Mapping
from typing import Any

from kernlb.counters import Counters
from kernlb.health import State, dumped, loaded
from kernlb.keytext import key_from, key_text
from kernlb.model import Key
from kernlb.pool import ServerName
from kernlb.standing import Standing
from kernlb.totals import Known

_COUNTED = ("connections", "packets_in", "packets_out", "bytes_in", "bytes_out")


def written(standing: Mapping[ServerName, Standing], assessment: Mapping[str, Any], known: Known) -> dict[str, Any]:
    counted = {"carried": _counted(known.carried), "counted": _counted(known.last)}
    checks = _by_service({name: each.checks for name, each in standing.items()})
    agents = _by_service({name: each.agents or () for name, each in standing.items()})
    return {"servers": checks, "agents": agents, **counted, **assessment}


def known(record: Mapping[str, Any]) -> Known:
    """What was counted; what cannot be understood is left out."""
    return Known(_counters(record.get("carried")), _counters(record.get("counted")))


def _counted(counters: Mapping[Key, Counters]) -> dict[str, list[int | None]]:
    numbers = {key: [getattr(each, name) for name in _COUNTED] for key, each in counters.items()}
    return {key_text(key): each for key, each in numbers.items() if any(each)}


def _counters(counted: Any) -> dict[Key, Counters]:
    found: dict[Key, Counters] = {}
    for text, numbers in counted.items() if isinstance(counted, dict) else ():
        try:
            found[key_from(text)] = Counters(**dict(zip(_COUNTED, numbers, strict=True)))
        except (ValueError, TypeError):
            continue
    return found


def _by_service(said: Mapping[ServerName, tuple[State, ...]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (service, server), states in said.items():
        if states:
            found.setdefault(service, {})[server] = [dumped(state) for state in states]
    return found


def standing(record: Mapping[str, Any]) -> dict[ServerName, Standing]:
    """What `written` kept; what cannot be understood is left out: the check will tell."""
    checks, agents = _states(record.get("servers")), _states(record.get("agents"))
    if "agents" not in record:
        return {name: Standing(states, None) for name, states in checks.items()}
    return {name: Standing(checks.get(name, ()), agents.get(name, ())) for name in checks | agents}


def _states(servers: Any) -> dict[ServerName, tuple[State, ...]]:
    found: dict[ServerName, tuple[State, ...]] = {}
    for service, each in servers.items() if isinstance(servers, dict) else ():
        for server, states in each.items() if isinstance(each, dict) else ():
            known = [state for data in states if isinstance(data, dict) and (state := loaded(data))]
            if len(known) == len(states):
                found[service, server] = tuple(known)
    return found
