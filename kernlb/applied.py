"""The configuration in force, kept beside the state: operators' orders need it where no daemon runs."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kernlb.errors import KernlbError
from kernlb.formats.detect import Format
from kernlb.source import Source, understand
from kernlb.state import StateError, write_whole


class NothingApplied(KernlbError):
    """There is no configuration in force that kernlb knows of."""

    kind = "nothing-applied"


@dataclass(frozen=True, slots=True)
class Applied:
    """`consent` is what the user allowed beyond the ordinary, by the names of reconciler.Consent."""

    source: Source
    consent: Mapping[str, bool]


def remember(path: Path, source: Source, consent: Mapping[str, bool]) -> None:
    """Raises StateError where the disk is full or not writable."""
    document = {
        "file": source.file,
        "format": str(source.format),
        "content": b64encode(source.content).decode(),
        "consent": dict(consent),
    }
    write_whole(path, json.dumps(document))


def recall(path: Path) -> Applied:
    """Raises NothingApplied where nothing was, StateError where it cannot be understood."""
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
