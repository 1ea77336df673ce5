"""Real servers of IPVS ("destinations") as netlink attributes, and back.

There are many of them, so what is fixed of their layout is one Struct each way; any other layout takes the slow way.
"""

from functools import lru_cache
from struct import Struct

from kernlb.engines.wire import netlink
from kernlb.engines.wire.header import (
    FWD_MASK,
    CommandAttribute,
    DestAttribute,
    Method,
    TunnelFlag,
    TunnelType,
)
from kernlb.engines.wire.services import address_bytes, address_from, family_number
from kernlb.model import (
    Forwarding,
    RealServer,
    ServerKey,
    ServiceKey,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
    family_of,
)

_METHODS = {Forwarding.NAT: Method.MASQ, Forwarding.DIRECT: Method.DROUTE, Forwarding.TUNNEL: Method.TUNNEL}
# LOCALNODE is the director itself, BYPASS its route out: neither rewrites, and neither can be asked for.
_FORWARDING_OF = {
    int(Method.MASQ): Forwarding.NAT,
    int(Method.LOCALNODE): Forwarding.DIRECT,
    int(Method.TUNNEL): Forwarding.TUNNEL,
    int(Method.DROUTE): Forwarding.DIRECT,
    int(Method.BYPASS): Forwarding.DIRECT,
}
_TUNNELS = {TunnelKind.IPIP: TunnelType.IPIP, TunnelKind.GUE: TunnelType.GUE, TunnelKind.GRE: TunnelType.GRE}
_TUNNEL_OF = {int(number): kind for kind, number in _TUNNELS.items()}
_CHECKSUMS = {
    TunnelChecksum.NONE: TunnelFlag.NOCSUM,
    TunnelChecksum.CHECKSUM: TunnelFlag.CSUM,
    TunnelChecksum.REMOTE: TunnelFlag.REMCSUM,
}
_NO_PORT = b"\0\0"

# ADDR_FAMILY, ADDR, PORT, in their nested attribute.
_KEY = Struct("=HH HHH2x HH16s HH2s2x")
# The same and FWD_METHOD, WEIGHT, TUN_TYPE, TUN_PORT, TUN_FLAGS, U_THRESH, L_THRESH, as ipvsadm orders them.
_SERVER = Struct("=HH HHH2x HH16s HH2s2x HHI HHI HHB3x HH2s2x HHH2x HHI HHI")
_KEY_NEST = CommandAttribute.DEST | netlink.NESTED


def key_bytes(key: ServerKey) -> bytes:
    """The nested attribute that names a real server, without its service."""
    return _KEY.pack(
        *(_KEY.size, _KEY_NEST),
        *(6, DestAttribute.ADDR_FAMILY, family_number(family_of(key.address))),
        *(20, DestAttribute.ADDR, address_bytes(key.address)),
        *(6, DestAttribute.PORT, key.port.to_bytes(2, "big")),
    )


def server_bytes(key: ServerKey, server: RealServer) -> bytes:
    """The nested attribute with everything, without its service. Raises ValueError for what IPVS cannot do itself."""
    method, kind, port, checksum = _method(server.forwarding, server.tunnel)
    address = key.address
    return _SERVER.pack(
        # 6-byte attributes carry 2 bytes of padding; 11, 1, 2... are DestAttribute's numbers in the order above.
        _SERVER.size,
        _KEY_NEST,
        6,
        11,
        2 if address.version == 4 else 10,
        20,
        1,
        address.packed,
        6,
        2,
        key.port.to_bytes(2, "big"),
        8,
        3,
        method,
        8,
        4,
        server.weight,
        5,
        13,
        kind,
        6,
        14,
        port,
        6,
        15,
        checksum,
        8,
        5,
        server.upper_threshold,
        8,
        6,
        server.lower_threshold,
    )


