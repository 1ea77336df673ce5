"""One report for tests here and elsewhere: what each did is told under its own name, also when its process is lost."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE = 360
"""Seconds: on a busy machine a guest that runs pytest took 78."""

pytestmark = pytest.mark.timeout(DEADLINE + 40)

GUEST_TESTS = """
import os
from pathlib import Path
import pytest

def test_on_the_host():
    assert "KERNLB_GUEST" not in os.environ

@pytest.mark.ipvs
def test_passes():
    assert Path("/proc/net/ip_vs").exists()

@pytest.mark.ipvs
@pytest.mark.parametrize("word", ["a b", "\u00e9[x]"])
def test_fails(word):
    print("seen in the guest")
    assert word == "something else"

@pytest.mark.ipvs
def test_skips():
    pytest.skip("for a reason")

@pytest.mark.ipvs
@pytest.mark.xfail(strict=True)
def test_fails_as_expected():
    assert not Path("/proc/net/ip_vs").exists()

@pytest.fixture
def broken():
    raise RuntimeError("no such fixture")

@pytest.mark.ipvs
def test_errs(broken):
    pass
"""

LOST_TESTS = """
import os, subprocess, time
import pytest

@pytest.mark.ipvs
def test_finishes():
    pass

@pytest.mark.ipvs
def test_ends_its_guest():
    assert "KERNLB_GUEST" in os.environ
    print("\\nfarewell", flush=True)
    subprocess.run(["/run/vm/busybox", "poweroff", "-f"])
    time.sleep(60)
"""


def suite(directory: Path, tests: str, *options: str, **environment: str) -> tuple[dict[str, str], str]:
    """Run a suite of its own with this project's plugins; outcome by test name, and what pytest printed."""
    (directory / "conftest.py").write_text("from tests.conftest import *\n")
    (directory / "test_it.py").write_text(tests)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir=.", "--junitxml=report.xml", "-s"]
    done = subprocess.run(
        [*words, *options],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "KERNLB_REQUIRE": ""} | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    cases = ElementTree.parse(directory / "report.xml").iter("testcase")
    return {case.attrib["name"]: next((c.tag for c in case), "passed") for case in cases}, done.stdout


@pytest.mark.qemu
@pytest.mark.root
def test_every_outcome_of_a_guest_test_is_in_the_host_s_report(tmp_path: Path) -> None:
    outcomes, printed = suite(tmp_path, GUEST_TESTS)
    assert outcomes == {
        "test_on_the_host": "passed",
        "test_passes": "passed",
        "test_fails[a b]": "failure",
        "test_fails[\\xe9[x]]": "failure",
        "test_skips": "skipped",
        "test_fails_as_expected": "skipped",
        "test_errs": "error",
    }
    assert "AssertionError: assert 'a b' == 'something else'" in printed
    assert "no such fixture" in printed


@pytest.mark.qemu
@pytest.mark.root
@pytest.mark.skipif(Path("/proc/net/ip_vs").exists(), reason="this kernel has IPVS: no guest is used")
def test_a_guest_that_is_lost_fails_the_tests_it_left_and_shows_its_last_words(tmp_path: Path) -> None:
    outcomes, printed = suite(tmp_path, LOST_TESTS)
    assert outcomes == {"test_finishes": "passed", "test_ends_its_guest": "failure"}
    assert "the guest ended" in printed
    assert "farewell" in printed


MEETING = """
import os, time
from pathlib import Path
import pytest

def meet(mine, other):
    Path(mine).write_text(str(os.getpid()))
    deadline = time.monotonic() + 60
    while not Path(other).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
"""

BOOTED_TESTS = """
@pytest.mark.booted
def test_apart():
    meet("apart", "here")
    assert Path("here").read_text() != str(os.getpid())

def test_here():
    meet("here", "apart")

@pytest.mark.booted
def test_fails():
    print("seen beside")
    assert False

@pytest.mark.booted
def test_ends_its_process():
    os._exit(3)
"""


def test_what_boots_machines_runs_beside_the_others_and_is_in_the_report_also_when_its_process_is_lost(
    tmp_path: Path,
) -> None:
    outcomes, printed = suite(tmp_path, MEETING + BOOTED_TESTS)
    assert outcomes == {
        "test_apart": "passed",
        "test_here": "passed",
        "test_fails": "failure",
        "test_ends_its_process": "failure",
    }
    assert "the process beside ended (status 3)" in printed


STOPPED_TESTS = """
@pytest.mark.booted
def test_goes_on():
    try:
        meet("apart", "never")
    finally:
        Path("ended").touch()

def test_fails():
    meet("here", "apart")
    assert False
"""


def test_what_boots_machines_is_told_when_its_session_ends_and_finishes_what_it_began(tmp_path: Path) -> None:
    outcomes, _ = suite(tmp_path, MEETING + STOPPED_TESTS, "-x")
    assert outcomes == {"test_fails": "failure"}
    assert (tmp_path / "ended").exists()


NEEDY = "import pytest\n\n@pytest.mark.haproxy\ndef test_needs_it():\n    pass\n"


def test_what_is_missing_skips_by_name_and_is_summed_up_before_the_closing_line(tmp_path: Path) -> None:
    outcomes, printed = suite(tmp_path, NEEDY, PATH="/nowhere")
    assert outcomes == {"test_needs_it": "skipped"}
    *_, left_out, closing = printed.splitlines()
    assert left_out == "1 test: needs haproxy: no program haproxy (Debian: apt install haproxy)"
    assert "1 skipped" in closing


def test_what_is_missing_fails_where_it_is_required(tmp_path: Path) -> None:
    outcomes, printed = suite(tmp_path, NEEDY, PATH="/nowhere", KERNLB_REQUIRE="root,haproxy")
    assert set(outcomes.values()) <= {"failure", "error"}
    assert "needs haproxy" in printed
