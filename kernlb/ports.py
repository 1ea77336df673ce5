"""Which source ports are left for full NAT when this machine's own connections have theirs. Pure."""

from dataclasses import dataclass

LOWEST, HIGHEST = 1024, 65535
"""Those below are root's, and what servers take for a privileged client."""


@dataclass(frozen=True, slots=True)
class PortRange:
    """Inclusive at both ends."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


ANY = PortRange(LOWEST, HIGHEST)


def left(local: str, reserved: str, *, within: PortRange | None = None) -> range:
    """The longest row within a range of what local connections never take: `local` is their range and `reserved` what
    they leave out of it, as net.ipv4.ip_local_port_range and ip_local_reserved_ports have them."""
    low, high = map(int, local.split())
    lowest, highest = ((within or ANY).first, (within or ANY).last)
    kept = [part.split("-") for part in reserved.strip().split(",") if part]
    free = [(LOWEST, low - 1), (high + 1, HIGHEST), *((int(part[0]), int(part[-1])) for part in kept)]
    rows: list[range] = []
    for first, last in sorted((max(first, lowest), min(last, highest)) for first, last in free):
        if rows and first <= rows[-1].stop:
            rows[-1] = range(rows[-1].start, max(rows[-1].stop, last + 1))
        else:
            rows.append(range(first, last + 1))
    return max(rows, key=len)
