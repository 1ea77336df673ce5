"""Which real servers have connections that begin and get no further, by what the eBPF program counts."""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.uint64]


class Silence:
    """Compares one look with the one before."""

    def __init__(self) -> None:
        self._before = np.zeros((0, 2), dtype=np.int64)

    def look(self, begun: Counts, arrived: Counts) -> frozenset[int]:
        """Numbers of servers that were sent SYNs and next to nothing else since the last look: of connections that are
        answered, at least two more packets arrive each."""
        now = np.stack([begun, arrived], axis=1).astype(np.int64)
        known = min(len(now), len(self._before))
        grown = now[:known] - self._before[:known]
        self._before = now
        new, packets = grown[:, 0], grown[:, 1]
        return frozenset(np.nonzero((new > 0) & (packets >= new) & (2 * packets < 3 * new))[0].tolist())
