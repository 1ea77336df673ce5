"""Operations as the script that one `nft -f -` carries out, all of it or nothing."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from kernlb.engines.nft.listing import INCOMPLETE, LIMIT_SETS, MASQUERADE, PROTOCOLS, Listing
from kernlb.engines.nft.static import BASE_CHAINS, TABLE, Static
from kernlb.model import (
    ExemptKey,
    Family,
    Key,
    Limit,
    LimitKey,
    Mark,
    MarkKey,
    RulesetKey,
    SourceKey,
    SourceNat,
    Value,
    family_of,
)
from kernlb.plan import Operation, Verb

_SEED = 0x6B65726E
"""Of the hash that spreads clients over source addresses: the same on every director."""


@dataclass(slots=True)
class Script:
    """The lines, and beside each the operation that it belongs to."""

    lines: list[str] = field(default_factory=list)
    owners: list[Operation | None] = field(default_factory=list)

    def add(self, text: str, owner: Operation | None = None) -> None:
        for line in text.splitlines():
            self.lines.append(line)
            self.owners.append(owner)

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


def script(operations: Sequence[Operation], listing: Listing, *, static: Static, mark_base: int) -> Script:
    """`listing` is what the kernel has now; it is brought up to what the script will leave."""
    result = Script()
    if removal := next((o for o in operations if isinstance(o.key, RulesetKey) and o.verb is Verb.REMOVE), None):
        result.add(f"delete table inet {TABLE}", removal)
        return result
    for operation in operations:
        for line in _lines(operation, listing, static, mark_base):
            result.add(line, operation)
    for chain in _unused(listing):
        result.add(f"flush chain inet {TABLE} {chain}\ndelete chain inet {TABLE} {chain}")
    return result


def _lines(operation: Operation, listing: Listing, static: Static, mark_base: int) -> Iterator[str]:
    key, before, after = operation.key, operation.before, operation.after
    match key:
        case RulesetKey():
            yield from _ruleset(listing, static)
        case LimitKey(mark=mark):
            number = after.connections if isinstance(after, Limit) else None
            yield from _limit(listing, mark_base if mark is None else mark, number)
        case MarkKey():
            yield from _mark(listing, key, after)
        case ExemptKey() | SourceKey():
            if isinstance(after, SourceNat):
                yield from _chain(listing, after)
            if before is not None:
                yield f"delete element inet {TABLE} {_element(key)}"
            if after is not None:
                yield f"add element inet {TABLE} {_element(key, after)}"
            _note(listing, key, after)


def _note(listing: Listing, key: Key, after: Value | None) -> None:
    if after is None:
        listing.table.pop(key, None)
    else:
        listing.table[key] = after


def _ruleset(listing: Listing, static: Static) -> Iterator[str]:
    """The static part anew. Sets and maps with all their elements stay as they are."""
    if listing.present or listing.table:
        for chain in static.tags:
            if chain in listing.present:
                yield f"flush chain inet {TABLE} {chain}"
        for chain in BASE_CHAINS:
            if chain in listing.present:
                yield f"delete chain inet {TABLE} {chain}"
    yield static.text
    listing.table[RulesetKey()] = INCOMPLETE


def _limit(listing: Listing, mark: int, number: int | None) -> Iterator[str]:
    """A number cannot be changed in place, and a new element knows of no connection that is open already.

    So a lower number is put beside the higher one, whose list goes on counting everything: together they never let
    more in than the higher one did. A higher number than all before starts a list anew.
    """
    held = {name: numbers[mark] for name, numbers in listing.limits.items() if mark in numbers}
    kept = max(held, key=lambda name: held[name]) if held and number is not None else None
    if kept is not None and number is not None and held[kept] < number:
        kept = None
    for name in held:
        if name != kept:
            yield f"delete element inet {TABLE} {name} {{ {mark:#x} }}"
            del listing.limits[name][mark]
    if number is not None and (kept is None or held[kept] != number):
        name = next(name for name in LIMIT_SETS if name != kept)
        yield f"add element inet {TABLE} {name} {{ {mark:#x} ct count over {number} }}"
        listing.limits[name][mark] = number


def _mark(listing: Listing, key: MarkKey, after: Value | None) -> Iterator[str]:
    """Port ranges of one address must not overlap in the kernel: the new one takes what it needs of the old ones, and
    what was taken from a range is not there to be removed."""
    for old in [known for known in listing.table if isinstance(known, MarkKey) and _overlap(known, key)]:
        value = listing.table[old]
        if after is None and not (key.first <= old.first and old.last <= key.last):
            continue
        if after is None and old != key and key in listing.table:
            continue
        yield f"delete element inet {TABLE} {_element(old)}"
        _note(listing, old, None)
        for rest in _rest(old, key) if after is not None else ():
            yield f"add element inet {TABLE} {_element(rest, value)}"
            _note(listing, rest, value)
    if after is not None:
        yield f"add element inet {TABLE} {_element(key, after)}"
        _note(listing, key, after)


def _overlap(one: MarkKey, other: MarkKey) -> bool:
    if (one.address, one.protocol) != (other.address, other.protocol) or (one.last == 0) != (other.last == 0):
        return False
    return one.first <= other.last and other.first <= one.last


def _rest(old: MarkKey, taken: MarkKey) -> Iterator[MarkKey]:
    if old.first < taken.first:
        yield replace(old, last=taken.first - 1)
    if taken.last < old.last:
        yield replace(old, first=taken.last + 1)


def _element(key: MarkKey | ExemptKey | SourceKey, value: Value | None = None) -> str:
    """`map { element }` as nft writes it, with its data where a value is given."""
    protocol = str(PROTOCOLS[key.protocol])
    match key:
        case MarkKey(address=Family() as family, first=first, last=last):
            name, parts = "wildcard", [protocol, _port_range(first, last)]
        case MarkKey(address=address, first=first, last=last):
            name, parts = "marks", [str(address), protocol, _port_range(first, last)]
        case ExemptKey(address=address, port=port):
            name, parts = "exempt", [str(address), protocol, _port_range(port, port)]
        case SourceKey(mark=mark, address=address, port=port):
            name, parts = "source", [f"{mark:#x}", str(address), protocol, _port_range(port, port)]
    if not isinstance(key.address, Family):
        family = family_of(key.address)
    if not parts[-1]:
        name, parts = f"{name}_any", parts[:-1]
    match value:
        case Mark(mark=mark):
            data = f" : {mark:#x}"
        case SourceNat():
            data = f" : goto {_chain_name(value)}"
        case _:
            data = ""
    return f"{name}_{family} {{ {' . '.join(parts)}{data} }}"


def _port_range(first: int, last: int) -> str:
    """Empty for any port."""
    if last == 0:
        return ""
    return str(first) if first == last else f"{first}-{last}"


def _chain_name(source: SourceNat) -> str:
    if source == SourceNat():
        return MASQUERADE
    words = [*map(str, source.sources), *([f":{source.ports}"] if source.ports else [])]
    return "from_" + hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]


def _chain(listing: Listing, source: SourceNat) -> Iterator[str]:
    """The chain that gives these source addresses and ports, unless it is there."""
    name = _chain_name(source)
    if name == MASQUERADE or name in listing.chains:
        return
    yield f"add chain inet {TABLE} {name}"
    yield f"add rule inet {TABLE} {name} {_translation(source)}"
    listing.chains[name] = source


def _translation(source: SourceNat) -> str:
    sources, ports = source.sources, source.ports
    # nft takes ports where the rule has matched protocols that have some.
    ported = "meta l4proto { tcp, udp } " if ports else ""
    taken = f" : {_port_range(ports.first, ports.last)}" if ports else ""
    if not sources:
        return f"{ported}masquerade to{taken}"
    ip = "ip" if sources[0].version == 4 else "ip6"
    if len(sources) == 1:
        target = str(sources[0])
    else:
        pairs = ", ".join(f"{number} : {address}" for number, address in enumerate(sources))
        target = f"jhash {ip} saddr mod {len(sources)} seed {_SEED:#x} map {{ {pairs} }}"
    return f"{ported}snat {ip} to {target}{taken}"


def _unused(listing: Listing) -> list[str]:
    used = {_chain_name(value) for value in listing.table.values() if isinstance(value, SourceNat)}
    return [chain for chain in listing.chains if chain not in used]
