"""Keys, values and operations as the lines that people read in `plan`, `apply` and logs."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from enum import StrEnum
from functools import lru_cache

from kernlb.desired import Name
from kernlb.model import (
    Bounds,
    CheckTimeoutsKey,
    Endpoint,
    ExemptKey,
    Family,
    Fwmark,
    IPAddress,
    Key,
    LimitKey,
    Mark,
    MarkKey,
    Persistence,
    RealServer,
    RulesetKey,
    ServerKey,
    SourceKey,
    SourceNat,
    SyncKey,
    SysctlKey,
    TimersKey,
    Tunnel,
    Value,
    VipKey,
)
from kernlb.plan import Operation, Verb

SIGNS = {Verb.ADD: "+", Verb.CHANGE: "~", Verb.QUIESCE: "~", Verb.REMOVE: "-"}


def operation(op: Operation, names: Mapping[Key, Name]) -> str:
    """One line: what is done, to what, and what it is configured as or what changes in it."""
    line = f"{SIGNS[op.verb]} {thing(op.key, names)}"
    match op.verb:
        case Verb.ADD if op.after is not None:
            details = " ".join(_details(op.after))
        case Verb.REMOVE:
            details = ""
        case Verb.QUIESCE:
            details = "weight 0, until its connections end"
        case _ if op.before is not None and op.after is not None:
            details = ", ".join(_changes(op.before, op.after))
        case _:
            details = ""
    return f"{line} {details}".rstrip()


def described(key: Key, value: Value, names: Mapping[Key, Name]) -> str:
    """What a key names and what it is configured as, in one line."""
    return f"{thing(key, names)} {' '.join(_details(value))}".rstrip()


def thing(key: Key, names: Mapping[Key, Name] | None = None) -> str:
    """What a key names, with the configured name where there is one."""
    name = (names or {}).get(key)
    return f"{_thing(key)} ({name})" if name else _thing(key)


def _thing(key: Key) -> str:
    match key:
        case Endpoint(protocol=protocol, address=address, port=port):
            return f"virtual service {protocol} {socket_address(address, port)}"
        case Fwmark(family=family, mark=mark):
            return f"virtual service fwmark {mark:#x} {family}"
        case ServerKey(service=service, address=address, port=port):
            return f"real server {socket_address(address, port)} of {_thing(service).removeprefix('virtual service ')}"
        case SysctlKey(name=name):
            return f"setting {name} (whole namespace)"
        case TimersKey():
            return "idle timers of IPVS (whole namespace)"
        case SyncKey(role=role):
            return f"sync daemon {role}"
        case RulesetKey():
            return "nftables table inet kernlb"
        case CheckTimeoutsKey():
            return "conntrack timeouts of checks"
        case MarkKey(address=address, protocol=protocol, first=first, last=last):
            ports = f"{first}" if first == last else f"{first}-{last}"
            return f"mark for {protocol} {socket_address(address, ports)}"
        case ExemptKey(address=address, protocol=protocol, port=port):
            return f"exemption from wildcards for {protocol} {socket_address(address, port)}"
        case LimitKey(mark=None):
            return "connection limit of all services"
        case LimitKey(mark=int(mark)):
            return f"connection limit of mark {mark:#x}"
        case SourceKey(mark=mark, address=address, protocol=protocol, port=port):
            return f"source NAT of mark {mark:#x} to {protocol} {socket_address(address, port)}"
        case VipKey(interface=interface, address=address):
            return f"address {address} on {interface}"
    raise TypeError(key)


@lru_cache(maxsize=1 << 15)
def socket_address(address: IPAddress | Family, port: int | str) -> str:
    match address:
        case Family.IPV4:
            return f"*:{port}"
        case Family.IPV6:
            return f"[::]:{port}"
        case _:
            return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _details(value: Value) -> Iterator[str]:
    match value:
        case RealServer(forwarding=forwarding, weight=weight):
            yield f"{forwarding} weight {weight}"
            if value.upper_threshold:
                yield f"thresholds {value.lower_threshold}..{value.upper_threshold}"
            if value.tunnel:
                yield _text(value.tunnel)
        case Mark(mark=mark):
            yield f"{mark:#x}"
        case SourceNat(sources=(), ports=ports):
            yield "from the route's own address" + (f", ports {ports}" if ports else "")
        case _:
            for field in fields(value):
                content = getattr(value, field.name)
                if content not in (None, False, frozenset(), ()):
                    yield f"{field.name.replace('_', ' ')} {_text(content)}"


def _changes(before: Value, after: Value) -> Iterator[str]:
    if isinstance(before, SourceNat) and isinstance(after, SourceNat):
        yield " -> ".join(" ".join(_details(each)) for each in (before, after))
        return
    for field in fields(after):
        old, new = getattr(before, field.name, None), getattr(after, field.name)
        if old != new:
            yield f"{field.name.replace('_', ' ')} {_text(old)} -> {_text(new)}"


def _text(content: object) -> str:
    match content:
        case Persistence(timeout=timeout, prefix=prefix, engine=engine):
            return f"{timeout} s, clients by /{prefix}" + (f", by {engine}" if engine else "")
        case Bounds(connections=connections, together=together):
            parts = [f"{connections:,} connections"] if connections else []
            return ", ".join([*parts, f"{together:,} of all services"] if together else parts)
        case Tunnel(kind=kind, port=port, checksum=checksum):
            return f"{kind}" + (f" port {port}" if port else "") + ("" if checksum == "none" else f" {checksum}")
        case None | ():
            return "none"
        case StrEnum() | str():
            return str(content)
        case frozenset() | tuple():
            return ",".join(sorted(str(item) for item in content)) or "none"
        case bool():
            return "yes" if content else "no"
        case _:
            return str(content)
