"""What `nft -j list table` says, as keys and values. What is not of kernlb's shape is passed over."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from kernlb.engines.nft.static import Static
from kernlb.model import (
    Exempt,
    ExemptKey,
    Family,
    IPAddress,
    Key,
    Limit,
    LimitKey,
    Mark,
    MarkKey,
    Protocol,
    Ruleset,
    RulesetKey,
    SourceKey,
    SourceNat,
    Value,
)
from kernlb.ports import PortRange

PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_NUMBERS = {number: protocol for protocol, number in PROTOCOLS.items()}
MASQUERADE = "masquerading"
INCOMPLETE = Ruleset("")
"""The table is there, but not all of its static part."""

LIMIT_SETS = ("limits", "limits_lowered")


@dataclass(slots=True)
class Listing:
    """`limits` has the numbers in force by the name of their set and the mark they are kept under; `chains` the
    source NAT of each dynamic chain. `foreign_marks` counts packets, `refused` connections by mark."""

    table: dict[Key, Value] = field(default_factory=dict)
    limits: dict[str, dict[int, int]] = field(default_factory=lambda: {name: {} for name in LIMIT_SETS})
    chains: dict[str, SourceNat] = field(default_factory=dict)
    present: frozenset[str] = frozenset()
    foreign_marks: int = 0
    refused: dict[int, int] = field(default_factory=dict)


def parse(document: Mapping[str, Any], *, wanted: Static, mark_base: int) -> Listing:
    listing = Listing()
    items = [next(iter(item.items())) for item in document["nftables"]]
    tags: dict[str, list[str]] = defaultdict(list)
    objects: set[str] = set()
    for kind, body in items:
        match kind:
            case "rule":
                tags[body["chain"]].append(body.get("comment", ""))
                if body["chain"].startswith("from_"):
                    listing.chains[body["chain"]] = _source(body["expr"])
            case "chain":
                tags.setdefault(body["name"], [])
            case "set" | "map" | "counter":
                objects.add(body["name"])
    listing.present = frozenset(tags)
    whole = wanted.objects <= objects and all(tags.get(chain) == list(known) for chain, known in wanted.tags.items())
    listing.table[RulesetKey()] = Ruleset(wanted.digest) if whole else INCOMPLETE
    for kind, body in items:
        match kind:
            case "set" | "map":
                for element, data in _elements(body):
                    _take(listing, body["name"], element, data)
            case "counter" if body["name"] == "foreign_marks":
                listing.foreign_marks = body["packets"]
    for mark in {mark for numbers in listing.limits.values() for mark in numbers}:
        number = min(numbers[mark] for numbers in listing.limits.values() if mark in numbers)
        listing.table[LimitKey(None if mark == mark_base else mark)] = Limit(number)
    return listing


def _elements(body: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Each element of a set or map as {"val": …} and, for a map, its data."""
    for entry in body.get("elem", ()):
        element, data = entry if isinstance(entry, list) else (entry, None)
        yield element["elem"] if isinstance(element, dict) and "elem" in element else {"val": element}, data


def _take(listing: Listing, name: str, element: Mapping[str, Any], data: Any) -> None:
    value = element["val"]
    parts = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
    match name.split("_"):
        case ["limits", *_] if "ct count" in element:
            listing.limits[name][value] = element["ct count"]["val"]
        case ["refused"]:
            listing.refused[value] = element.get("counter", {}).get("packets", 0)
        case [kind, *any_port, family] if family in tuple(Family):
            ports = (0, 0) if any_port else _ports(parts.pop())
            protocol = _protocol(parts.pop())
            if ports is None or protocol is None:
                return
            try:
                _endpoint(listing, kind, Family(family), parts, protocol, ports, data)
            except (ValueError, IndexError):
                return


def _endpoint(
    listing: Listing,
    kind: str,
    family: Family,
    parts: Sequence[Any],
    protocol: Protocol,
    ports: tuple[int, int],
    data: Any,
) -> None:
    match kind:
        case "wildcard":
            listing.table[MarkKey(family, protocol, *ports)] = Mark(data)
        case "marks":
            listing.table[MarkKey(ip_address(parts[0]), protocol, *ports)] = Mark(data)
        case "exempt":
            listing.table[ExemptKey(ip_address(parts[0]), protocol, ports[0])] = Exempt()
        case "source":
            chain = data["goto"]["target"]
            source = SourceNat() if chain == MASQUERADE else listing.chains[chain]
            listing.table[SourceKey(parts[0], ip_address(parts[1]), protocol, ports[0])] = source


def _ports(value: Any) -> tuple[int, int] | None:
    match value:
        case int():
            return value, value
        case {"range": [int(first), int(last)]}:
            return first, last
    return None


def _protocol(value: Any) -> Protocol | None:
    # By name where nft reads /etc/protocols all the same.
    return Protocol(value) if value in tuple(Protocol) else _NUMBERS.get(value)


def _source(expressions: Sequence[Mapping[str, Any]]) -> SourceNat:
    sources: tuple[IPAddress, ...] = ()
    ports: tuple[int, int] | None = None
    for expression in expressions:
        match expression:
            case {"snat": {"addr": {"map": {"data": {"set": pairs}}}}}:
                sources = tuple(ip_address(address) for _, address in pairs)
            case {"snat": {"addr": str(address)}}:
                sources = (ip_address(address),)
        match expression:
            case {"snat": {"port": taken}} | {"masquerade": {"port": taken}}:
                ports = _ports(taken)
    return SourceNat(sources, PortRange(*ports) if ports else None)
