"""Which services the eBPF program can carry, asked of a configuration before anything is wanted of a kernel."""

from collections.abc import Iterator

from kernlb.config.values import AddressBind, MarkBind, Policy, Service
from kernlb.errors import Unsupported
from kernlb.model import Family, Forwarding, Protocol, Scheduler, TunnelKind

WHOLE = (32, 128)
HASHED = frozenset({
    Scheduler.RR, Scheduler.WRR, Scheduler.LC, Scheduler.WLC, Scheduler.SH, Scheduler.MH, Scheduler.MAGLEV,
    Scheduler.TWOS,
})  # fmt: skip
"""What weighted hashing may stand for: they share by weight and promise no order."""


def admit(service: Service) -> None:
    """Raises Unsupported for the first thing that the program cannot do."""
    for reason, hint in _impossible(service):
        raise Unsupported(
            f"engine xdp: {reason}",
            where=f"service.{service.name}",
            hint=f'{hint}, or engine = "ipvs" where there is IPVS',
        )


def _impossible(service: Service) -> Iterator[tuple[str, str]]:
    if service.protocol not in (Protocol.TCP, Protocol.UDP):
        yield f"it carries tcp and udp, not {service.protocol}", "leave the service out"
    if not isinstance(service.scheduler, Policy) and service.scheduler not in HASHED:
        yield f"it has no scheduler {service.scheduler}", 'write scheduler = "maglev"'
    if service.one_packet:
        yield "it hashes flows, never single datagrams", "leave one_packet out"
    kept = service.persistence
    if kept is not None and (kept.prefix not in WHOLE or kept.engine is not None):
        yield "clients stay on their server by whole addresses only", "leave prefix and engine out of persistence"
    for bind in service.binds:
        if isinstance(bind, MarkBind):
            yield "it runs before marks are set", "bind the address"
        elif isinstance(bind, AddressBind) and isinstance(bind.address, Family) and not bind.last:
            yield "every port of every local address would take what this machine answers itself", "name the ports"
    for server in (*service.servers, *filter(None, (service.sorry_server,))):
        if server.forwarding is Forwarding.NAT:
            yield f"server {server.name}: it has no forwarding nat", 'write forwarding = "fullnat"'
        if server.tunnel is not None and server.tunnel.kind is TunnelKind.GRE:
            yield f"server {server.name}: it makes no GRE tunnels", 'write kind = "ipip" or "gue"'
        if server.max_connections and server.forwarding is not Forwarding.FULLNAT:
            past = f"server {server.name}: it does not see the connections of {server.forwarding} servers end"
            yield past, "leave max_connections out"
