"""The keys of a file to a Config: who inherits what, every default filled in. What contradicts what is for `laws`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kernlb.checks.spec import Check, CheckKind
from kernlb.config.check_build import Layer, build_check, build_checks
from kernlb.config.findings import Finding, Path
from kernlb.config.keys import (
    DefaultKeys,
    Document,
    HostKeys,
    PersistenceKeys,
    ServerKeys,
    ServiceKeys,
    SyncDaemonKeys,
    TunnelKeys,
)
from kernlb.config.laws import family_of_bind, family_of_marks
from kernlb.config.notation import BareMark, Wrong, read_address
from kernlb.config.values import (
    MARK_BASE,
    AddressBind,
    Addresses,
    Bind,
    Config,
    Engine,
    EngineChoice,
    MarkBind,
    Metrics,
    OnFailure,
    Server,
    Service,
)
from kernlb.model import (
    SYNC_GROUP,
    Family,
    Forwarding,
    Persistence,
    Scheduler,
    SyncDaemon,
    SyncKey,
    SyncRole,
    Timers,
    Tunnel,
    TunnelKind,
)


def build(document: Document) -> tuple[Config, list[Finding]]:
    """The Config, and what is wrong in single tables. With findings the Config is for cross-checking only."""
    builder = _Builder(document.defaults)
    services = tuple(builder.service(name, keys) for name, keys in document.service.items())
    engine, addresses, timers = document.engine, document.addresses, document.timers
    config = Config(
        services=services,
        engine=Engine(
            default=engine.default or EngineChoice.AUTO,
            interfaces=tuple(engine.interfaces),
            loader=engine.loader,
            mark_base=MARK_BASE if engine.mark_base is None else engine.mark_base,
            idle_timeout=engine.idle_timeout,
        ),
        addresses=Addresses(
            manage=addresses.manage,
            interface=addresses.interface,
            announce=addresses.announce,
            source=tuple(addresses.source),
            source_ports=addresses.source_ports,
        ),
        max_connections=document.max_connections,
        timers=Timers(timers.tcp, timers.tcp_fin, timers.udp) if timers else None,
        sync=tuple(
            (SyncKey(role), _sync(keys))
            for role, keys in ((SyncRole.MASTER, document.sync.master), (SyncRole.BACKUP, document.sync.backup))
            if keys
        ),
        metrics=Metrics(address=document.metrics.listen[0], port=document.metrics.listen[1])
        if document.metrics
        else None,
    )
    return config, list(dict.fromkeys(builder.findings))


def port_of(binds: Sequence[Bind]) -> int:
    """The one port that clients ask for, or 0 where there are several or it is not known."""
    ports = {(bind.first, bind.last) if isinstance(bind, AddressBind) else (0, 0) for bind in binds}
    (first, last), *others = ports or {(0, 0)}
    return first if first == last and not others else 0


class _Builder:
    def __init__(self, defaults: DefaultKeys) -> None:
        self.defaults = defaults
        self.findings: list[Finding] = []

    def service(self, name: str, keys: ServiceKeys) -> Service:
        path: Path = ("service", name)
        checks = self.layers(keys, path, "check")
        agents = self.layers(keys, path, "agent")
        found, agent = build_checks(checks, self.findings), self.agent(agents)

        def server(called: str, host: HostKeys, where: Path) -> Server:
            own = host.model_fields_set
            return self.server(
                called,
                host,
                where,
                keys,
                build_checks([*checks, ((*where, "check"), host.check)], self.findings) if "check" in own else found,
                self.agent([*agents, ((*where, "agent"), host.agent)]) if "agent" in own else agent,
            )

        servers = [server(called, host, (*path, "servers", called)) for called, host in keys.servers.items()]
        stand_in = keys.sorry_server
        sorry = server(stand_in.name, stand_in, (*path, "sorry_server")) if stand_in else None
        derived = family_of_marks(servers, keys.bind)
        binds = tuple(MarkBind(derived, bind.mark) if isinstance(bind, BareMark) else bind for bind in keys.bind)
        if port := port_of(binds):
            servers = [_at(server, port) for server in servers]
            sorry = sorry and _at(sorry, port)
        return Service(
            name=name,
            binds=binds,
            protocol=keys.protocol,
            engine=keys.engine or EngineChoice.AUTO,
            scheduler=self.inherited(keys, "scheduler", Scheduler.WRR),
            flags=frozenset(self.inherited(keys, "flags", ())),
            persistence=self.persistence(keys, binds, path),
            one_packet=keys.one_packet,
            max_connections=keys.max_connections,
            servers=tuple(servers),
            sorry_server=sorry,
            quorum=self.inherited(keys, "quorum", 1),
            hysteresis=self.inherited(keys, "hysteresis", 0),
            panic=self.inherited(keys, "panic", 0.0),
            on_failure=self.inherited(keys, "on_failure", OnFailure.REMOVE),
            pool=keys.pool,
            all_backups=self.inherited(keys, "all_backups", False),
        )

    def inherited(self, keys: DefaultKeys, key: str, default: Any) -> Any:
        """What the service says, else [defaults], else the default. A written false is a word, not a silence."""
        for layer in (keys, self.defaults):
            value = getattr(layer, key)
            if value is not None or (key == "persistence" and key in layer.model_fields_set):
                return value
        return default

    def layers(self, keys: ServiceKeys, path: Path, key: str) -> list[tuple[Path, Any]]:
        written: list[tuple[Path, DefaultKeys]] = [(("defaults", key), self.defaults), ((*path, key), keys)]
        return [(where, getattr(layer, key)) for where, layer in written if key in layer.model_fields_set]

    def agent(self, layers: Sequence[Layer]) -> Check | None:
        agent = build_check(layers, self.findings, default=CheckKind.AGENT)
        if agent is not None and agent.port is None:
            self.findings.append(Finding(layers[-1][0], "an agent has a port of its own", "write agent = 9999"))
        return agent

    def server(
        self,
        name: str,
        keys: HostKeys,
        path: Path,
        service: ServiceKeys,
        checks: tuple[Check, ...],
        agent: Check | None,
    ) -> Server:
        address, port = keys.address
        if keys.port is not None:
            if port is not None:
                self.findings.append(
                    Finding((*path, "port"), "the address already names a port", "keep one of the two")
                )
            port = keys.port
        forwarding = keys.forwarding or self.inherited(service, "forwarding", Forwarding.NAT)
        if keys.tunnel is not None and forwarding is not Forwarding.TUNNEL:
            wrong = f"forwarding is {forwarding}, which uses no tunnel"
            self.findings.append(Finding((*path, "tunnel"), wrong, 'write forwarding = "tunnel", or leave it out'))
        tunnel = self.tunnel(keys, path, service) if forwarding is Forwarding.TUNNEL else None
        slow_start, backup, disabled = 0.0, False, False
        if isinstance(keys, ServerKeys):
            slow_start = self.inherited(service, "slow_start", 0.0) if keys.slow_start is None else keys.slow_start
            backup, disabled = keys.backup, keys.disabled
        return Server(
            name=name,
            address=address,
            port=port or 0,
            weight=1 if keys.weight is None else keys.weight,
            forwarding=forwarding,
            tunnel=tunnel,
            max_connections=keys.max_connections or 0,
            min_connections=keys.min_connections or 0,
            backup=backup,
            disabled=disabled,
            slow_start=slow_start,
            checks=checks,
            agent=agent,
        )

    def tunnel(self, keys: HostKeys, path: Path, service: ServiceKeys) -> Tunnel:
        written: list[tuple[Path, TunnelKeys | None]] = [
            (path, keys.tunnel),
            (("service", *path[1:2]), service.tunnel),
            (("defaults",), self.defaults.tunnel),
        ]
        for where, tunnel in written:
            if tunnel is not None:
                return Tunnel(tunnel.type, self.tunnel_port((*where, "tunnel"), tunnel), tunnel.checksum)
        return Tunnel()

    def tunnel_port(self, path: Path, keys: TunnelKeys) -> int:
        gue = keys.type is TunnelKind.GUE
        if gue and keys.port is None:
            self.findings.append(Finding(path, "gue needs the UDP port of the server", 'write "gue:6080"'))
        if not gue and keys.port is not None:
            self.findings.append(Finding((*path, "port"), f"{keys.type} has no port", "leave it out"))
            return 0
        return keys.port or 0

    def persistence(self, keys: ServiceKeys, binds: Sequence[Bind], path: Path) -> Persistence | None:
        written: PersistenceKeys | None = self.inherited(keys, "persistence", None)
        if written is None:
            return None
        here = (*(path if "persistence" in keys.model_fields_set else ("defaults",)), "persistence")
        whole = 128 if any(family_of_bind(bind) is Family.IPV6 for bind in binds) else 32
        prefix = written.prefix
        if written.mask is not None:
            if prefix is not None:
                self.findings.append(Finding((*here, "mask"), "prefix says the same", "keep one of the two"))
            try:
                prefix = _prefix(written.mask)
            except Wrong as wrong:
                self.findings.append(Finding((*here, "mask"), wrong.message, wrong.hint))
        return Persistence(written.timeout, prefix or whole, None if written.engine is None else str(written.engine))


def _at(server: Server, port: int) -> Server:
    """A server without a port, where clients ask for one port only: it is the server's too, and checked there."""
    if server.port:
        return server
    return replace(server, port=port)


def _prefix(mask: str) -> int:
    bits = int(read_address(mask))
    width = 128 if ":" in mask else 32
    prefix = bits.bit_count()
    if not prefix or bits != (1 << width) - (1 << (width - prefix)):
        raise Wrong(f'"{mask[:60]}" is not a netmask', hint='write "255.255.255.0", or prefix = 24')
    return prefix


def _sync(keys: SyncDaemonKeys) -> SyncDaemon:
    return SyncDaemon(keys.interface, keys.id, keys.group or SYNC_GROUP, keys.port, keys.ttl, keys.max_length)
