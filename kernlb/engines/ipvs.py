"""IPVS of the running kernel, over generic netlink: services, real servers, idle timers, sync daemons.

Works in the network namespace of the thread that constructs it. Knows no fullnat (to IPVS that is nat) and never
flushes: what it is not told to remove stays.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from kernlb.config.values import Service
from kernlb.counters import Counters
from kernlb.engines import modules, trial
from kernlb.engines.conntrack import Conntrack
from kernlb.engines.hold import held
from kernlb.engines.netlink import NetlinkSocket
from kernlb.engines.proc import Connection, Digest, connections
from kernlb.engines.refusals import explain, told
from kernlb.engines.wire import requests, servers, services, settings, statistics
from kernlb.engines.wire.header import FAMILY_NAME, Command, CommandAttribute
from kernlb.engines.wire.settings import Info
from kernlb.errors import Unsupported
from kernlb.model import (
    Endpoint,
    Fwmark,
    Key,
    ServerKey,
    ServiceKey,
    SyncDaemon,
    SyncKey,
    Table,
    Timers,
    TimersKey,
    Value,
    VirtualService,
    service_of,
)
from kernlb.parts import Parts, whole
from kernlb.plan import Operation, Verb

_SIOCGIFMTU = 0x8921
_MODULE = "ip_vs"
_SWAPS = 8  # schedulers that change while the same connections are held
_FEW = 32  # services that are asked for one by one rather than found among all


class Ipvs:
    """Use as a context manager, or `close` it. Threads may share it; its calls then follow one another.

    Raises Unsupported where the kernel has no IPVS and none can be loaded, KernelError where it refuses.
    """

    handles: tuple[type, ...] = (TimersKey, SyncKey, Endpoint, Fwmark, ServerKey)

    def __init__(self) -> None:
        self._socket = NetlinkSocket()
        self._digest = Digest()
        self._dumped: dict[ServiceKey, tuple[int, Table]] = {}
        try:
            self._family = _family(self._socket)
            self._conntrack = Conntrack()
        except BaseException:
            self._socket.close()
            raise

    @property
    def family(self) -> int:
        """The number that this kernel gave the generic netlink family IPVS."""
        return self._family

    def close(self) -> None:
        self._socket.close()
        self._conntrack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def writes(self) -> int:
        """Requests sent so far that ask the kernel to change something."""
        return self._socket.written

    def read(self) -> Table:
        return whole(self.parts())

    def parts(self) -> Parts:
        """The same, cut; the part of a service that the kernel dumps as it did the last time is the same object."""
        before, self._dumped = self._dumped, {}
        for key, service, _ in self._services():
            dumped = self._servers(key)
            number = hash((service, *map(bytes, dumped)))
            known = before.get(key)
            if known is None or known[0] != number:
                known = number, {key: service, **dict(servers.decode_server(key, nested) for nested in dumped)}
            self._dumped[key] = known
        rest: dict[Key, Value] = {TimersKey(): self._timers(), **dict(self._daemons())}
        return {None: rest, **{key: part for key, (_, part) in self._dumped.items()}}

    def read_services(self, only: Collection[ServiceKey] | None = None) -> Table:
        """All virtual services with their real servers, or those of `only` that exist: the cheap answer to drift."""
        table: dict[Key, Value] = {}
        few = only is not None and len(only) <= _FEW
        for key, service, _ in self._some(only or ()) if few else self._services():
            if only is None or key in only:
                table[key] = service
                table.update(servers.decode_server(key, nested) for nested in self._servers(key))
        return table

    def apply(self, operations: Sequence[Operation]) -> None:
        """Carry out the operations in order, many a send. Raises KernelError naming the first refused one: those
        before it are done, and no removal or quiescence that followed additions or changes has been sent."""
        for run in _runs(operations):
            owners: list[Operation] = []
            bodies: list[bytes] = []
            for operation, body in requests.encode(run):
                owners.append(operation)
                bodies.append(body)
            try:
                # Between two schedulers a service has none, and the kernel refuses who comes then.
                with held([key for each in run if _swaps(each) and (key := service_of(each.key)) is not None]):
                    refused = self._socket.write(self._family, bodies)
            except OSError as error:
                raise told("write to IPVS", error) from error
            if refused is not None:
                raise explain(owners[refused.index], refused.errno)
            removed = (each.key for each in run if each.verb is Verb.REMOVE)
            self._conntrack.forget([key for key in removed if isinstance(key, ServerKey)])

    def count_servers(self, service: ServiceKey) -> int:
        """Real servers of one service, 0 where there is no such service. One small dump."""
        return len(self._servers(service))

    def counters(self) -> Mapping[Key, Counters]:
        """Totals as of the kernel's last reading, up to 2 s old. A service's live connections are its servers'."""
        found: dict[Key, Counters] = {}
        for key, _, nested in self._services():
            active = inactive = 0
            for server in self._servers(key):
                counted, live = statistics.server_statistics(server)
                found[servers.decode_server(key, server)[0]] = statistics.counters(counted, live.active, live.inactive)
                active, inactive = active + live.active, inactive + live.inactive
            found[key] = statistics.counters(statistics.service_statistics(nested), active, inactive)
        return found

    def info(self) -> Info:
        return settings.decode_info(self._ask(requests.bare(Command.GET_INFO)))

    def zero(self, service: ServiceKey | None = None) -> None:
        """Set the counters of a service and its servers, or of everything, to zero."""
        try:
            refused = self._socket.write(self._family, [requests.zero(service)])
        except OSError as error:
            raise told("zero counters of IPVS", error) from error
        if refused is not None:
            raise told("zero counters of IPVS", OSError(refused.errno, os.strerror(refused.errno)))

    def digest(self) -> Mapping[ServiceKey, int]:
        """A number a virtual service that changes when its scheduler or its servers' presence, weight or forwarding
        do; costs one read of a file. Compare within one process only."""
        return self._digest.read()

    def connections(self, server: ServerKey) -> Sequence[Connection]:
        """The connections of a real server, persistence templates left out."""
        return connections(server)

    def admit(self, service: Service) -> None:
        """Raises Unsupported, with the way out, for what IPVS or this kernel's IPVS cannot do of a service."""
        trial.admit(service)

    def _services(self) -> Iterator[tuple[ServiceKey, VirtualService, memoryview]]:
        for payload in self._dump(requests.bare(Command.GET_SERVICE)):
            nested = requests.sole(payload, CommandAttribute.SERVICE)
            decoded = services.decode_service(nested)
            if decoded is not None:
                yield *decoded, nested

    def _some(self, keys: Collection[ServiceKey]) -> Iterator[tuple[ServiceKey, VirtualService, memoryview]]:
        """Those that exist, each asked for by itself."""
        for key in keys:
            try:
                payload = self._socket.ask(self._family, requests.one_service(key))
            except OSError as error:
                if error.errno == errno.ESRCH:
                    continue
                raise told("read IPVS", error) from error
            nested = requests.sole(payload, CommandAttribute.SERVICE)
            decoded = services.decode_service(nested)
            if decoded is not None:
                yield *decoded, nested

    def _servers(self, service: ServiceKey) -> list[memoryview]:
        body = requests.list_servers(service)
        return [requests.sole(payload, CommandAttribute.DEST) for payload in self._dump(body)]

    def _timers(self) -> Timers:
        return settings.decode_timers(self._ask(requests.bare(Command.GET_CONFIG)))

    def _daemons(self) -> Iterator[tuple[SyncKey, SyncDaemon]]:
        for payload in self._dump(requests.bare(Command.GET_DAEMON)):
            key, daemon = settings.decode_daemon(payload)
            mtu = _mtu(daemon.interface)
            # The kernel forgets that nobody asked for a length; as a wish it is 0 again.
            if mtu is not None and daemon.max_length == settings.default_length(key.role, daemon.group, mtu):
                daemon = replace(daemon, max_length=0)
            yield key, daemon

    def _dump(self, body: bytes) -> list[memoryview]:
        try:
            return self._socket.dump(self._family, body)
        except OSError as error:
            raise told("read IPVS", error) from error

    def _ask(self, body: bytes) -> memoryview:
        try:
            return self._socket.ask(self._family, body)
        except OSError as error:
            raise told("read IPVS", error) from error


