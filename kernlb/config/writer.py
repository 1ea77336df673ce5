"""A Config as the kernlb.toml that a person would have written: nothing default, what all share said once."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from kernlb.config.check_writer import agent_value, check_value
from kernlb.config.laws import families, family_of_marks
from kernlb.config.notation import write_bind, write_duration, write_socket
from kernlb.config.values import Addresses, Config, Engine, EngineChoice, Server, Service
from kernlb.model import SYNC_GROUP, Family, Persistence, SyncDaemon, Timers, Tunnel, TunnelChecksum, TunnelKind

Table = dict[str, Any]
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def write(config: Config) -> str:
    """Read again, it gives an equal Config, if it breaks none of the laws."""
    services = {service.name: _service(service) for service in config.services}
    defaults = _shared([table for table, _ in services.values()])
    parts = [
        _block("", {"max_connections": config.max_connections} if config.max_connections is not None else {}),
        _block("engine", _engine(config.engine)),
        _block("addresses", _addresses(config.addresses)),
        _block("timers", _timers(config.timers)) if config.timers else "",
        *(_block(f"sync.{key.role}", _sync(daemon)) for key, daemon in config.sync),
        _block("metrics", {"listen": write_socket(config.metrics.address, config.metrics.port)})
        if config.metrics
        else "",
        _block("defaults", defaults),
    ]
    for name, (table, servers) in services.items():
        left = {key: value for key, value in table.items() if key not in defaults}
        parts.append(_block(f"service.{_key(name)}", left))
        parts.append(_block(f"service.{_key(name)}.servers", servers))
    return "\n".join(part for part in parts if part)


def _shared(tables: Sequence[Table]) -> Table:
    """What every service says alike belongs into [defaults]."""
    keys = ("scheduler", "forwarding", "tunnel", "check", "agent", "slow_start")
    if len(tables) < 2:
        return {}
    first = tables[0]
    return {key: first[key] for key in keys if key in first and all(t.get(key) == first[key] for t in tables)}


def _service(service: Service) -> tuple[Table, Table]:
    """The service's own keys, and its servers."""
    hosts = {server.name: _host(server) for server in service.servers}
    sorry = _host(service.sorry_server) if service.sorry_server else None
    said = _said_once(list(hosts.values()), sorry)
    derived = family_of_marks(service.servers, service.binds)
    binds = [write_bind(bind, derived=derived) for bind in service.binds]
    table: Table = {"bind": binds[0] if len(binds) == 1 else binds}
    bare = Service(name="", binds=())
    if service.protocol is not bare.protocol:
        table["protocol"] = str(service.protocol)
    if service.engine is not bare.engine:
        table["engine"] = str(service.engine)
    if service.scheduler is not bare.scheduler:
        table["scheduler"] = str(service.scheduler)
    if service.flags:
        table["flags"] = sorted(str(flag) for flag in service.flags)
    table |= said
    if service.persistence:
        table["persistence"] = _persistence(service.persistence, 128 if Family.IPV6 in families(service) else 32)
    for key in ("one_packet", "max_connections", "quorum", "hysteresis", "panic", "all_backups", "pool"):
        if getattr(service, key) != getattr(bare, key):
            table[key] = getattr(service, key)
    if service.on_failure is not bare.on_failure:
        table["on_failure"] = str(service.on_failure)
    if sorry and service.sorry_server:
        name = service.sorry_server.name
        table["sorry_server"] = _short(({} if name == "sorry" else {"name": name}) | sorry)
    return table, {name: _short(host) for name, host in hosts.items()}


def _said_once(hosts: list[Table], sorry: Table | None) -> Table:
    """Takes out of the servers what all of them say, and returns it. The sorry server inherits it too, so it must
    either say the same or be able to say no."""
    said: Table = {}
    if not hosts:
        return said
    for key in ("forwarding", "tunnel", "check", "agent", "slow_start"):
        value = hosts[0].get(key)
        if value is None or any(host.get(key) != value for host in hosts):
            continue
        if key != "slow_start" and sorry is not None and sorry.get(key) != value:
            # Options of a check are inherited one by one: only "no check" overrides them all.
            if key == "tunnel" or key in sorry:
                continue
            sorry[key] = "nat" if key == "forwarding" else False
        elif key != "slow_start" and sorry is not None:
            del sorry[key]
        said[key] = value
        for host in hosts:
            del host[key]
    return said