@lru_cache(maxsize=1024)
def _method(forwarding: Forwarding, tunnel: Tunnel | None) -> tuple[int, int, bytes, int]:
    if forwarding not in _METHODS:
        raise ValueError(f"IPVS has no {forwarding}: give it nat, and the source NAT to nftables")
    if forwarding is not Forwarding.TUNNEL or tunnel is None:
        return _METHODS[forwarding], 0, _NO_PORT, 0
    # The tunnel's port is in network byte order, like every port of this family but the multicast one.
    return _METHODS[forwarding], _TUNNELS[tunnel.kind], tunnel.port.to_bytes(2, "big"), _CHECKSUMS[tunnel.checksum]


# What kernels with tunnel types (since 5.3) begin a dumped destination with: header and value by turns.
_DUMPED = Struct("=I16s I2s2x II II IB3x I2s2x IH2x II II II II II IH2x")
_DUMPED_ATTRIBUTES = (
    (16, DestAttribute.ADDR),
    (2, DestAttribute.PORT),
    (4, DestAttribute.FWD_METHOD),
    (4, DestAttribute.WEIGHT),
    (1, DestAttribute.TUN_TYPE),
    (2, DestAttribute.TUN_PORT),
    (2, DestAttribute.TUN_FLAGS),
    (4, DestAttribute.U_THRESH),
    (4, DestAttribute.L_THRESH),
    (4, DestAttribute.ACTIVE_CONNS),
    (4, DestAttribute.INACT_CONNS),
    (4, DestAttribute.PERSIST_CONNS),
    (2, DestAttribute.ADDR_FAMILY),
)
_HEADER_AS_NUMBER = Struct("=I")
_DUMPED_HEADERS = tuple(
    _HEADER_AS_NUMBER.unpack(netlink.ATTRIBUTE.pack(netlink.ATTRIBUTE.size + size, kind))[0]
    for size, kind in _DUMPED_ATTRIBUTES
)


def decode_server(service: ServiceKey, nested: memoryview) -> tuple[ServerKey, RealServer]:
    """A real server of `service` as the kernel dumps it."""
    if len(nested) >= _DUMPED.size:
        found = _DUMPED.unpack_from(nested)
        if found[0::2] == _DUMPED_HEADERS:
            address, port, method, weight, kind, tunnel_port, flags, upper, lower, _, _, _, family = found[1::2]
            return (
                ServerKey(service, address_from(family, address), int.from_bytes(port, "big")),
                _server(method & FWD_MASK, weight, upper, lower, kind, int.from_bytes(tunnel_port, "big"), flags),
            )
    return _decode_any(service, netlink.attributes(nested))


def _decode_any(service: ServiceKey, found: dict[int, memoryview]) -> tuple[ServerKey, RealServer]:
    def number(kind: DestAttribute) -> int:
        return netlink.number(found[kind]) if kind in found else 0

    # Kernels before 3.18 name no family: it is the service's.
    family = number(DestAttribute.ADDR_FAMILY) or family_number(service.family)
    key = ServerKey(
        service,
        address_from(family, bytes(found[DestAttribute.ADDR])),
        int.from_bytes(found[DestAttribute.PORT], "big"),
    )
    return key, _server(
        number(DestAttribute.FWD_METHOD) & FWD_MASK,
        number(DestAttribute.WEIGHT),
        number(DestAttribute.U_THRESH),
        number(DestAttribute.L_THRESH),
        number(DestAttribute.TUN_TYPE),
        int.from_bytes(found.get(DestAttribute.TUN_PORT, b""), "big"),
        number(DestAttribute.TUN_FLAGS),
    )


# Most real servers are configured like their neighbours: the values are shared.
@lru_cache(maxsize=4096)
def _server(method: int, weight: int, upper: int, lower: int, kind: int, port: int, flags: int) -> RealServer:
    forwarding = _FORWARDING_OF.get(method, Forwarding.DIRECT)
    tunnel = None
    if forwarding is Forwarding.TUNNEL:
        tunnel = Tunnel(_TUNNEL_OF.get(kind, TunnelKind.IPIP), port, _checksum(flags))
    return RealServer(forwarding, weight, upper, lower, tunnel)


def _checksum(flags: int) -> TunnelChecksum:
    if flags & TunnelFlag.REMCSUM:
        return TunnelChecksum.REMOTE
    return TunnelChecksum.CHECKSUM if flags & TunnelFlag.CSUM else TunnelChecksum.NONE
