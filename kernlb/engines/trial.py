"""Whether this kernel's IPVS can do what a service asks: tried in an empty network namespace, where it harms nobody."""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from errno import EAFNOSUPPORT, EEXIST, ENOENT, EPERM
from functools import cache
from ipaddress import IPv4Address, IPv6Address

from kernlb.config.values import AddressBind, MarkBind, Policy, Server, Service
from kernlb.engines.modules import missing
from kernlb.engines.netlink import NetlinkSocket
from kernlb.engines.wire import requests, servers
from kernlb.engines.wire.header import FAMILY_NAME, CommandAttribute
from kernlb.engines.wire.services import ALL_BITS
from kernlb.errors import Unsupported
from kernlb.model import (
    Family,
    Forwarding,
    Fwmark,
    IPAddress,
    Persistence,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    Tunnel,
    VirtualService,
    family_of,
)
from kernlb.plan import Operation, Verb

_CLONE_NEWNET = 0x40000000
_MARK = 1
_SAMPLE_SERVER: dict[Family, IPAddress] = {
    Family.IPV4: IPv4Address("192.0.2.1"),
    Family.IPV6: IPv6Address("2001:db8::1"),
}


def admit(service: Service) -> None:
    """Raises Unsupported for the first thing that IPVS, or this kernel's IPVS, cannot do. Asks the kernel only where
    it may make a namespace (root); without, only what no kernel can do is refused."""
    where = f"service.{service.name}"
    for reason, hint in _impossible(service):
        raise Unsupported(reason, where=where, hint=hint)
    scheduler = Scheduler.WRR if isinstance(service.scheduler, Policy) else service.scheduler
    engine = service.persistence.engine if service.persistence is not None else None
    tunnels = frozenset(server.tunnel or Tunnel() for server in _servers(service) if _is_tunnel(server))
    for family in {_family(bind) for bind in service.binds}:
        try:
            _try(family, scheduler, engine, tunnels)
        except Unsupported as lacking:
            raise Unsupported(lacking.message, where=where, hint=lacking.hint) from lacking


def _impossible(service: Service) -> Iterator[tuple[str, str]]:
    if service.scheduler is Scheduler.MAGLEV:
        yield "IPVS has no scheduler maglev", 'use scheduler = "mh", its own Maglev hashing, or engine = "xdp"'
    if service.one_packet and service.protocol is not Protocol.UDP:
        yield f"one-packet scheduling is for udp, not {service.protocol}", "leave one_packet out"
    for bind in service.binds:
        if isinstance(bind, AddressBind) and bind.last == 0 and service.persistence is None:
            yield "IPVS serves every port of an address only with persistence", "add persistence, or name the ports"
        for server in _servers(service):
            yield from _unfit(server, bind)


def _unfit(server: Server, bind: AddressBind | MarkBind) -> Iterator[tuple[str, str]]:
    mixed = family_of(server.address) is not _family(bind)
    if mixed and not _is_tunnel(server):
        yield (
            f"server {server.name} is not of its service's address family, which IPVS does only with tunnels",
            'use an address of the same family, or forwarding = "tunnel"',
        )
    rewrites = server.forwarding in (Forwarding.NAT, Forwarding.FULLNAT)
    if isinstance(bind, AddressBind) and not rewrites and server.port and not bind.first <= server.port <= bind.last:
        yield (
            f"server {server.name}: forwarding {server.forwarding} cannot change the port",
            "give the server the service's port, or use nat or fullnat",
        )


@cache
def _try(family: Family, scheduler: Scheduler, engine: str | None, tunnels: frozenset[Tunnel]) -> None:
    """What was once found possible stays so; a refusal is asked again, for modules come and go."""
    in_empty_namespace(lambda: _try_here(family, scheduler, engine, tunnels))


def _try_here(family: Family, scheduler: Scheduler, engine: str | None, tunnels: frozenset[Tunnel]) -> None:
    channel = NetlinkSocket()
    try:
        number = channel.family(FAMILY_NAME)
        if number is None:
            raise missing("ip_vs")
        key = Fwmark(family, _MARK)
        plain = VirtualService(scheduler)
        errno = _write(channel, number, Operation(Verb.ADD, key, None, plain))
        if errno == ENOENT:
            raise missing(f"ip_vs_{scheduler}")
        if errno == EAFNOSUPPORT:
            raise Unsupported(
                "no IPv6 in this kernel's IPVS (CONFIG_IP_VS_IPV6), or IPv6 is switched off",
                hint="enable IPv6, or bind IPv4 only",
            )
        if engine is not None:
            persistent = replace(plain, persistence=Persistence(60, ALL_BITS[family], engine))
            if _write(channel, number, Operation(Verb.CHANGE, key, plain, persistent)) == ENOENT:
                raise missing(f"ip_vs_pe_{engine}")
        for tunnel in tunnels:
            _try_tunnel(channel, number, key, tunnel)
    finally:
        channel.close()


def _try_tunnel(channel: NetlinkSocket, number: int, service: Fwmark, tunnel: Tunnel) -> None:
    """Kernels before 5.3 know IPIP alone and ignore what else a request says: only reading back tells."""
    server = ServerKey(service, _SAMPLE_SERVER[service.family], 0)
    want = RealServer(Forwarding.TUNNEL, 1, tunnel=tunnel)
    if _write(channel, number, Operation(Verb.ADD, server, None, want)) == EEXIST:
        _write(channel, number, Operation(Verb.CHANGE, server, None, want))
    have = [
        servers.decode_server(service, requests.sole(payload, CommandAttribute.DEST))[1]
        for payload in channel.dump(number, requests.list_servers(service))
    ]
    if have and have != [want]:
        raise Unsupported(
            f"this kernel's IPVS has no {tunnel.kind} tunnels with checksum {tunnel.checksum}",
            hint='use kind = "ipip" without checksum, or Linux 5.3 or later',
        )


def _write(channel: NetlinkSocket, number: int, operation: Operation) -> int:
    refused = channel.write(number, [body for _, body in requests.encode([operation])])
    return 0 if refused is None else refused.errno


def in_empty_namespace(work: Callable[[], None]) -> None:
    """Run `work` in a new network namespace, which ends with it; not at all where that is not allowed."""
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            # Of this thread alone, and the thread does not outlive the work: nobody else moves.
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                errno = ctypes.get_errno()
                if errno != EPERM:
                    raise OSError(errno, os.strerror(errno))
                return
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=enter, name="ipvs-trial")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _servers(service: Service) -> tuple[Server, ...]:
    return service.servers if service.sorry_server is None else (*service.servers, service.sorry_server)


def _is_tunnel(server: Server) -> bool:
    return server.forwarding is Forwarding.TUNNEL


def _family(bind: AddressBind | MarkBind) -> Family:
    if isinstance(bind, MarkBind):
        return bind.family
    return bind.address if isinstance(bind.address, Family) else family_of(bind.address)
