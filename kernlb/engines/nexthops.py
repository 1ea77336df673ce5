"""How a packet gets to a real server, and an answer out of an interface: the kernel's routes and neighbours as hops."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from kernlb.engines import abi
from kernlb.engines.abi import HopMethod
from kernlb.engines.rtnetlink import Link, Neighbour, Notifications, Route, Rtnetlink
from kernlb.ports import PortRange, left

IPAddress = IPv4Address | IPv6Address

EVERY = 60.0
"""Seconds after which everything is looked at again, whatever the kernel has told."""

_PATIENCE = 0.5
_PAUSE = 0.01
_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_LONGEST = 65535


@dataclass(frozen=True, slots=True)
class Way:
    """`source` is where this machine's own packets to it come from; None where there is no way."""

    hop: abi.Hop
    next: IPAddress
    source: IPAddress | None


class Surroundings:
    """What the network looked like at one moment."""

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self.links = netlink.links()
        self._addresses = netlink.addresses()
        self._neighbours = netlink.neighbours()
        self._routes: dict[IPAddress, Route | None] = {}
        self._ways: dict[IPAddress, Way] = {}
        self._followed: set[tuple[int, IPAddress]] | None = None

    def named(self, names: Collection[str]) -> list[Link]:
        return [link for link in self.links.values() if link.name in names]

    def ends(self) -> list[Link]:
        """The interfaces where traffic of others can come in: up, with an address, and not a part of another."""
        addressed = {index for index, _ in self._addresses}
        return [
            link
            for link in self.links.values()
            if link.up and link.ethernet and not link.loopback and not link.master and link.index in addressed
        ]

    def local(self, version: int) -> list[IPAddress]:
        """The addresses that others reach this machine by."""
        return sorted({a for _, a in self._addresses if a.version == version and not a.is_loopback and not _near(a)})

    def route(self, address: IPAddress) -> Route | None:
        if address not in self._routes:
            self._routes[address] = self._netlink.route(address)
            self._followed = None
        return self._routes[address]

    def resolve(self, addresses: Iterable[IPAddress], *, await_: Iterable[IPAddress] = ()) -> None:
        """Have the kernel find the neighbours that lead there, and wait for those of `await_`, but not for long."""
        unknown = self._unknown(addresses)
        for interface, neighbour in unknown:
            self._netlink.resolve(interface, neighbour)
        awaited = self._unknown(await_)
        deadline = time.monotonic() + _PATIENCE
        while awaited and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            self._neighbours = self._netlink.neighbours()
            self._ways.clear()
            awaited -= set(self._neighbours)

    def _unknown(self, addresses: Iterable[IPAddress]) -> set[tuple[int, IPAddress]]:
        ways = {
            (route.interface, route.gateway or address)
            for address in addresses
            if (route := self.route(address)) and not route.local
        }
        return ways - set(self._neighbours)

    def way(self, address: IPAddress) -> Way:
        """Towards an address that is not this machine's own: that is the stack's."""
        if address not in self._ways:
            self._ways[address] = self._way(address)
        return self._ways[address]

    def _way(self, address: IPAddress) -> Way:
        route = self.route(address)
        link = self.links.get(route.interface) if route else None
        if route is None or link is None or route.local or not link.up:
            return Way(abi.Hop(), address, None)
        following = route.gateway or address
        mac = self._neighbours.get((link.index, following))
        mtu = _mtu(link.mtu, route.mtu)
        method = self.leaving(link).method if mac else HopMethod.NEIGHBOUR
        hop = abi.Hop(interface=link.index, destination=mac or bytes(6), source=link.mac[:6], mtu=mtu, method=method)
        return Way(hop, following, route.source)

    def heed(self, told: Neighbour | None) -> bool:
        """Whether what the kernel tells makes another picture. Neighbours come and go all the time: those that no
        route here leads to are nobody's concern, nor is one that is what it was."""
        if told is None:
            return True
        if self._followed is None:
            routed = ((route, address) for address, route in self._routes.items() if route is not None)
            self._followed = {(route.interface, route.gateway or address) for route, address in routed}
        return told.key in self._followed and self._neighbours.get(told.key) != told.mac

    def leaving(self, link: Link) -> abi.Hop:
        """How answers leave through an interface: without its queue where the other end is in another namespace."""
        method = HopMethod.PEER if link.peer_elsewhere else HopMethod.NEIGHBOUR
        return abi.Hop(interface=link.index, source=link.mac[:6], mtu=_mtu(link.mtu), method=method)


class Outlook:
    """Whether the surroundings are still as they were seen: until the kernel tells otherwise, or for EVERY seconds."""

    def __init__(self) -> None:
        self._notifications: Notifications | None = None
        self._seen: Surroundings | None = None
        self._at = 0.0

    def look(self, netlink: Rtnetlink) -> Surroundings:
        """What is told from before the look on counts."""
        self._notifications = self._notifications or Notifications()
        for _ in self._notifications.read():
            pass
        self._seen, self._at = Surroundings(netlink), time.monotonic()
        return self._seen

    def holds(self) -> bool:
        if self._seen is None or self._notifications is None or time.monotonic() - self._at >= EVERY:
            return False
        if any(self._seen.heed(told) for told in self._notifications.read()):
            self._seen = None
        return self._seen is not None

    def close(self) -> None:
        if self._notifications is not None:
            self._notifications.close()
        self._notifications = self._seen = None


def ports(within: PortRange | None = None) -> range:
    """Those that this machine's own connections, of either family, never take."""
    return left(_PORTS.read_text(), _RESERVED.read_text(), within=within)


def source(address: IPAddress, ports: range) -> abi.Source:
    return abi.Source(address=address, first_port=ports.start, port_count=len(ports))


def _mtu(*limits: int) -> int:
    """The least that is one; more than an IP packet can have is none."""
    return min((limit for limit in limits if 0 < limit <= _LONGEST), default=0)


def _near(address: IPAddress) -> bool:
    return isinstance(address, IPv6Address) and address.is_link_local
