"""Since when servers have been sent nothing, from counters that were read now and then. Pure."""

from collections.abc import Mapping, Set


class Stillness:
    """By server number. A server counts as still from the first reading that a later one did not find moved."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, float]] = {}

    def look(self, packets: Mapping[int, int], *, now: float) -> None:
        """How many packets each server has been sent until now; who is not named is forgotten."""
        known = self._seen
        self._seen = {
            number: known[number] if number in known and known[number][0] == count else (count, now)
            for number, count in packets.items()
        }

    def of(self, seconds: float, *, now: float) -> Set[int]:
        """The servers that have been still for longer."""
        return {number for number, (_, since) in self._seen.items() if now - since > seconds}
