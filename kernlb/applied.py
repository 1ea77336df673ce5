"""The configuration in force, kept beside the state: operators' orders need it where no daemon runs."""

import json
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from pathlib import Path

from kernlb.errors import KernlbError
from kernlb.formats.detect import Format
from kernlb.reconciler import Consent
from kernlb.source import Source, understand
from kernlb.state import StateError, write_whole


class NothingApplied(KernlbError):
    """There is no configuration in force that kernlb knows of."""

    kind = "nothing-applied"


@dataclass(frozen=True, slots=True)
class Applied:
    source: Source
    consent: Consent


def remember(path: Path, source: Source, consent: Consent) -> None:
    """Raises StateError where the disk is full or not writable."""
    document = {
        "file": source.file,
        "format": str(source.format),
        "content": b64encode(source.content).decode(),
        "consent": asdict(consent),
    }
    write_whole(path, json.dumps(document))


def recall(path: Path) -> Applied:
    """Raises NothingApplied where nothing was, StateError where it cannot be understood."""
    try:
        document = json.loads(path.read_text())
        content = b64decode(document["content"])
        source = understand(content, str(document["file"]), format=Format(document["format"]))
        return Applied(source, Consent(**document["consent"]))
    except FileNotFoundError as error:
        raise NothingApplied(
            "no configuration was applied here", where=str(path), hint="kernlb apply FILE, or kernlb run FILE"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"cannot read the configuration in force: {error}", where=str(path), hint="kernlb apply FILE writes it anew"
        ) from error
