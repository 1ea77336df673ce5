"""What a run of the lab reports."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.vagrant.steps import Steps


def test_a_run_that_fails_has_told_of_every_step_so_far(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    with steps.step("the box"):
        pass

    def fail() -> None:
        with steps.step("vagrant up") as step:
            step.figures = "2 machines"
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    suite = ElementTree.parse(tmp_path / "steps.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite if case.find("failure") is not None] == ["vagrant up"]
    box, up, total = (tmp_path / "times.txt").read_text().splitlines()
    assert box.startswith("ok   the box ")
    assert up.startswith("FAIL vagrant up ")
    assert up.endswith("2 machines")
    assert total.split()[:2] == ["in", "all"]
