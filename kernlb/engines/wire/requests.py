"""Operations of a plan as the bodies of IPVS requests, ready to be framed and sent."""

from collections.abc import Iterable, Iterator

from kernlb.engines.wire import netlink, servers, services, settings
from kernlb.engines.wire.header import FAMILY_VERSION, Command
from kernlb.model import (
    Endpoint,
    Fwmark,
    RealServer,
    ServerKey,
    ServiceKey,
    SyncDaemon,
    SyncKey,
    Timers,
    TimersKey,
    VirtualService,
)
from kernlb.plan import Operation, Verb

_START = {command: netlink.generic_body(command, FAMILY_VERSION) for command in Command}
_NEW_DEST = _START[Command.NEW_DEST]
_SET_DEST = _START[Command.SET_DEST]
_DEL_DEST = _START[Command.DEL_DEST]


def bare(command: Command) -> bytes:
    """A request without attributes: GET_SERVICE, GET_DAEMON, GET_CONFIG, GET_INFO, or ZERO of everything."""
    return _START[command]


def one_service(service: ServiceKey) -> bytes:
    return _START[Command.GET_SERVICE] + services.key_bytes(service)


def list_servers(service: ServiceKey) -> bytes:
    return _START[Command.GET_DEST] + services.key_bytes(service)


def zero(service: ServiceKey | None) -> bytes:
    return _START[Command.ZERO] + (b"" if service is None else services.key_bytes(service))


def sole(payload: memoryview, kind: int) -> memoryview:
    """The content of the one attribute that an answer consists of."""
    length, found = netlink.ATTRIBUTE.unpack_from(payload)
    if length == len(payload) and found & ~netlink.NESTED == kind:
        return payload[netlink.ATTRIBUTE.size :]
    return netlink.attributes(payload)[kind]


def encode(operations: Iterable[Operation]) -> Iterator[tuple[Operation, bytes]]:
    """Each operation with the body of its request; a changed sync daemon takes two, for it must be stopped first.

    Raises ValueError for what no request of IPVS can say.
    """
    # Servers come a service at a time: its bytes are made once.
    service: ServiceKey | None = None
    prefix = b""
    for operation in operations:
        match operation.key:
            case ServerKey() as key:
                if key.service is not service:
                    service, prefix = key.service, services.key_bytes(key.service)
                yield operation, _server(operation, key, prefix)
            case Endpoint() | Fwmark() as key:
                yield operation, _service(operation, key)
            case TimersKey():
                yield operation, _timers(operation)
            case SyncKey() as key:
                for body in _daemon(operation, key):
                    yield operation, body
            case _:
                raise ValueError(f"not a thing of IPVS: {operation.key}")


def _server(operation: Operation, key: ServerKey, service: bytes) -> bytes:
    after = operation.after
    if isinstance(after, RealServer):
        command = _NEW_DEST if operation.verb is Verb.ADD else _SET_DEST
        return command + service + servers.server_bytes(key, after)
    if after is None:
        return _DEL_DEST + service + servers.key_bytes(key)
    raise ValueError(f"not a real server: {after}")


def _service(operation: Operation, key: ServiceKey) -> bytes:
    match operation.after:
        case VirtualService() as after:
            command = Command.NEW_SERVICE if operation.verb is Verb.ADD else Command.SET_SERVICE
            return _START[command] + services.service_bytes(key, after)
        case None:
            return _START[Command.DEL_SERVICE] + services.key_bytes(key)
        case _:
            raise ValueError(f"not a virtual service: {operation.after}")


def _timers(operation: Operation) -> bytes:
    if not isinstance(operation.after, Timers):
        raise ValueError("the idle timers of IPVS can be set, not removed")
    return _START[Command.SET_CONFIG] + settings.timers_bytes(operation.after)


def _daemon(operation: Operation, key: SyncKey) -> Iterator[bytes]:
    if operation.verb is not Verb.ADD:
        yield _START[Command.DEL_DAEMON] + settings.daemon_key_bytes(key)
    if isinstance(operation.after, SyncDaemon):
        yield _START[Command.NEW_DAEMON] + settings.daemon_bytes(key, operation.after)
