"""The project's own shell scripts, as shellcheck reads them."""

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PLACES = (".ci", "debian", "tests")
SHELL = re.compile(rb"#!/bin/(ba)?sh\n|# shellcheck shell=")


def scripts() -> list[Path]:
    """By their first line, wherever the project has any. Templates are read once they are filled in."""
    files = (path for place in PLACES for path in (REPOSITORY / place).rglob("*") if path.is_file())
    return sorted(path.relative_to(REPOSITORY) for path in files if SHELL.match(path.read_bytes()))


@pytest.mark.shellcheck
@pytest.mark.parametrize("script", scripts(), ids=str)
def test_shellcheck_finds_nothing_in_a_script(script: Path) -> None:
    read = ["shellcheck", "--external-sources", script]
    done = subprocess.run(read, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
