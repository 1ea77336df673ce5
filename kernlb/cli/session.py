"""One call of the command line: its common options, and what they open."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kernlb.errors import Unsupported

if TYPE_CHECKING:
    from kernlb.config.values import Config
    from kernlb.places import Places
    from kernlb.reconciler import Consent, Reconciler
    from kernlb.state import Store

_CAP_NET_ADMIN = 12


@dataclass(slots=True)
class Session:
    netns: str | None = None
    as_json: bool = False
    debug: bool = False
    run_dir: str = "/run/kernlb"
    state_dir: str = "/var/lib/kernlb"
    wait: float = 30.0
    _places: "Places | None" = field(default=None, init=False)

    def places(self) -> "Places":
        """Where things are. The first call enters the network namespace that was asked for."""
        from kernlb.places import Places, current_namespace, enter

        if self._places is None:
            if self.netns:
                enter(self.netns)
            self._places = Places(namespace=current_namespace(), run=Path(self.run_dir), state=Path(self.state_dir))
        return self._places

    def store(self) -> "Store":
        """What this namespace's kernlb remembers."""
        from kernlb.state import Store

        places = self.places()
        return Store(places.state_file, aside=places.state_aside)

    def reconciler(self, config: "Config", consent: "Consent") -> "Reconciler":
        """The writer for a configuration, in the right network namespace."""
        from kernlb.machine import listening, open_kernel
        from kernlb.reconciler import Reconciler

        store = self.store()
        state = store.load()
        kernel = open_kernel(config, state.ownership, force=consent.force)
        return Reconciler(kernel, store, consent, listening, state=state)

    @contextmanager
    def writing(self, purpose: str) -> Iterator[None]:
        """Nobody else changes this namespace meanwhile. Raises Conflict after `wait` seconds."""
        from kernlb.lock import lock

        with lock(self.places().lock, purpose=purpose, wait=self.wait):
            yield


def need_net_admin(verb: str) -> None:
    """Raises Unsupported naming the capability without which the kernel tells and takes nothing."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    if not effective >> _CAP_NET_ADMIN & 1:
        raise Unsupported(
            f"{verb} needs the capability CAP_NET_ADMIN, which user {os.geteuid()} has not",
            hint=f"sudo kernlb {verb} …",
        )
