"""What the kernel counts; never mixed with configuration."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the thing was made. None where the engine cannot know."""

    connections: int | None = None
    packets_in: int | None = None
    packets_out: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    active_connections: int | None = None
    inactive_connections: int | None = None

    @property
    def live(self) -> int | None:
        """Connections that a removal would break."""
        return self.active_connections
