"""The configuration in force, kept beside the state: operators' orders need it where no daemon runs."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kernlb.errors import KernlbError
from kernlb.formats.detect import Format
from kernlb.places import Places
from kernlb.source import Source, understand
from kernlb.state import StateError, write_or_aside


class NothingApplied(KernlbError):
    """There is no configuration in force that kernlb knows of."""

    kind = "nothing-applied"


@dataclass(frozen=True, slots=True)
class Applied:
    """`consent` is what the user allowed beyond the ordinary, by the names of reconciler.Consent."""

    source: Source
    consent: Mapping[str, bool]


def remember(places: Places, source: Source, consent: Mapping[str, bool]) -> StateError | None:
    """As `write_or_aside`."""
    document = {
        "file": source.file,
        "format": str(source.format),
        "content": b64encode(source.content).decode(),
        "consent": dict(consent),
    }
    return write_or_aside(places.applied, _aside(places), json.dumps(document))


def recall(places: Places) -> Applied:
    """Raises NothingApplied where nothing was, StateError where it cannot be understood. What lies aside is newer."""
    aside = _aside(places)
    path = aside if aside is not None and aside.exists() else places.applied
    try:
        document = json.loads(path.read_text())
        content = b64decode(document["content"])
        source = understand(content, str(document["file"]), format=Format(document["format"]))
        return Applied(source, {str(what): bool(given) for what, given in document["consent"].items()})
    except FileNotFoundError as error:
        raise NothingApplied(
            "no configuration was applied here", where=str(path), hint="kernlb apply FILE, or kernlb run FILE"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(
            f"cannot read the configuration in force: {error}", where=str(path), hint="kernlb apply FILE writes it anew"
        ) from error


def _aside(places: Places) -> Path | None:
    """None where both are one place."""
    return None if places.applied_aside == places.applied else places.applied_aside
