"""What one service is as virtual services and real servers of its engine. Pure; knows nothing of the namespace."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from kernlb.config.notation import write_bind
from kernlb.config.values import AddressBind, Bind, MarkBind, Server, Service
from kernlb.marks import SPAN
from kernlb.model import (
    Bounds,
    Endpoint,
    EngineName,
    Family,
    Forwarding,
    Fwmark,
    IPAddress,
    Key,
    Persistence,
    RealServer,
    Scheduler,
    SchedulerFlag,
    ServerKey,
    ServiceKey,
    Tunnel,
    Value,
    VirtualService,
    family_of,
)
from kernlb.pool import Member, Pool

_FEWEST = frozenset({Scheduler.LC, Scheduler.WLC, Scheduler.TWOS})
_BITS = {Family.IPV4: 32, Family.IPV6: 128}


@dataclass(frozen=True, slots=True)
class Name:
    """What people call a key: its service, its server, the bind and the scheduling policy as configured. `check`: it is
    there for checks only."""

    service: str
    server: str | None = None
    bind: str | None = None
    policy: str | None = None
    check: bool = False

    def __str__(self) -> str:
        return self.service if self.server is None else f"{self.service}/{self.server}"


@dataclass(slots=True)
class Balanced:
    """Virtual services, real servers, their names, and the real servers that are out."""

    table: dict[Key, Value] = field(default_factory=dict)
    names: dict[Key, Name] = field(default_factory=dict)
    absent: set[ServerKey] = field(default_factory=set)


def balance(
    result: Balanced, service: Service, pool: Pool, engine: EngineName, number: int, *, together: int | None = None
) -> None:
    """Adds what a service wants for its pool; `number` is its mark, where it needs one, `together` how many
    connections all services may have."""
    if engine is EngineName.IPVS:
        _ipvs(result, service, pool, number)
    else:
        _xdp(result, service, pool, _bounds(service, number, together))


def _ipvs(result: Balanced, service: Service, pool: Pool, number: int) -> None:
    for key, binds in by_service(service, number):
        result.table[key] = VirtualService(
            _scheduler(service), service.flags, _persistence(service, key.family), service.one_packet
        )
        bound = ", ".join(write_bind(bind) for bind in binds)
        result.names[key] = Name(service.name, bind=bound, policy=service.scheduler)
        _populate(result, service, key, pool, fullnat=False)


def _xdp(result: Balanced, service: Service, pool: Pool, bounds: Bounds | None) -> None:
    for bind in service.binds:
        if not isinstance(bind, AddressBind):
            continue
        for port in range(bind.first, bind.last + 1):
            key = Endpoint(EngineName.XDP, service.protocol, bind.address, port)
            result.table[key] = VirtualService(
                _hashing(service), persistence=_persistence(service, key.family), bounds=bounds
            )
            own = write_bind(replace(bind, first=port, last=port))  # of a range, each port has its own counters
            result.names[key] = Name(service.name, bind=own, policy=service.scheduler)
            _populate(result, service, key, pool, fullnat=True)


def _populate(result: Balanced, service: Service, key: ServiceKey, pool: Pool, *, fullnat: bool) -> None:
    """The real servers of one virtual service. `fullnat`: the engine itself knows it."""
    for member in pool.members:
        if reachable(member.server, key):
            server_key = ServerKey(key, member.server.address, member.server.port)
            result.table[server_key] = _real_server(member, fullnat=fullnat)
            result.names[server_key] = Name(service.name, member.server.name)
    if pool.out:
        present = {member.server.name for member in pool.members}
        for server in (*service.servers, *filter(None, (service.sorry_server,))):
            if server.name in pool.out and server.name not in present:
                result.absent.add(ServerKey(key, server.address, server.port))


def reachable(server: Server, service: ServiceKey) -> bool:
    """Only a tunnel carries one family in the other."""
    return family_of(server.address) is service.family or server.forwarding is Forwarding.TUNNEL


def by_service(service: Service, number: int) -> Iterator[tuple[ServiceKey, list[Bind]]]:
    """The virtual services of IPVS that a service needs, each with its binds.

    IPVS knows neither wildcards nor port ranges: where a family has one, all its binds share one mark.
    """
    for family in Family:
        binds = [b for b in service.binds if isinstance(b, AddressBind) and _family(b.address) is family]
        if any(isinstance(b.address, Family) or b.first != b.last or b.first == 0 for b in binds):
            yield Fwmark(family, number), list(binds)
        else:
            for bind in binds:
                assert not isinstance(bind.address, Family)
                yield Endpoint(EngineName.IPVS, service.protocol, bind.address, bind.first), [bind]
    for marked in service.binds:
        if isinstance(marked, MarkBind):
            yield Fwmark(marked.family, marked.mark), [marked]


def _family(address: IPAddress | Family) -> Family:
    return address if isinstance(address, Family) else family_of(address)


def _bounds(service: Service, mark: int, together: int | None) -> Bounds | None:
    if service.max_connections is None and together is None:
        return None
    return Bounds(mark % SPAN, service.max_connections or 0, together or 0)


def _hashing(service: Service) -> Scheduler:
    """The program hashes connections, or clients where that is asked for: IPVS calls it sh or mh without port. Of full
    NAT it knows the connections, and looks for who has few."""
    if service.scheduler in (Scheduler.SH, Scheduler.MH) and SchedulerFlag.PORT not in service.flags:
        return Scheduler.SH
    known = any(server.forwarding is Forwarding.FULLNAT for server in service.servers)
    return Scheduler.TWOS if known and service.scheduler in _FEWEST else Scheduler.MAGLEV


def _scheduler(service: Service) -> Scheduler:
    match service.scheduler:
        case Scheduler.MAGLEV:
            return Scheduler.MH
        case Scheduler():
            return service.scheduler
        case _:
            return Scheduler.WRR


def _persistence(service: Service, family: Family) -> Persistence | None:
    """One prefix is configured for both families; IPv4 has no more than 32 bits."""
    kept = service.persistence
    return replace(kept, prefix=min(kept.prefix, _BITS[family])) if kept else None


def _real_server(member: Member, *, fullnat: bool = False) -> RealServer:
    server: Server = member.server
    # IPVS has no fullnat of its own: there it is nat, and nftables changes the source.
    forwarding = Forwarding.NAT if server.forwarding is Forwarding.FULLNAT and not fullnat else server.forwarding
    lower = server.min_connections or server.max_connections * 3 // 4
    tunnel = (server.tunnel or Tunnel()) if forwarding is Forwarding.TUNNEL else None
    return RealServer(forwarding, member.weight, server.max_connections, lower, tunnel)
