"""What the program's maps have to hold for what is carried, in the network as it is. Reads nothing, writes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil

from kernlb.engines import abi
from kernlb.engines.abi import Filter, Forward, HopMethod, ServerFlag, ServiceFlag
from kernlb.engines.carried import NOBODY, Book, Carried, Wish
from kernlb.engines.nexthops import Surroundings, ports, source
from kernlb.engines.rtnetlink import Link
from kernlb.model import (
    Endpoint,
    Family,
    Forwarding,
    IPAddress,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    TunnelKind,
    VirtualService,
)

NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17}
VERSIONS = {Family.IPV4: 4, Family.IPV6: 6}
GUE_PORT = 6080
NOWHERE = abi.Server(address=abi.NO_ADDRESS, forward=Forward.NOWHERE, hop=abi.Hop())
GONE = replace(NOWHERE, flags=ServerFlag.DEAD)


@dataclass(slots=True)
class Contents:
    """By map: what it has to hold. `sources` by place, `links` by interface; `limits` are keys alone."""

    services: dict[abi.ServiceKey, abi.Service] = field(default_factory=dict)
    servers: dict[int, abi.Server] = field(default_factory=dict)
    sources: dict[int, abi.Source] = field(default_factory=dict)
    links: dict[int, abi.Hop] = field(default_factory=dict)
    filter: dict[abi.Address, Filter] = field(default_factory=dict)
    limits: set[int] = field(default_factory=set)


def place(book: Book, seen: Surroundings, *, tick: float, native: bool) -> Contents:
    """`tick` in seconds; `native`: the program hangs at XDP too, where nobody else knows the neighbours."""
    contents = Contents(servers={NOBODY: NOWHERE})
    for link in seen.ends():
        contents.links[link.index] = seen.leaving(link)
    for key, address in _addresses(book, seen):
        carried = book.services[key]
        service = _service(book, carried, tick)
        service_key = abi.ServiceKey(address=address, port=key.port, protocol=NUMBERS[key.protocol])
        contents.services[service_key] = service
        contents.limits |= _limits(service)
        translated = any(member.value.forwarding is Forwarding.FULLNAT for member in carried.members.values())
        flags = Filter.SERVICE | (Filter.NAT if translated else Filter(0))
        contents.filter[address] = contents.filter.get(address, Filter(0)) | flags
    for key, server, member in book.members():
        counted = _chooses(book.services[key])
        placed = contents.servers[member.id] = _server(book, server, member.value, seen, native=native, counted=counted)
        if placed.connections or placed.flags & ServerFlag.COUNTED:
            contents.limits.add(abi.LimitKind.SERVER | member.id)
    own = ports(book.wish.ports) if book.sources else range(0)
    for group, first in book.sources.items():
        for number, address in enumerate(group):
            contents.sources[first + number] = source(address, own)
            contents.filter[address] = contents.filter.get(address, Filter(0)) | Filter.NAT
    return contents


def one_armed(book: Book, seen: Surroundings, link: Link, *, virtual: bool = False) -> bool:
    """Whether native XDP pays: an interface of its own hardware through which everything leaves as it came, whole.
    `virtual`: hardware or not."""
    ways = [seen.way(key.address) for _, key, _ in book.members()]
    return (
        (virtual or not link.kind)
        and bool(ways)
        and all(way.hop.interface == link.index for way in ways)
        and not any(member.value.forwarding is Forwarding.FULLNAT for _, _, member in book.members())
    )


def weights(carried: Carried) -> dict[str, int]:
    """By a name that is the same on every gateway."""
    return {name_of(key): member.value.weight for key, member in carried.members.items()}


def name_of(key: ServerKey) -> str:
    return f"{key.address} {key.port}"


def keep_known(before: Mapping[int, abi.Server], servers: dict[int, abi.Server]) -> None:
    """A neighbour that is not known at this moment was known before: as long as the way is the same, so is it."""
    for number, server in servers.items():
        had = before.get(number)
        if had is None or any(server.hop.destination):
            continue
        if (had.hop.interface, had.next) == (server.hop.interface, server.next) and any(had.hop.destination):
            servers[number] = replace(server, hop=replace(had.hop, mtu=server.hop.mtu))


def _addresses(book: Book, seen: Surroundings) -> list[tuple[Endpoint, IPAddress]]:
    """Each service with each of its addresses: what names an address wins over what takes all of a family."""
    specific = {(k.address, k.protocol, k.port) for k in book.services if not isinstance(k.address, Family)}
    found: list[tuple[Endpoint, IPAddress]] = []
    for key in book.services:
        if isinstance(key.address, Family):
            local = seen.local(VERSIONS[key.address])
            found += [(key, address) for address in local if (address, key.protocol, key.port) not in specific]
        else:
            found.append((key, key.address))
    return found


def _service(book: Book, carried: Carried, tick: float) -> abi.Service:
    by_client = carried.value.persistence is not None or carried.value.scheduler is Scheduler.SH
    flags = ServiceFlag.SOURCE_HASH if by_client else ServiceFlag(0)
    flags |= ServiceFlag.TWO_CHOICES if _chooses(carried) else ServiceFlag(0)
    service = abi.Service(id=carried.id, slots=book.slots, idle=idle_ticks(book.wish, tick), flags=flags)
    bounds = carried.value.bounds
    if bounds is None:
        return service
    return replace(service, limit=bounds.number, connections=bounds.connections, together=bounds.together)


def _chooses(carried: Carried) -> bool:
    """Whether clients may go anywhere and the program looks for who has few connections: it knows those of full NAT."""
    return carried.value.scheduler is Scheduler.TWOS and carried.value.persistence is None


def idle_ticks(wish: Wish, tick: float) -> int:
    """One more than userland's: what it believes to be forgotten is."""
    return min(abi.TICK_MASK // 2, ceil(wish.idle / tick) + 1)


def _limits(service: abi.Service) -> set[int]:
    limits = {abi.LimitKind.SERVICE | service.limit} if service.connections else set()
    return limits | {abi.LimitKind.TOGETHER} if service.together else limits


def _server(
    book: Book, key: ServerKey, value: RealServer, seen: Surroundings, *, native: bool, counted: bool
) -> abi.Server:
    way = seen.way(key.address)
    hop = way.hop
    if native and not any(hop.destination):
        hop = replace(hop, method=HopMethod.UNRESOLVED)
    elif native and hop.method is not HopMethod.PEER:
        hop = replace(hop, method=HopMethod.ADDRESSES)
    first, count = 0, 0
    if value.forwarding is Forwarding.FULLNAT:
        wished = tuple(a for a in book.wish.sources if a.version == key.address.version)
        group = wished or ((way.source,) if way.source else ())
        if group:
            first, count = book.source_range(group)
        else:
            hop = abi.Hop()
    server = abi.Server(
        address=key.address,
        forward=_forward(value),
        hop=hop,
        port=key.port,
        flags=ServerFlag.COUNTED if counted and count else ServerFlag(0),
        tunnel_port=(value.tunnel.port or GUE_PORT) if value.tunnel and value.tunnel.kind is TunnelKind.GUE else 0,
        source=way.source or abi.NO_ADDRESS,
        next=way.next,
        first_source=first,
        source_count=count,
        connections=value.upper_threshold if count else 0,
        # At 0 it would never begin again.
        resume=max(1, value.lower_threshold) if count else 0,
    )
    return flags_of(server, value)


def flags_of(server: abi.Server, value: RealServer) -> abi.Server:
    """The server with what its weight says to the program."""
    counted = server.flags & ServerFlag.COUNTED
    quiesced = ServerFlag(0) if value.weight else ServerFlag.QUIESCED
    return replace(server, flags=counted | quiesced, weight=value.weight if counted else 0)


def _forward(value: RealServer) -> Forward:
    match value.forwarding:
        case Forwarding.DIRECT:
            return Forward.DIRECT
        case Forwarding.TUNNEL if value.tunnel and value.tunnel.kind is TunnelKind.GUE:
            return Forward.GUE
        case Forwarding.TUNNEL:
            return Forward.IPIP
        case _:
            return Forward.FULLNAT


def refusal(value: VirtualService | RealServer) -> str | None:
    """Why the program cannot carry it, wherever; None where it can."""
    match value:
        case VirtualService(scheduler=scheduler) if scheduler not in (Scheduler.MAGLEV, Scheduler.SH, Scheduler.TWOS):
            return f"the eBPF program has no scheduler {scheduler}"
        case VirtualService(one_packet=True):
            return "the eBPF program hashes flows, never single datagrams"
        case RealServer(forwarding=Forwarding.NAT):
            return "the eBPF program has no forwarding nat"
        case RealServer(tunnel=tunnel) if tunnel is not None and tunnel.kind is TunnelKind.GRE:
            return "the eBPF program makes no GRE tunnels"
        case RealServer(forwarding=forwarding, upper_threshold=threshold) if threshold and (
            forwarding is not Forwarding.FULLNAT
        ):
            return f"the eBPF program does not see the connections of {forwarding} servers end"
    return None
