"""What an examination finds. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """WARNING may be as meant, or cannot be seen from here; PROBLEM cannot work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """`topic` is what was looked at, `about` the part of the machine or of the configuration. `fix` says what mends
    it, and is empty where nothing has to be mended."""

    topic: str
    about: str
    verdict: Verdict
    cause: str
    fix: str = ""


def healthy(findings: list[Finding]) -> bool:
    return all(finding.verdict is not Verdict.PROBLEM for finding in findings)
