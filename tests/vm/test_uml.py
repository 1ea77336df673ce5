"""User Mode Linux as the runner of guests: what passes through, what ends it, what it leaves behind, what it tells."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.test_guest import DEADLINE, ROOT, command_line, started_for

pytestmark = [pytest.mark.uml, pytest.mark.root, pytest.mark.timeout(DEADLINE + 40)]

SPENDING = """
import time
from bench import clock
before = spent = clock.seconds()
while spent < before + 0.5:
    until = time.monotonic() + 0.2
    while time.monotonic() < until: pass
    spent = clock.seconds()
time.sleep(1)
print(clock.seconds() - spent)
"""


def in_guest(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line("--uml", *words), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)


def test_a_command_has_ipvs_and_its_output_status_and_shared_files_come_back(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    outside = tmp_path / "outside"
    script = """
        uname -r; pwd; id -u; echo "two  words: $WORDS"
        unshare --net ipvsadm -A -t 192.0.2.1:80 -s mh && cat /sys/module/ip_vs_mh/refcnt
        echo complaint >&2
        echo result >"$SHARED/result"; echo lost >"$OUTSIDE"; ls /run
        exit 7
    """
    variables = ["--env=WORDS=a  'b", f"--env=SHARED={shared}", f"--env=OUTSIDE={outside}"]
    done = in_guest(f"--share={shared}", *variables, "--", "sh", "-c", script)
    assert done.returncode == 7, done.stderr
    release, *rest = done.stdout.splitlines()
    assert release != platform.release()
    assert rest == [str(ROOT), "0", "two  words: a  'b", "0"]
    assert done.stderr == "complaint\n"
    assert (shared / "result").read_text() == "result\n"
    assert not outside.exists()


def test_what_the_guest_spends_of_the_processor_is_told_and_rest_costs_it_nothing() -> None:
    done = in_guest("--", sys.executable, "-c", SPENDING)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.1, "as it did not end before it had spent half a second"


def test_a_guest_that_panics_is_an_error_with_its_last_words() -> None:
    done = in_guest("--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60")
    assert done.returncode == 125
    assert "panic" in done.stderr


def test_a_command_that_takes_too_long_ends_with_124() -> None:
    done = in_guest("--timeout=3", "--", "sleep", "60")
    assert done.returncode == 124
    assert "sleep 60 took over 3 s" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_runner_ends_no_process_of_it_stays(number: signal.Signals, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    words = command_line("--uml", f"--share={share}", "--", "sh", "-c", f"touch {share}/runs; sleep 60")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    runner = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    _until(lambda: (share / "runs").exists())
    runner.send_signal(number)
    runner.wait(timeout=DEADLINE)
    _until(lambda: not started_for(tmp_path))
    if number is not signal.SIGKILL:
        assert list(tmp_path.iterdir()) == [share]
        assert runner.returncode == 128 + number


def _until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)
