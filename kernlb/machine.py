"""This machine's kernel, put together from its engines, and what a configuration means on it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from kernlb.config.values import AddressBind, Config, Service, chosen_engine
from kernlb.desired import SYSCTLS, Meaning
from kernlb.engines import Engine, pins
from kernlb.engines.absent import Absent
from kernlb.engines.admission import admit
from kernlb.engines.carried import Wish, from_text
from kernlb.engines.check_timeouts import ConntrackOfChecks, Tracking, kept
from kernlb.engines.ipvs import Ipvs
from kernlb.engines.nexthops import ports
from kernlb.engines.nftables import Nftables, ruleset
from kernlb.engines.sysctls import Sysctls
from kernlb.errors import Unsupported
from kernlb.kernel import Kernel
from kernlb.listeners import listeners
from kernlb.model import Endpoint, EngineName, Family, MarkKey, VipKey
from kernlb.ownership import Ownership
from kernlb.places import namespace_inode
from kernlb.pool import Override, Rating, ServerName, pool
from kernlb.ports import PortRange
from kernlb.ratings import translated
from kernlb.reconciler import Wanted
from kernlb.vip_checks import ways


def open_kernel(config: Config, owned: Ownership, *, lasting: bool = False, force: bool = False) -> Kernel:
    """The engines of the network namespace this process is in. `lasting`: the process stays to tend them. `force`:
    somebody else's XDP program may be displaced."""
    interfaces = {key.interface for key in owned.claimed if isinstance(key, VipKey)}
    if config.addresses.manage:
        interfaces.add(config.addresses.interface)
    others: list[Engine] = [
        Nftables(mark_base=config.engine.mark_base),
        ConntrackOfChecks(),
        Sysctls(tuple(key.name for key in SYSCTLS)),
    ]
    if interfaces:
        # pyroute2 takes longer to load than everything else together.
        from kernlb.engines.vips import Vips

        others.append(Vips(sorted(interfaces)))
    balancers = {EngineName.IPVS: _ipvs()}
    carried = any(key.engine is EngineName.XDP for key in owned.claimed if isinstance(key, Endpoint))
    if carried or pins.exists() or EngineName.XDP in chosen(config).values():
        # numpy is loaded with it.
        from kernlb.engines.xdp import Xdp

        told = wish(config) if config.services else None
        loader = config.engine.loader
        balancers[EngineName.XDP] = Xdp(pins.directory(), wish=told, loader=loader, lasting=lasting, force=force)
    return Kernel(balancers, others)


def wish(config: Config) -> Wish:
    """What the eBPF engine is told beside the Table."""
    idle = config.engine.idle_timeout
    told = Wish(
        interfaces=config.engine.interfaces,
        sources=config.addresses.source,
        ports=config.addresses.source_ports,
        idle=idle,
        tcp=idle,
    )
    if config.timers is None:
        return told
    return replace(told, tcp=config.timers.tcp, tcp_fin=config.timers.tcp_fin, udp=config.timers.udp)


def chosen(config: Config) -> dict[str, EngineName]:
    """The engine of each service on this machine. That of a live service never changes by itself: what the eBPF
    program carries it keeps, though a kernel with IPVS has been booted or its module been loaded since."""
    ipvs = not isinstance(_ipvs(), Absent) if config.services else False
    live = _live() if ipvs else frozenset()
    return {
        service.name: chosen_engine(service, config, ipvs_available=ipvs and live.isdisjoint(_endpoints(service)))
        for service in config.services
    }


def _live() -> frozenset[Endpoint]:
    """What the eBPF program carries in this namespace."""
    ledger = pins.Ledger.open(pins.directory())
    if ledger is None:
        return frozenset()
    try:
        text = ledger.read()
        book = from_text(text) if text is not None else None
    except (ValueError, KeyError, TypeError):
        return frozenset()
    finally:
        ledger.close()
    return frozenset(book.services) if book is not None and book.namespace == namespace_inode() else frozenset()


def _endpoints(service: Service) -> Iterator[Endpoint]:
    for bind in service.binds:
        if isinstance(bind, AddressBind):
            yield Endpoint(EngineName.XDP, service.protocol, bind.address, bind.first)


def _ipvs() -> Engine:
    try:
        return Ipvs()
    except Unsupported as error:
        return Absent(Ipvs.handles, error)


def wanted(
    config: Config,
    *,
    ratings: Mapping[ServerName, Rating] | None = None,
    overrides: Mapping[ServerName, Override] | None = None,
    owned: Ownership,
) -> Wanted:
    """What the configuration wants of a kernel, given what else is in it, where nothing is probed. What a daemon left
    there for its checks, as is told by what is owned, stays for the next one."""
    probed = any(way.service in owned.claimed for way in ways(config).values())
    pools = {s.name: pool(s, ratings=ratings, overrides=overrides) for s in config.services}
    return partial(meaning(config, probed=probed).desired, pools)


def meaning(config: Config, *, probed: bool = True) -> Meaning:
    """What a configuration means here, whatever its pools. `probed`: servers are checked, through the VIP too."""
    engines = chosen(config)
    for service in config.services:
        if engines[service.name] is EngineName.XDP:
            admit(service)
            _admit_ports(service, config.addresses.source_ports)
    return Meaning(
        config,
        engines=engines,
        ruleset=ruleset(mark_base=config.engine.mark_base),
        tracked=Tracking(certainly=EngineName.IPVS in engines.values()) if probed else kept,
        probed=probed,
    )


def _admit_ports(service: Service, within: PortRange | None) -> None:
    """Raises Unsupported where this machine's own connections may take all ports that are named for full NAT."""
    if within is not None and translated(service) and not ports(within):
        raise Unsupported(
            f"net.ipv4.ip_local_port_range leaves no port of {within} for full NAT on xdp",
            where="addresses.source_ports",
            hint="kernlb doctor says what mends it; or name others",
        )


def listening(key: MarkKey) -> str | None:
    """The local process that a wildcard would take traffic from."""
    family = key.address if isinstance(key.address, Family) else None
    for listener in listeners(key.protocol, first=key.first, last=key.last, family=family):
        return f"{listener.name} (process {listener.pid})"
    return None