def _host(server: Server) -> Table:
    bare = Server(name="", address=server.address, port=0)
    table: Table = {"address": write_socket(server.address, server.port)}
    for key in ("weight", "max_connections", "min_connections", "backup", "disabled"):
        if getattr(server, key) != getattr(bare, key):
            table[key] = getattr(server, key)
    if server.forwarding is not bare.forwarding:
        table["forwarding"] = str(server.forwarding)
    if server.tunnel and server.tunnel != Tunnel():
        table["tunnel"] = _tunnel(server.tunnel)
    if server.slow_start:
        table["slow_start"] = write_duration(server.slow_start)
    if server.checks:
        written = [check_value(check) for check in server.checks]
        table["check"] = written[0] if len(written) == 1 else written
    if server.agent:
        table["agent"] = agent_value(server.agent)
    return table


def _short(host: Table) -> Any:
    return host["address"] if len(host) == 1 else host


def _tunnel(tunnel: Tunnel) -> Any:
    if tunnel.checksum is TunnelChecksum.NONE:
        return f"{tunnel.kind}:{tunnel.port}" if tunnel.kind is TunnelKind.GUE else str(tunnel.kind)
    table: Table = {"type": str(tunnel.kind), "checksum": str(tunnel.checksum)}
    return table | ({"port": tunnel.port} if tunnel.port else {})


def _persistence(persistence: Persistence, whole: int) -> Any:
    timeout = write_duration(persistence.timeout)
    table: Table = {"timeout": timeout}
    if persistence.prefix != whole:
        table["prefix"] = persistence.prefix
    if persistence.engine:
        table["engine"] = persistence.engine
    return timeout if len(table) == 1 else table


def _engine(engine: Engine) -> Table:
    bare = Engine()
    table: Table = {}
    if engine.default is not EngineChoice.AUTO:
        table["default"] = str(engine.default)
    if engine.interfaces:
        table["interfaces"] = list(engine.interfaces)
    if engine.loader is not bare.loader:
        table["loader"] = str(engine.loader)
    if engine.mark_base != bare.mark_base:
        table["mark_base"] = _Hexadecimal(engine.mark_base)
    if engine.idle_timeout != bare.idle_timeout:
        table["idle_timeout"] = write_duration(engine.idle_timeout)
    return table


def _addresses(addresses: Addresses) -> Table:
    bare = Addresses()
    table: Table = {}
    if addresses.manage:
        table["manage"] = True
    if addresses.interface != bare.interface:
        table["interface"] = addresses.interface
    if addresses.announce is not bare.announce:
        table["announce"] = str(addresses.announce)
    if addresses.source:
        table["source"] = [str(address) for address in addresses.source]
    if addresses.source_ports is not None:
        table["source_ports"] = str(addresses.source_ports)
    return table


def _timers(timers: Timers) -> Table:
    return {key: write_duration(getattr(timers, key)) for key in ("tcp", "tcp_fin", "udp")}


def _sync(daemon: SyncDaemon) -> Table:
    bare = SyncDaemon(daemon.interface, 0)
    table: Table = {"interface": daemon.interface}
    if daemon.sync_id:
        table["id"] = daemon.sync_id
    if daemon.group != SYNC_GROUP:
        table["group"] = str(daemon.group)
    for key in ("port", "ttl", "max_length"):
        if getattr(daemon, key) != getattr(bare, key):
            table[key] = getattr(daemon, key)
    return table


# --- TOML itself


class _Hexadecimal(int):
    """A number that people read in hexadecimal."""


def _block(header: str, table: Table) -> str:
    lines = [f"{_key(key)} = {_toml(value)}" for key, value in table.items()]
    return "".join(f"{line}\n" for line in ([f"[{header}]"] if header else []) + lines) if lines else ""


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case _Hexadecimal():
            return f"{int(value):#x}"
        case int() | float():
            return repr(value)
        case str():
            return _string(value)
        case dict():
            return "{ " + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + " }"
        case _:
            return "[" + ", ".join(_toml(item) for item in value) + "]"


def _string(value: str) -> str:
    """A literal string where that spares escapes (regular expressions), else a basic one."""
    if "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return '"' + "".join(_escaped(value)) + '"'


def _escaped(value: str) -> Iterator[str]:
    for character in value:
        if character in _ESCAPES:
            yield _ESCAPES[character]
        elif character < " " or character == "\x7f":
            yield f"\\u{ord(character):04x}"
        else:
            yield character
