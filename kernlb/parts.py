"""A Table cut along its virtual services. Pure. A part that did not change stays the same object: whoever compares
two cuts looks only at the parts that are not."""

from collections.abc import Collection, Mapping

from kernlb.model import Key, ServiceKey, Table, Value, service_of

Parts = Mapping[ServiceKey | None, Table]
"""By virtual service, itself and its real servers; None holds all that belongs to none. Nobody changes one in place."""


def cut(table: Table) -> Parts:
    parts: dict[ServiceKey | None, dict[Key, Value]] = {}
    for key, value in table.items():
        parts.setdefault(service_of(key), {})[key] = value
    return parts


def whole(parts: Parts, only: Collection[ServiceKey | None] | None = None) -> dict[Key, Value]:
    """One Table again, of all parts or of those named."""
    table: dict[Key, Value] = {}
    for part in parts.values() if only is None else (parts.get(key, {}) for key in only):
        table.update(part)
    return table


def changed(after: Parts, before: Parts) -> set[ServiceKey | None]:
    """The parts that may differ: different objects, or on one side only."""
    if after is before:
        return set()
    found = {key for key, part in after.items() if before.get(key) is not part}
    if len(after) - sum(key not in before for key in found) < len(before):
        found |= {key for key in before if key not in after}
    return found
