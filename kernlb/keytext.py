"""Keys and a few values as JSON-safe text and back, for the state file. One line each, readable by a person."""

from ipaddress import ip_address

from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Fwmark,
    IPAddress,
    Key,
    Protocol,
    ServerKey,
    ServiceKey,
    SyncKey,
    SyncRole,
    Sysctl,
    SysctlKey,
    Timers,
    TimersKey,
    Value,
    VipKey,
)


def key_text(key: Key) -> str:
    """Raises TypeError for keys that no state file keeps."""
    match key:
        case Endpoint(engine=engine, protocol=protocol, address=address, port=port):
            return f"service {engine} {protocol} {address} {port}"
        case Fwmark(family=family, mark=mark, engine=engine):
            return f"fwmark {engine} {family} {mark}"
        case ServerKey(service=service, address=address, port=port):
            return f"server {address} {port} of {key_text(service)}"
        case SysctlKey(name=name):
            return f"sysctl {name}"
        case TimersKey():
            return "timers"
        case SyncKey(role=role):
            return f"sync {role}"
        case VipKey(interface=interface, address=address):
            return f"vip {address} {interface}"
    raise TypeError(f"not kept: {key}")


def key_from(text: str) -> Key:
    """Raises ValueError where the text is no key."""
    match text.split(" "):
        case ["service" | "fwmark", *_]:
            return _service(text)
        case ["server", address, port, "of", *service]:
            return ServerKey(_service(" ".join(service)), ip_address(address), int(port))
        case ["sysctl", name]:
            return SysctlKey(name)
        case ["timers"]:
            return TimersKey()
        case ["sync", role]:
            return SyncKey(SyncRole(role))
        case ["vip", address, interface]:
            return VipKey(interface, ip_address(address))
    raise ValueError(f"no key: {text!r}")


def _service(text: str) -> ServiceKey:
    match text.split(" "):
        case ["service", engine, protocol, address, port]:
            return Endpoint(EngineName(engine), Protocol(protocol), _address(address), int(port))
        case ["fwmark", engine, family, mark]:
            return Fwmark(Family(family), int(mark), EngineName(engine))
    raise ValueError(f"no virtual service: {text!r}")


def _address(text: str) -> IPAddress | Family:
    return Family(text) if text in tuple(Family) else ip_address(text)


def value_text(value: Value) -> str:
    """Of the settings that the whole namespace shares."""
    match value:
        case Sysctl(value=content):
            return f"sysctl {content}"
        case Timers(tcp=tcp, tcp_fin=tcp_fin, udp=udp):
            return f"timers {tcp} {tcp_fin} {udp}"
    raise TypeError(f"not kept: {value}")


def value_from(text: str) -> Value:
    kind, _, rest = text.partition(" ")
    if kind == "sysctl":
        return Sysctl(rest)
    if kind == "timers":
        return Timers(*map(int, rest.split()))
    raise ValueError(f"no setting: {text!r}")
