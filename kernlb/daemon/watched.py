"""Whom the checker is to check, and whose answers bypass this host."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kernlb.config.values import Config, Policy
from kernlb.entries import Watched
from kernlb.model import EngineName, Forwarding, ServerKey
from kernlb.pool import ServerName
from kernlb.ratings import all_servers
from kernlb.vip_checks import ways


def watched(config: Config) -> Iterable[Watched[ServerName]]:
    """Every server with a check, under its configured names."""
    through_vips = ways(config)
    for service in config.services:
        timed = isinstance(service.scheduler, Policy)
        for server in all_servers(service):
            way = through_vips.get((service.name, server.name))
            checks = server.probed
            if way is not None:
                checks = tuple(probe for check in checks for probe in way.probes(check))
            if checks:
                yield Watched(
                    key=(service.name, server.name),
                    address=server.address,
                    port=server.port or _port_of(service.binds),
                    checks=checks,
                    pool=service.name,
                    timed=timed and not server.backup,
                )


def bypassing(config: Config, servers: Mapping[ServerName, Sequence[ServerKey]]) -> bool:
    """Whether IPVS forwards to any of these in a way that it does not see the answers."""
    return any(
        server.forwarding in (Forwarding.DIRECT, Forwarding.TUNNEL)
        and any(key.service.engine is EngineName.IPVS for key in servers.get((service.name, server.name), ()))
        for service in config.services
        for server in all_servers(service)
    )


def _port_of(binds: Iterable[Any]) -> int:
    """A server of port 0 is asked on the port that its service is bound to."""
    return next((bind.first for bind in binds if getattr(bind, "first", 0)), 0)
