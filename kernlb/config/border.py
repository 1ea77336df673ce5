"""The border: a document in, a Config or every mistake out. Errors of pydantic become sentences here."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kernlb.config import advise, check_keys, fields, keys, laws
from kernlb.config.build import build
from kernlb.config.findings import Finding, Path, dotted
from kernlb.config.keys import Document
from kernlb.config.lines import line_of, lines
from kernlb.config.notation import Wrong, shown
from kernlb.config.syntax import read
from kernlb.config.values import Config
from kernlb.errors import ConfigError, Mistake

MOST = 1000
"""Mistakes that are reported; a file with more has one cause."""

_TABLES: dict[str, type[fields.Keys]] = {
    "engine": keys.EngineKeys,
    "addresses": keys.AddressKeys,
    "timers": keys.TimerKeys,
    "sync": keys.SyncKeys,
    "metrics": keys.MetricsKeys,
    "master": keys.SyncDaemonKeys,
    "backup": keys.SyncDaemonKeys,
    "defaults": keys.DefaultKeys,
    "sorry_server": keys.SorryKeys,
    "tunnel": keys.TunnelKeys,
    "persistence": keys.PersistenceKeys,
    "check": check_keys.CheckKeys,
    "agent": check_keys.CheckKeys,
    "tls": check_keys.TlsKeys,
    "match": check_keys.MatchKeys,
    "expect": check_keys.MatchKeys,
    "steps": check_keys.StepKeys,
}
_OTHER_KEYS = {
    "balance": "scheduler", "algorithm": "scheduler", "lb_algo": "scheduler", "lb_kind": "forwarding",
    "mode": "forwarding", "method": "forwarding", "listen": "bind", "address": "bind", "vip": "bind",
    "backend": "servers", "backends": "servers", "server": "servers", "real_server": "servers",
    "maxconn": "max_connections",    "inter": "interval", "slowstart": "slow_start",
    "services": "service", "default": "defaults",
    "persistent": "persistence", "ops": "one_packet", "health_check": "check", "virtual_server": "service",
    "delay_loop": "interval", "uri": "path", "url": "path", "command": "argv", "ip": "address",
}  # fmt: skip
"""Other tools' words for keys."""

_SHORT: dict[str, str] = {"check": "tcp", "tunnel": "ipip", "persistence": "5m", "match": "ok", "expect": "+OK"}
_RESTORES_NOTHING = frozenset({"protocol", "servers", "bind", "forwarding"})
_STANDS_FOR = {"persistence": True, "max_connections": 1}
"""Keys of a service without which the rest of it cannot be judged; and what stands for others meanwhile."""


def load(text: str | bytes, file: str) -> Config:
    """Raises ConfigError with every mistake, sorted by line."""
    text, document = read(text, file)
    config, wrong = _config(document)
    if wrong or config is None:
        raise ConfigError(file, _placed(wrong, text))
    return config


def mistakes(config: Config) -> tuple[Mistake, ...]:
    """What cannot work in a Config that came from elsewhere than our own file."""
    return tuple(finding.mistake() for finding in laws.findings(config))


def advice(config: Config, text: str | bytes | None = None, file: str = "") -> tuple[Mistake, ...]:
    """What works but probably not as meant; with lines where the text of the file is given."""
    found = list(advise.advice(config))
    if text is None or not found:
        return tuple(finding.mistake() for finding in found)
    return tuple(_placed(found, read(text, file)[0]))


def _placed(wrong: list[Finding], text: str) -> list[Mistake]:
    found = lines(text)
    placed = sorted(((line_of(finding.path, found), finding) for finding in wrong), key=lambda pair: pair[0])
    return [finding.mistake(line) for line, finding in placed]


def _config(document: Mapping[str, Any]) -> tuple[Config | None, list[Finding]]:
    try:
        config, wrong = build(Document.model_validate(document))
        return config, wrong + [f for f in laws.findings(config) if not any(f.path == w.path for w in wrong)]
    except ValidationError as error:
        details = error.errors(include_url=False)
        wrong = [_finding(detail, document) for detail in details[:MOST]]
    if len(details) > MOST:
        more = f"and {len(details) - MOST:,} mistakes more"
        return None, [*wrong, Finding(wrong[-1].path, more, "correct the first ones; many often have one cause")]
    return None, list(dict.fromkeys(wrong + _cross_checked(document, wrong)))


def _cross_checked(document: Mapping[str, Any], wrong: list[Finding]) -> list[Finding]:
    """The mistakes between the sound parts of a broken document: all at once means these too."""
    sound: dict[str, Any] = deepcopy(dict(document))
    suspect: set[str | int] = set()
    binds = _binds(document)
    for _ in range(4):
        suspect |= {finding.path[1] for finding in wrong if finding.path[:1] == ("service",) and finding.path[1:]}
        parts = {_suspect(finding.path, sound) for finding in wrong}
        # From the end, so that the indices before stay right.
        for part in sorted(parts, key=lambda path: [p if isinstance(p, int) else -1 for p in path], reverse=True):
            match part:
                case ("service", str(name), "bind", int(index)) if _holds(sound, part):
                    del binds[name][index]
            _cut(sound, part)
        try:
            config, found = build(Document.model_validate(sound))
        except ValidationError as error:
            wrong = [_finding(detail, sound) for detail in error.errors(include_url=False)]
            continue
        elements = ("bind", "servers", "sorry_server")
        found += [
            finding
            for finding in laws.findings(config)
            if finding.path[:1] != ("service",)
            or finding.path[1] not in suspect
            or (len(finding.path) > 3 and finding.path[2] in elements)
        ]
        return [replace(finding, path=_as_written(finding.path, binds)) for finding in found]
    return []


