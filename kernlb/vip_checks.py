"""Checks through the VIP: at which VIPs a direct or tunnel server is asked, and what leads each probe to it. Pure.

A director that holds a VIP would answer a probe of it itself. So probes of each server carry a mark of its own, and an
internal virtual service of that mark, with this one real server, takes them the way of the traffic.
"""

from dataclasses import dataclass, replace

from kernlb.checks.spec import AgentProbe, BfdProbe, Check, CommandProbe, FileProbe, PingProbe, Probe
from kernlb.config.values import AddressBind, Config, Server, Service
from kernlb.errors import Unsupported
from kernlb.marks import assign
from kernlb.model import (
    EngineName,
    Family,
    Forwarding,
    Fwmark,
    IPAddress,
    RealServer,
    SysctlKey,
    Tunnel,
    family_of,
)
from kernlb.pool import ServerName
from kernlb.ratings import all_servers

ACCEPT_LOCAL = SysctlKey("net.ipv4.conf.all.accept_local")
"""Answers come from the VIP, an address of the director itself: without it the kernel takes them for forged. IPv6 asks
for no such thing. Strict reverse path filtering (rp_filter = 1) refuses them still."""

PATHLESS: tuple[type[Probe], ...] = (PingProbe, CommandProbe, FileProbe, AgentProbe, BfdProbe)
"""Probes that no virtual service carries, or that ask something else than the service."""


@dataclass(frozen=True, slots=True)
class Way:
    """How the probes of one server get to it. `vips` with the port that each is bound to."""

    name: ServerName
    server: Server
    mark: int
    vips: tuple[tuple[IPAddress, int], ...]

    def probes(self, check: Check) -> tuple[Check, ...]:
        """What a configured check becomes: one for each VIP and port, where it goes through the VIP."""
        if not check.via_vip:
            return (check,)
        toward = self.server.address if check.bind_address is None else None
        asked = dict.fromkeys((vip, check.port or self.server.port or port) for vip, port in self.vips)
        return tuple(replace(check, address=vip, port=port, mark=self.mark, toward=toward) for vip, port in asked)

    @property
    def service(self) -> Fwmark:
        """The internal virtual service."""
        return Fwmark(family_of(self.server.address), self.mark)

    @property
    def real_server(self) -> RealServer:
        forwarding = self.server.forwarding
        tunnel = (self.server.tunnel or Tunnel()) if forwarding is Forwarding.TUNNEL else None
        return RealServer(forwarding, 1, tunnel=tunnel)

    def require(self, engine: EngineName) -> None:
        """Raises Unsupported where another engine than IPVS carries the service."""
        if engine is not EngineName.IPVS:
            service, server = self.name
            raise Unsupported(
                "a check through the VIP needs IPVS: the eBPF program does not see what the director itself sends",
                where=f"service.{service}.servers.{server}.check.via_vip",
                hint='leave via_vip out, or write engine = "ipvs" where the kernel has it',
            )


def ways(config: Config) -> dict[ServerName, Way]:
    """Of every server with a check that goes through the VIP."""
    found = {
        (service.name, server.name): (server, vips(service, server))
        for service in config.services
        for server in all_servers(service)
        if any(check.via_vip for check in server.checks)
    }
    if not found:
        return {}
    base = config.engine.mark_base
    taken = assign((service.name for service in config.services), base=base).values()
    marks = assign(("/".join(name) for name in found), base=base, beside=set(taken))
    return {name: Way(name, server, marks["/".join(name)], bound) for name, (server, bound) in found.items()}


def vips(service: Service, server: Server) -> tuple[tuple[IPAddress, int], ...]:
    """Each VIP of the server's family with its first port; empty where the service is bound to none."""
    found = {
        (bind.address, bind.first): None
        for bind in service.binds
        if isinstance(bind, AddressBind)
        and not isinstance(bind.address, Family)
        and family_of(bind.address) is family_of(server.address)
    }
    return tuple(found)
