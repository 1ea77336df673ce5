"""The director of the demo: kernlb itself, called as its user calls it, inside the director's namespace."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from kernlb.errors import KernlbError


class Director:
    """Runs `kernlb VERB` in a namespace, with lock and state in a directory of the demo's own."""

    def __init__(self, namespace: str, directory: Path) -> None:
        self._options = [
            "--netns",
            namespace,
            "--run-dir",
            str(directory / "run"),
            "--state-dir",
            str(directory / "state"),
        ]

    def call(self, verb: str, *arguments: str, allowed: tuple[int, ...] = (0,)) -> tuple[int, str]:
        """Exit code and output. Raises KernlbError on any code that is not allowed."""
        done = subprocess.run(
            [sys.executable, "-m", "kernlb", *self._options, verb, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode not in allowed:
            raise KernlbError(
                f"kernlb {verb} exited {done.returncode}: {(done.stderr or done.stdout).strip()}",
                hint="this should not happen; please report it with the text above",
            )
        return done.returncode, done.stdout

    def ask(self, verb: str, *arguments: str, allowed: tuple[int, ...] = (0,)) -> Any:
        """The JSON that a verb prints."""
        return json.loads(self.call(verb, *arguments, "--json", allowed=allowed)[1])
