"""What the eBPF program has counted, as Counters of services and real servers. Pure."""

from collections.abc import Collection, Mapping, Sequence

from kernlb.counters import Counters
from kernlb.engines import abi
from kernlb.engines.carried import Book
from kernlb.model import Forwarding, Key


def counters(
    book: Book,
    traffics: Sequence[abi.Traffic],
    *,
    live: Mapping[int, tuple[int, int]],
    unused: Collection[int],
) -> dict[Key, Counters]:
    """By the numbers of servers: their traffic, the connections of full NAT that are established and others, and the
    servers that were sent nothing for the idle timeout."""
    found: dict[Key, Counters] = {}
    for service, carried in book.services.items():
        parts = []
        for key, member in carried.members.items():
            traffic = traffics[member.id]
            active, inactive = live.get(member.id, (0, 0))
            translated = member.value.forwarding is Forwarding.FULLNAT
            # A gateway that sees one direction knows of no connection, but that none is in use any more.
            known = translated or (not member.value.weight and member.id in unused)
            parts.append(
                Counters(
                    connections=traffic.flows,
                    packets_in=traffic.packets_in,
                    packets_out=traffic.packets_out if translated else None,
                    bytes_in=traffic.bytes_in,
                    bytes_out=traffic.bytes_out if translated else None,
                    active_connections=active if known else None,
                    inactive_connections=inactive if known else None,
                )
            )
            found[key] = parts[-1]
        found[service] = _sum(parts)
    return found


def _sum(parts: Sequence[Counters]) -> Counters:
    def total(name: str) -> int | None:
        values = [getattr(part, name) for part in parts]
        return None if None in values else sum(values)

    return Counters(*(total(name) for name in Counters.__dataclass_fields__))
