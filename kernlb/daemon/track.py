"""One number in a file, for VRRP: minus the services that lack quorum. keepalived's track_file reads it."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kernlb.pool import Pool

MOST = 12
"""keepalived gives 20 points a service, and takes less than -253 for a failure of the whole director."""


def number(pools: Mapping[str, Pool]) -> int:
    """0 where every service has quorum, -MOST at least."""
    return -min(MOST, sum(not each.quorum for each in pools.values()))


class Track:
    """The file stays when the daemon ends: the services do too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told: int | None = None

    def tell(self, pools: Mapping[str, Pool]) -> None:
        """Writes what changed. A file that cannot be written is tried again the next time."""
        wanted = number(pools)
        if wanted == self._told:
            return
        # Renamed into place: who reads sees the old number or the new one.
        fresh = self._path.with_name(f".{self._path.name}")
        with suppress(OSError):
            fresh.write_text(f"{wanted}\n")
            fresh.chmod(0o644)
            fresh.rename(self._path)
            self._told = wanted
