"""The engine of VIPs on interfaces, in the network namespace of the calling thread. Knows no service."""

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kernlb.counters import Counters
from kernlb.engines.announce import announce
from kernlb.errors import KernelError, KernlbError, Unsupported
from kernlb.model import Family, Key, Table, Value, Vip, VipKey, family_of
from kernlb.plan import Operation, Verb

_IFA_F_NODAD = 0x02
_MEANING = {
    errno.EEXIST: ("the interface has it already", "read and plan again"),
    errno.EADDRNOTAVAIL: ("the interface does not have it", "read and plan again"),
    errno.EPERM: ("it needs CAP_NET_ADMIN", "run as root, or in the user namespace that owns this network namespace"),
    errno.EACCES: ("IPv6 is switched off on the interface", "sysctl net.ipv6.conf.INTERFACE.disable_ipv6=0"),
    errno.EINVAL: ("the kernel does not take this address or prefix", None),
}
_Result = TypeVar("_Result")


class Vips:
    """`interfaces` are those whose addresses are read."""

    handles: tuple[type, ...] = (VipKey,)

    def __init__(self, interfaces: Iterable[str]) -> None:
        self._interfaces = tuple(interfaces)

    def read(self) -> Table:
        """All addresses of the interfaces, whoever put them there."""
        return _outside_loops(self._read) if self._interfaces else {}

    def apply(self, operations: Sequence[Operation]) -> None:
        """Neighbours are told of each address that came to an interface that has neighbours."""
        _outside_loops(lambda: self._apply(operations))

    def counters(self) -> Mapping[Key, Counters]:
        return {}

    def _read(self) -> Table:
        table: dict[Key, Value] = {}
        with IPRoute() as route:
            for name in self._interfaces:
                for index in route.link_lookup(ifname=name):
                    for message in route.get_addr(index=index):
                        # On a point-to-point link IFA_ADDRESS is the peer's.
                        address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                        table[VipKey(name, ip_address(address))] = Vip(message["prefixlen"])
        return table

    def _apply(self, operations: Sequence[Operation]) -> None:
        with IPRoute() as route:
            for operation in operations:
                if isinstance(operation.key, VipKey):
                    try:
                        _carry_out(route, operation, operation.key)
                    except NetlinkError as error:
                        raise _refused(operation, operation.key, error.code) from error


def _carry_out(route: Any, operation: Operation, key: VipKey) -> None:
    found = list(route.link_lookup(ifname=key.interface))
    if not found:
        raise Unsupported(
            f"there is no interface {key.interface} for {key.address}",
            where=key.interface,
            hint="name an existing one in [addresses] interface",
        )

    def address(command: str, value: Vip) -> None:
        flags = {"flags": _IFA_F_NODAD} if command == "add" and key.address.version == 6 else {}
        route.addr(command, index=found[0], address=str(key.address), prefixlen=value.prefix, **flags)

    # IPv4 may have an address with two prefixes for a moment, so that it is never away; IPv6 may not.
    steps = [("add", operation.after), ("del", operation.before)]
    if family_of(key.address) is Family.IPV6:
        steps.reverse()
    for command, value in steps:
        if isinstance(value, Vip):
            address(command, value)
    if operation.after is not None:
        announce(key.interface, key.address)


def _refused(operation: Operation, key: VipKey, code: int) -> KernlbError:
    meaning, hint = _MEANING.get(code, (os.strerror(code), None))
    verb = {Verb.ADD: "add", Verb.REMOVE: "remove"}.get(operation.verb, "change")
    text = f"cannot {verb} address {key.address} on {key.interface}: {meaning}"
    hint = hint.replace("INTERFACE", key.interface) if hint else None
    return KernelError(text, errno=code, where=f"{key.address} on {key.interface}", hint=hint)


def _outside_loops(work: Callable[[], _Result]) -> _Result:
    """pyroute2's synchronous calls cannot run in a thread whose event loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1) as other:
        return other.submit(work).result()
