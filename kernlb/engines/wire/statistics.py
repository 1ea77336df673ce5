"""What IPVS counts, as it dumps it with services and real servers."""

from dataclasses import dataclass

from kernlb.counters import Counters
from kernlb.engines.wire import netlink
from kernlb.engines.wire.header import DestAttribute, ServiceAttribute, StatsAttribute


@dataclass(frozen=True, slots=True)
class Statistics:
    """Totals, and the rates a second that the kernel estimates over its last few readings (2 s each)."""

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    connection_rate: int = 0
    packet_rate_in: int = 0
    packet_rate_out: int = 0
    byte_rate_in: int = 0
    byte_rate_out: int = 0


@dataclass(frozen=True, slots=True)
class Connections:
    """Of one real server: established, the others (every UDP one among them), and persistence templates."""

    active: int = 0
    inactive: int = 0
    persistent: int = 0


_IN_ORDER = tuple(kind for kind in StatsAttribute if kind is not StatsAttribute.PAD)


def service_statistics(nested: memoryview) -> Statistics:
    return _statistics(netlink.attributes(nested), ServiceAttribute.STATS64, ServiceAttribute.STATS)


def server_statistics(nested: memoryview) -> tuple[Statistics, Connections]:
    found = netlink.attributes(nested)
    connections = Connections(
        netlink.number(found[DestAttribute.ACTIVE_CONNS]),
        netlink.number(found[DestAttribute.INACT_CONNS]),
        netlink.number(found[DestAttribute.PERSIST_CONNS]),
    )
    return _statistics(found, DestAttribute.STATS64, DestAttribute.STATS), connections


def counters(statistics: Statistics, active: int, inactive: int) -> Counters:
    return Counters(
        connections=statistics.connections,
        packets_in=statistics.packets_in,
        packets_out=statistics.packets_out,
        bytes_in=statistics.bytes_in,
        bytes_out=statistics.bytes_out,
        active_connections=active,
        inactive_connections=inactive,
    )


def _statistics(found: dict[int, memoryview], wide: int, narrow: int) -> Statistics:
    # STATS64 came with 4.1; before it connections and packets wrap at 2**32.
    nested = found.get(wide, found.get(narrow))
    if nested is None:
        return Statistics()
    members = netlink.attributes(nested)
    return Statistics(*(netlink.number(members[kind]) if kind in members else 0 for kind in _IN_ORDER))
