"""Rules and Configs: what a table without names is called, and what of a Config no rule can say."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kernlb.config.values import AddressBind, Config, MarkBind, Policy, Server, Service
from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Forwarding,
    Fwmark,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    ServiceKey,
    Tunnel,
    VirtualService,
    family_of,
)


def as_service(key: ServiceKey, value: VirtualService, pool: Sequence[tuple[ServerKey, RealServer]]) -> Service:
    """A virtual service under a name made of its address."""
    bind = MarkBind(key.family, key.mark) if isinstance(key, Fwmark) else AddressBind(key.address, key.port, key.port)
    return Service(
        name=service_name(key),
        binds=(bind,),
        protocol=key.protocol if isinstance(key, Endpoint) else Protocol.TCP,
        scheduler=Scheduler(value.scheduler),
        flags=value.flags,
        persistence=value.persistence,
        one_packet=value.one_packet,
        servers=tuple(
            Server(
                name=f"{server.address}-{server.port}",
                address=server.address,
                port=server.port,
                weight=real.weight,
                forwarding=real.forwarding,
                tunnel=real.tunnel,
                max_connections=real.upper_threshold,
                min_connections=real.lower_threshold,
            )
            for server, real in pool
        ),
    )


def service_name(key: ServiceKey) -> str:
    """What a virtual service without a name of people's choosing is called."""
    if isinstance(key, Fwmark):
        return f"fwmark-{key.mark}" + ("-ipv6" if key.family is Family.IPV6 else "")
    return f"{key.protocol}-{key.address}-{key.port}"


def entries(config: Config) -> Iterator[tuple[ServiceKey | ServerKey, VirtualService | RealServer]]:
    for service in config.services:
        scheduler = service.scheduler
        if isinstance(scheduler, Policy):
            scheduler = Scheduler.WRR
        elif scheduler is Scheduler.MAGLEV:
            scheduler = Scheduler.MH
        for key in _keys(service):
            persistence = service.persistence
            if persistence is not None and key.family is Family.IPV4 and persistence.prefix > 32:
                persistence = replace(persistence, prefix=32)
            yield key, VirtualService(scheduler, service.flags, persistence, service.one_packet)
            for server in service.servers:
                if not server.backup and (family_of(server.address) is key.family or server.tunnel):
                    weight = 0 if server.disabled else server.weight
                    tunnel = server.tunnel
                    if server.forwarding is Forwarding.TUNNEL and tunnel is None:
                        tunnel = Tunnel()
                    forwarding = Forwarding.NAT if server.forwarding is Forwarding.FULLNAT else server.forwarding
                    limits = (server.max_connections, server.min_connections)
                    real = RealServer(forwarding, weight, *limits, tunnel)
                    yield ServerKey(key, server.address, server.port), real


def _keys(service: Service) -> Iterator[ServiceKey]:
    for bind in service.binds:
        match bind:
            case MarkBind(family=family, mark=mark):
                yield Fwmark(family, mark)
            case AddressBind(address=Family()):
                pass
            case AddressBind(address=address, first=first, last=last) if not isinstance(address, Family):
                for port in range(first, last + 1):
                    yield Endpoint(EngineName.IPVS, service.protocol, address, port)


def _unsaid(config: Config) -> Iterator[str]:
    if config.max_connections is not None:
        yield f"max_connections {config.max_connections} of all services"
    if config.timers is not None:
        timers = config.timers
        yield f"timers: run `ipvsadm --set {timers.tcp} {timers.tcp_fin} {timers.udp}`"
    if config.sync:
        yield "synchronisation daemons: run `ipvsadm --start-daemon`"
    for service in config.services:
        where = f"service {service.name}: "
        if any(isinstance(bind, AddressBind) and isinstance(bind.address, Family) for bind in service.binds):
            yield f"{where}wildcard binds need a firewall mark set by nftables"
        if isinstance(service.scheduler, Policy) or service.scheduler is Scheduler.MAGLEV:
            yield f"{where}scheduler {service.scheduler}"
        if any(server.forwarding is Forwarding.FULLNAT for server in service.servers):
            yield f"{where}fullnat: masquerade its connections with nftables, and set net.ipv4.vs.conntrack=1"
        if service.max_connections is not None:
            yield f"{where}max_connections {service.max_connections}"
        if service.sorry_server is not None or any(server.backup for server in service.servers):
            yield f"{where}sorry and backup servers"
        if any(server.probed for server in service.servers):
            yield f"{where}checks"


def unsaid(config: Config) -> tuple[str, ...]:
    """What of a Config no rule of ipvsadm says, a line each."""
    return tuple(dict.fromkeys(_unsaid(config)))