def _binds(document: Mapping[str, Any]) -> dict[str, list[int]]:
    """By service, which of its binds are left."""
    services = document.get("service")
    tables = services.items() if isinstance(services, dict) else ()
    arrays = ((name, table.get("bind")) for name, table in tables if isinstance(table, dict))
    return {name: list(range(len(array))) for name, array in arrays if isinstance(array, list)}


def _as_written(path: Path, binds: Mapping[str, list[int]]) -> Path:
    """The path with the index that a bind has in the file, whatever was cut before it."""
    match path:
        case ("service", str(name), "bind", int(index), *rest) if index < len(binds.get(name, ())):
            return ("service", name, "bind", binds[name][index], *rest)
    return path


def _suspect(path: Path, document: Mapping[str, Any]) -> Path:
    """The smallest part around a mistake whose absence makes no new one."""
    match path:
        case ("service", _, "servers", _, "check", int(), *_):
            path = path[:6]
        case ("service", _, "servers", _, "check" | "agent", *_):
            path = path[:5]
        case ("service", name, "servers", server, *_):
            path = ("service", name, "servers", server)
        case ("service", _, "check", int(), *_):
            path = path[:4]
        case ("service", name, "bind", int(index)):
            path = ("service", name, "bind", index)
        case ("service", name, str(key), *_) if key in _RESTORES_NOTHING:
            path = ("service", name)
        case ("service", name, str(key), *_):
            path = ("service", name, key)
        case ("defaults", "check", int(), *_):
            path = path[:3]
        case (str(table), str(key), *_):
            path = (table, key)
    while path and not _holds(document, path):
        # A key that is missing: nothing of its table can stand.
        path = path[:-1]
    return path


def _holds(place: Any, path: Path) -> bool:
    for part in path:
        match place:
            case dict() if part in place:
                place = place[part]
            case list() if isinstance(part, int) and part < len(place):
                place = place[part]
            case _:
                return False
    return True


def _cut(document: Any, path: Path) -> None:
    if path and _holds(document, path):
        for part in path[:-1]:
            document = document[part]
        if path[0] == "service" and len(path) == 3 and path[2] in _STANDS_FOR:
            document[path[2]] = _STANDS_FOR[path[2]]
        elif path[-1] in ("check", "agent") and path[0] == "service":
            document[path[-1]] = False
        elif path[-2:-1] == ("check",):
            document[path[-1]] = "ping"  # of which nothing is asked; the others keep their indices
        else:
            del document[path[-1]]


def _finding(detail: ErrorDetails, document: Mapping[str, Any]) -> Finding:
    path = _path(detail["loc"], document, missing=detail["type"] == "missing")
    value, context = detail["input"], detail.get("ctx") or {}
    match detail["type"]:
        case "value_error" if isinstance(wrong := context.get("error"), Wrong):
            return Finding(path, wrong.message, wrong.hint)
        case "extra_forbidden":
            return _unknown(path)
        case "missing":
            return Finding(path, f"{path[-1]} is missing", f"write {path[-1]} = ...")
        case "int_type" | "int_from_float" | "int_parsing_size":
            return Finding(path, f"{shown(value)} is not a whole number", "write a number without quotes")
        case "bool_type":
            return Finding(path, f"{shown(value)} is neither true nor false", "write true or false")
        case "string_type":
            return Finding(path, f"{shown(value)} is not a string", "put it in quotes")
        case "list_type":
            hint = 'write "203.0.113.10:80", or an array of such' if path[-1:] == ("bind",) else "write [...]"
            return Finding(path, f"{shown(value)} is not an array", hint)
        case "dict_type" | "model_type" | "model_attributes_type":
            host = path[-2:-1] == ("servers",) or path[-1:] == ("sorry_server",)
            key = next((part for part in reversed(path) if isinstance(part, str)), "")
            short = "10.0.0.1:80" if host else _SHORT.get(key)
            hint = f'write "{short}" or {{ key = value }}' if short else f"write [{dotted(path)}] or {{ key = value }}"
            return Finding(path, f"{shown(value)} is not a table", hint)
        case "greater_than_equal" | "less_than_equal":
            bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
            return Finding(path, f"{shown(value)} is out of range", f"write {bound}")
        case "too_short":
            return Finding(path, "is empty", "write at least one")
        case _:
            return Finding(path, detail["msg"].lower().removesuffix("."), None)


def _path(loc: tuple[int | str, ...], document: Any, *, missing: bool) -> Path:
    """The part of pydantic's location that the file has: short forms and unions add steps of their own."""
    path: list[str | int] = []
    place = document
    for position, part in enumerate(loc):
        inside = isinstance(place, dict) and part in place
        if inside or (isinstance(place, list) and isinstance(part, int) and part < len(place)):
            path.append(part)
            place = place[part]
        elif missing and position == len(loc) - 1 and isinstance(place, dict):
            path.append(part)
    return tuple(path)


def _unknown(path: Path) -> Finding:
    *outer, key = path
    known = sorted(_table(tuple(outer)).model_fields)
    word = str(key).lower().replace("-", "_")
    meant = _OTHER_KEYS.get(word)
    meant = meant if meant in known else fields.likely(str(key), known)
    if meant is None and "address" in known and word == "host":
        meant = "address"
    hint = f'did you mean "{meant}"?' if meant else f"known here: {', '.join(known)}"
    return Finding(path, f"unknown key {shown(str(key))}", hint)


def _table(path: Path) -> type[fields.Keys]:
    match path:
        case ():
            return Document
        case ("service", _):
            return keys.ServiceKeys
        case ("service", _, "servers", _):
            return keys.ServerKeys
    names = [part for part in path if isinstance(part, str)]
    return _TABLES.get(names[-1], Document)
