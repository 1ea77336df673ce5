"""The passive watch of a daemon: whose packets are looked at, as its configuration and the kernel change."""

from collections.abc import Callable, Container, Mapping, Sequence

from kernlb.config.values import Config
from kernlb.daemon.watched import bypassing
from kernlb.journal import Journal, Level
from kernlb.model import ServerKey
from kernlb.passive import Passive, Silent
from kernlb.pool import ServerName


class Suspects:
    """`suspected` is called with each server that its traffic speaks against. Made inside a running loop."""

    def __init__(self, suspected: Callable[[ServerName], None], *, silent: Silent, journal: Journal) -> None:
        self._passive = Passive(suspected, silent=silent)
        self._aimed: object = None
        if self._passive.off:
            journal.say("passive-off", level=Level.WARNING, reason=self._passive.off)

    def aim(
        self, keys: Mapping[ServerName, Sequence[ServerKey]], *, checked: Container[ServerName], config: Config
    ) -> None:
        """At those of the kernel's servers that are checked: others cannot be asked anyway."""
        if self._aimed is not keys:
            self._aimed = keys
            aimed = {name: each for name, each in keys.items() if name in checked}
            self._passive.aim(aimed, bypassing=bypassing(config, aimed))

    def close(self) -> None:
        self._passive.close()
