"""Virtual services of IPVS as netlink attributes, and back."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from kernlb.engines.wire import netlink
from kernlb.engines.wire.header import (
    PENAME_MAXLEN,
    SCHEDNAME_MAXLEN,
    AddressFamily,
    CommandAttribute,
    ProtocolNumber,
    ServiceAttribute,
    ServiceFlag,
)
from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Fwmark,
    IPAddress,
    Persistence,
    Protocol,
    Scheduler,
    SchedulerFlag,
    ServiceKey,
    VirtualService,
)

_FAMILIES = {Family.IPV4: AddressFamily.INET, Family.IPV6: AddressFamily.INET6}
_FAMILY_OF = {int(number): family for family, number in _FAMILIES.items()}
_PROTOCOLS = {
    Protocol.TCP: ProtocolNumber.TCP,
    Protocol.UDP: ProtocolNumber.UDP,
    Protocol.SCTP: ProtocolNumber.SCTP,
}
_PROTOCOL_OF = {int(number): protocol for protocol, number in _PROTOCOLS.items()}
_SCHEDULERS = {str(scheduler): scheduler for scheduler in Scheduler if scheduler is not Scheduler.MAGLEV}
_FLAGS = {
    SchedulerFlag.FALLBACK: ServiceFlag.SCHED1,
    SchedulerFlag.PORT: ServiceFlag.SCHED2,
    SchedulerFlag.FLAG_3: ServiceFlag.SCHED3,
}
ALL_BITS = {Family.IPV4: 32, Family.IPV6: 128}

# AF, PROTOCOL, ADDR, PORT: what names a service to every command.
_ENDPOINT = Struct("=HHH2x HHH2x HH16s HH2s2x")
_FWMARK = Struct("=HHH2x HHI")
_FLAGS_AND_MASK = Struct("=II")
_EVERY_FLAG = 0xFFFFFFFF


def key_bytes(key: ServiceKey) -> bytes:
    """The nested attribute that names a service and says nothing of its configuration."""
    return _nest(_identity(key))


def service_bytes(key: ServiceKey, service: VirtualService) -> bytes:
    """The nested attribute with everything, as NEW_SERVICE and SET_SERVICE need it."""
    flags: int = sum(int(bit) for flag, bit in _FLAGS.items() if flag in service.flags)
    timeout, prefix, engine = 0, ALL_BITS[key.family], None
    if service.persistence is not None:
        flags |= ServiceFlag.PERSISTENT
        timeout, prefix, engine = service.persistence.timeout, service.persistence.prefix, service.persistence.engine
    if service.one_packet:
        flags |= ServiceFlag.ONEPACKET
    if len(service.scheduler) >= SCHEDNAME_MAXLEN:
        raise ValueError(f"scheduler name too long: {service.scheduler}")
    parts = [_identity(key), netlink.text(ServiceAttribute.SCHED_NAME, service.scheduler)]
    if engine is not None:
        if len(engine) > PENAME_MAXLEN:
            raise ValueError(f"persistence engine name too long: {engine}")
        parts.append(netlink.text(ServiceAttribute.PE_NAME, engine))
    parts += [
        netlink.attribute(ServiceAttribute.FLAGS, _FLAGS_AND_MASK.pack(flags, _EVERY_FLAG)),
        netlink.u32(ServiceAttribute.TIMEOUT, timeout),
        netlink.attribute(ServiceAttribute.NETMASK, _netmask(key.family, prefix)),
    ]
    return _nest(b"".join(parts))


def decode_service(nested: memoryview) -> tuple[ServiceKey, VirtualService] | None:
    """A service as the kernel dumps it. None for a transport protocol that the model does not know (AH, ESP):
    no service of ours can meet it."""
    found = netlink.attributes(nested)
    key = _key(found)
    if key is None:
        return None
    flags = netlink.number(found[ServiceAttribute.FLAGS][:4])
    persistence = None
    if flags & ServiceFlag.PERSISTENT:
        engine = found.get(ServiceAttribute.PE_NAME)
        persistence = Persistence(
            netlink.number(found[ServiceAttribute.TIMEOUT]),
            _prefix(key.family, found[ServiceAttribute.NETMASK]),
            netlink.string(engine) if engine is not None else None,
        )
    name = netlink.string(found[ServiceAttribute.SCHED_NAME])
    return key, VirtualService(
        scheduler=_SCHEDULERS.get(name, name),
        flags=frozenset(flag for flag, bit in _FLAGS.items() if flags & bit),
        persistence=persistence,
        one_packet=bool(flags & ServiceFlag.ONEPACKET),
    )


@lru_cache(maxsize=1 << 16)
def address_from(family: int, packed: bytes) -> IPAddress:
    """An address as IPVS writes it: 16 bytes of which IPv4 uses the first four."""
    return IPv4Address(packed[:4]) if family == AddressFamily.INET else IPv6Address(packed)


def address_bytes(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")


def family_number(family: Family) -> int:
    return _FAMILIES[family]


def _identity(key: ServiceKey) -> bytes:
    match key:
        case Fwmark(family=family, mark=mark):
            return _FWMARK.pack(6, ServiceAttribute.AF, _FAMILIES[family], 8, ServiceAttribute.FWMARK, mark)
        case Endpoint(protocol=protocol, address=IPv4Address() | IPv6Address() as address, port=port):
            return _ENDPOINT.pack(
                *(6, ServiceAttribute.AF, _FAMILIES[key.family]),
                *(6, ServiceAttribute.PROTOCOL, _PROTOCOLS[protocol]),
                *(20, ServiceAttribute.ADDR, address_bytes(address)),
                *(6, ServiceAttribute.PORT, port.to_bytes(2, "big")),
            )
    raise ValueError(f"IPVS serves an address or a mark, not {key}")


def _key(found: dict[int, memoryview]) -> ServiceKey | None:
    family = netlink.number(found[ServiceAttribute.AF])
    mark = found.get(ServiceAttribute.FWMARK)
    if mark is not None and netlink.number(mark):
        return Fwmark(_FAMILY_OF[family], netlink.number(mark))
    protocol = _PROTOCOL_OF.get(netlink.number(found[ServiceAttribute.PROTOCOL]))
    if protocol is None:
        return None
    return Endpoint(
        EngineName.IPVS,
        protocol,
        address_from(family, bytes(found[ServiceAttribute.ADDR])),
        int.from_bytes(found[ServiceAttribute.PORT], "big"),
    )


def _nest(members: bytes) -> bytes:
    return netlink.nested(CommandAttribute.SERVICE, members)


def _netmask(family: Family, prefix: int) -> bytes:
    # The same attribute is a mask in network byte order for IPv4 and a prefix length in host byte order for IPv6.
    if family is Family.IPV4:
        return ((0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF).to_bytes(4, "big")
    return netlink.native(prefix, 4)


def _prefix(family: Family, payload: memoryview) -> int:
    if family is Family.IPV4:
        return int.from_bytes(payload, "big").bit_count()
    return netlink.number(payload)
