"""One machine of the lab by Vagrant, each time: set up by Ansible, and again, and proven with real traffic."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.debian.booted import MARKS
from tests.vagrant.__main__ import REPOSITORY

# A busy machine, too, gets through it; minutes where nothing else runs.
PATIENCE = 2400
NEEDS = [pytest.mark.ansible, pytest.mark.libvirt, pytest.mark.vagrant]

pytestmark = [*NEEDS, *MARKS, pytest.mark.timeout(PATIENCE + 100)]


def test_a_director_alone_is_set_up_once_and_balances(package: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.vagrant", str(tmp_path / "seen")],
        cwd=REPOSITORY,
        env=os.environ | {"KERNLB_NODES": "lb1", "KERNLB_PACKAGE": str(package)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    steps = ElementTree.parse(tmp_path / "seen" / "steps.xml").getroot()
    proven = {"converge", "converge again: nothing changes", "a director alone balances"}
    assert proven <= {step.get("name") for step in steps}