def available() -> bool:
    """Whether the kernel has IPVS, loaded now if it has to be."""
    with suppress(Unsupported), Ipvs():
        return True
    return False


def _family(channel: NetlinkSocket) -> int:
    number = channel.family(FAMILY_NAME)
    if number is not None:
        return number
    why = modules.load(_MODULE)
    number = channel.family(FAMILY_NAME)
    if number is None:
        raise modules.missing(_MODULE, why)
    return number


def _runs(operations: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """The operations cut where taking away begins, so that nothing is taken away before what replaces it is there, and
    where enough schedulers have changed: each takes the kernel a grace period of RCU, in which connections are held."""
    start, giving, swaps = 0, False, 0
    for index, operation in enumerate(operations):
        taking = operation.verb in (Verb.REMOVE, Verb.QUIESCE)
        swaps += _swaps(operation)
        if (taking and giving) or swaps > _SWAPS:
            yield operations[start:index]
            start, swaps = index, int(_swaps(operation))
        giving = not taking
    if start < len(operations):
        yield operations[start:]


def _swaps(operation: Operation) -> bool:
    """Whether a virtual service gets another scheduler."""
    before, after = operation.before, operation.after
    return (
        isinstance(before, VirtualService) and isinstance(after, VirtualService) and before.scheduler != after.scheduler
    )


def _mtu(interface: str) -> int | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        try:
            answer = fcntl.ioctl(channel, _SIOCGIFMTU, struct.pack("16si12x", interface.encode(), 0))
        except OSError:
            return None
    return int(struct.unpack_from("16si", answer)[1])
