"""What works, but probably not as meant. Said by `validate` and `plan`; refuses nothing."""

from collections.abc import Iterator

from kernlb.checks.spec import BfdProbe, PingProbe, TcpProbe
from kernlb.config.findings import Finding
from kernlb.config.laws import families
from kernlb.config.values import Config, EngineChoice, Policy, Service
from kernlb.model import Family, Forwarding, Scheduler, SchedulerFlag, family_of

_PAUSE = 0.25
"""Seconds for which a busy director may say nothing."""
_SAID = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}


def advice(config: Config) -> Iterator[Finding]:
    for service in config.services:
        yield from _about(service)
        if config.sync and any(server.forwarding is Forwarding.FULLNAT for server in service.servers):
            wrong = "its full NAT connections break when another director takes over: [sync] carries no conntrack"
            yield Finding(("service", service.name), wrong, "nat, direct and tunnel connections go on")


def _about(service: Service) -> Iterator[Finding]:
    path = ("service", service.name)
    if not service.servers:
        yield Finding(path, "no real server: its clients are refused", "write servers")
        return
    if all(server.backup for server in service.servers):
        yield Finding((*path, "servers"), "every server is a backup of none", "leave backup out at one of them")
    reached = {family_of(server.address) for server in service.servers}
    if not any(server.forwarding is Forwarding.TUNNEL for server in service.servers):
        for family in sorted(families(service) - reached):
            wrong = f"no {_SAID[family]} server: clients of its {_SAID[family]} binds are refused"
            yield Finding((*path, "bind"), wrong, f"add {_SAID[family]} servers, or leave the bind out")
    if service.one_packet and any(s.forwarding in (Forwarding.NAT, Forwarding.FULLNAT) for s in service.servers):
        # A connection of one packet is gone before its answer comes back to be translated.
        wrong = "answers keep the real server's address, because IPVS remembers nothing of a single packet"
        yield Finding((*path, "one_packet"), wrong, 'use forwarding = "direct", or leave one_packet out')
    for server in service.servers:
        for probe in [check.probe for check in server.checks if isinstance(check.probe, BfdProbe)]:
            if (silence := probe.multiplier * probe.min_tx) < _PAUSE:
                wrong = f"a director that is busy for {silence:g} s is dead to this server, which takes BFD down"
                yield Finding((*path, "servers", server.name, "check"), wrong, 'write min_tx = "100ms" or more')
    unforgiving = service.scheduler is Scheduler.DH or (
        service.scheduler is Scheduler.SH and SchedulerFlag.FALLBACK not in service.flags
    )
    if unforgiving and service.engine is not EngineChoice.XDP:
        # ip_vs_sh_schedule() and ip_vs_dh_schedule() find nobody where the hash leads to a server of weight 0.
        wrong = f"while a server drains, {service.scheduler} of IPVS refuses the clients whose hash leads to it"
        way_out = 'flags = ["fallback"]' if service.scheduler is Scheduler.SH else 'scheduler = "mh"'
        yield Finding((*path, "scheduler"), wrong, f"write {way_out}")
    if isinstance(service.scheduler, Policy) and any(
        server.timed and isinstance(server.timed.probe, TcpProbe | PingProbe) for server in service.servers
    ):
        wrong = f"{service.scheduler} sees the network's time in this check, not the application's"
        yield Finding((*path, "scheduler"), wrong, 'write check = { type = "http", path = "/..." }')
