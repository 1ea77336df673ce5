"""What IPVS keeps beside services, once a network namespace: idle timers, sync daemons, its own version."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from kernlb.engines.wire import netlink
from kernlb.engines.wire.header import (
    IFNAME_MAXLEN,
    CommandAttribute,
    DaemonAttribute,
    DaemonState,
    InfoAttribute,
)
from kernlb.model import SYNC_GROUP, IPAddress, SyncDaemon, SyncKey, SyncRole, Timers

_STATES = {SyncRole.MASTER: DaemonState.MASTER, SyncRole.BACKUP: DaemonState.BACKUP}
_ROLE_OF = {int(state): role for role, state in _STATES.items()}
_IPV4_AND_UDP_HEADERS = 20 + 8
_IPV6_AND_UDP_HEADERS = 40 + 8
_ETHERNET_MTU = 1500


@dataclass(frozen=True, slots=True)
class Info:
    """Of the kernel's IPVS: its version and the size of its connection table, in buckets."""

    version: str
    connection_table_size: int


def timers_bytes(timers: Timers) -> bytes:
    """Seconds. To the kernel 0 means "as it is"."""
    return b"".join(
        (
            netlink.u32(CommandAttribute.TIMEOUT_TCP, timers.tcp),
            netlink.u32(CommandAttribute.TIMEOUT_TCP_FIN, timers.tcp_fin),
            netlink.u32(CommandAttribute.TIMEOUT_UDP, timers.udp),
        )
    )


def decode_timers(payload: memoryview) -> Timers:
    """A kernel without one of the protocols leaves its timers out."""
    found = netlink.attributes(payload)
    kinds = (CommandAttribute.TIMEOUT_TCP, CommandAttribute.TIMEOUT_TCP_FIN, CommandAttribute.TIMEOUT_UDP)
    return Timers(*(netlink.number(found[kind]) if kind in found else 0 for kind in kinds))


def daemon_key_bytes(key: SyncKey) -> bytes:
    return netlink.nested(CommandAttribute.DAEMON, netlink.u32(DaemonAttribute.STATE, _STATES[key.role]))


def daemon_bytes(key: SyncKey, daemon: SyncDaemon) -> bytes:
    if len(daemon.interface.encode()) >= IFNAME_MAXLEN:
        raise ValueError(f"interface name too long: {daemon.interface}")
    group = DaemonAttribute.MCAST_GROUP if daemon.group.version == 4 else DaemonAttribute.MCAST_GROUP6
    members = [
        netlink.u32(DaemonAttribute.STATE, _STATES[key.role]),
        netlink.text(DaemonAttribute.MCAST_IFN, daemon.interface),
        netlink.u32(DaemonAttribute.SYNC_ID, daemon.sync_id),
    ]
    if daemon.max_length:
        members.append(netlink.u16(DaemonAttribute.SYNC_MAXLEN, daemon.max_length))
    members += [
        # In host byte order, unlike every other port of this family.
        netlink.u16(DaemonAttribute.MCAST_PORT, daemon.port),
        netlink.u8(DaemonAttribute.MCAST_TTL, daemon.ttl),
        netlink.attribute(group, daemon.group.packed),
    ]
    return netlink.nested(CommandAttribute.DAEMON, *members)


def decode_daemon(payload: memoryview) -> tuple[SyncKey, SyncDaemon]:
    """With the length that the kernel chose where none was asked for: see `default_length`."""
    found = netlink.attributes(netlink.attributes(payload)[CommandAttribute.DAEMON])

    def number(kind: DaemonAttribute, absent: int) -> int:
        return netlink.number(found[kind]) if kind in found else absent

    return SyncKey(_ROLE_OF[number(DaemonAttribute.STATE, 0)]), SyncDaemon(
        interface=netlink.string(found[DaemonAttribute.MCAST_IFN]),
        sync_id=number(DaemonAttribute.SYNC_ID, 0),
        group=_group(found),
        port=number(DaemonAttribute.MCAST_PORT, SyncDaemon("", 0).port),
        ttl=number(DaemonAttribute.MCAST_TTL, SyncDaemon("", 0).ttl),
        max_length=number(DaemonAttribute.SYNC_MAXLEN, 0),
    )


def default_length(role: SyncRole, group: IPAddress, mtu: int) -> int:
    """The length that the kernel chooses where none was asked for (start_sync_thread, net/netfilter/ipvs/ip_vs_sync.c):
    a master sends what fits Ethernet, a backup takes what its interface can bring."""
    headers = _IPV4_AND_UDP_HEADERS if group.version == 4 else _IPV6_AND_UDP_HEADERS
    return (min(max(mtu, _ETHERNET_MTU), 0xFFFF) if role is SyncRole.BACKUP else _ETHERNET_MTU) - headers


def decode_info(payload: memoryview) -> Info:
    found = netlink.attributes(payload)
    version = netlink.number(found[InfoAttribute.VERSION])
    return Info(
        version=f"{version >> 16 & 0xFF}.{version >> 8 & 0xFF}.{version & 0xFF}",
        connection_table_size=netlink.number(found[InfoAttribute.CONN_TAB_SIZE]),
    )


def _group(found: dict[int, memoryview]) -> IPAddress:
    if DaemonAttribute.MCAST_GROUP6 in found:
        return IPv6Address(bytes(found[DaemonAttribute.MCAST_GROUP6]))
    if DaemonAttribute.MCAST_GROUP in found:
        return IPv4Address(bytes(found[DaemonAttribute.MCAST_GROUP]))
    return SYNC_GROUP
