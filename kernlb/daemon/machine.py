"""What a daemon is given of this machine: its kernel with the signs of drift, and its file."""

from dataclasses import asdict
from functools import partial

from kernlb import applied
from kernlb.checks.privileges import BECOME, may_become_others
from kernlb.checks.spec import CommandProbe
from kernlb.config.values import Config
from kernlb.daemon.options import Machine
from kernlb.desired import Meaning
from kernlb.errors import Unsupported
from kernlb.formats.detect import Format
from kernlb.machine import meaning, open_kernel
from kernlb.ownership import Ownership
from kernlb.places import Places
from kernlb.ratings import all_servers
from kernlb.reconciler import Consent
from kernlb.source import Source, read, understand
from kernlb.watch import Watch


def open_signs(config: Config, owned: Ownership, *, consent: Consent) -> Watch:
    return Watch(open_kernel(config, owned, lasting=True, force=consent.force))


def machine(file: str, format: str | None, *, places: Places, consent: Consent) -> Machine:
    """`file` and its format as given to the daemon."""
    return Machine(
        open=partial(open_signs, consent=consent),
        meaning=_meaning,
        read=partial(_read, file, format),
        understand=_understand,
        remember=partial(_remember, places=places, consent=consent),
    )


def _remember(source: Source, *, places: Places, consent: Consent) -> None:
    """Raises StateError also where it lies aside, so that people hear of it."""
    unwritten = applied.remember(places, source, asdict(consent))
    if unwritten is not None:
        raise unwritten


def _meaning(config: Config) -> Meaning:
    """Raises Unsupported where checks could not be carried out: they would find every server down."""
    for service in config.services:
        for server in all_servers(service):
            users = [c.probe.user for c in server.checks if isinstance(c.probe, CommandProbe) and c.probe.user]
            if users and not may_become_others():
                raise Unsupported(
                    f"the check of {server.name} is to run as {users[0]}, which this process may not become",
                    where=f"service.{service.name}",
                    hint=BECOME,
                )
    return meaning(config)


def _read(file: str, format: str | None) -> Source:
    return read(file, format=Format(format) if format else None)


def _understand(content: bytes, file: str, format: str | None) -> Source:
    return understand(content, file, format=Format(format) if format else None)
