"""The runner of guests, as its users call it: what passes through, what ends it, what it leaves behind."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE = 300

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(DEADLINE + 40)]


def command_line(*words: str) -> list[str]:
    return [sys.executable, "-m", "tests.vm", *words]


def in_guest(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line(*words), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)


def started_for(directory: Path) -> list[int]:
    """Processes that name the directory, which is the runner's TMPDIR."""

    def words(process: Path) -> Sequence[bytes]:
        try:
            return (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return []

    found = (process for process in Path("/proc").glob("[0-9]*") if process.name != str(os.getpid()))
    return [int(process.name) for process in found if any(os.fsencode(directory) in word for word in words(process))]


def test_a_guest_command_has_ipvs_and_its_output_status_and_shared_files_come_back(tmp_path: Path) -> None:
    shared = tmp_path / "shared directory"
    shared.mkdir()
    outside = tmp_path / "outside"
    script = """
        uname -r; pwd; id -u; echo "two  words: $WORDS"
        modprobe ip_vs_wrr && cat /sys/module/ip_vs_wrr/refcnt
        unshare --net ipvsadm -A -t 192.0.2.1:80 -s mh && cat /sys/module/ip_vs_mh/refcnt
        nft add table inet t && nft 'add chain inet t c { type filter hook prerouting priority 0; }' &&
            nft add rule inet t c fib daddr type local meta mark set 7 && echo fib
        ip link add tunnel0 type ipip local 192.0.2.1 remote 192.0.2.2 && echo ipip
        echo complaint >&2
        echo result >"$SHARED/result"; echo lost >"$OUTSIDE"
        exit 7
    """
    variables = ["--env=WORDS=a  'b", f"--env=SHARED={shared}", f"--env=OUTSIDE={outside}"]
    done = in_guest(f"--share={shared}", *variables, "--", "sh", "-c", script)
    assert done.returncode == 7, done.stderr
    release, *rest = done.stdout.splitlines()
    assert release != platform.release()
    assert rest == [str(ROOT), "0", "two  words: a  'b", "0", "0", "fib", "ipip"]
    assert done.stderr == "complaint\n"
    assert (shared / "result").read_text() == "result\n"
    assert not outside.exists()


def test_where_both_outputs_are_one_their_order_is_kept() -> None:
    script = "echo one; echo two >&2; echo three; kill -9 $$"
    words = command_line("--", "sh", "-c", script)
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=DEADLINE)
    assert done.stdout.decode().split()[:3] == ["one", "two", "three"]
    assert done.returncode == 128 + signal.SIGKILL


def test_a_guest_that_panics_is_an_error_with_its_last_words() -> None:
    done = in_guest("--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60")
    assert done.returncode == 125
    assert "the guest ended before its command did" in done.stderr
    assert "panic" in done.stderr


def test_a_command_that_takes_too_long_ends_with_124() -> None:
    done = in_guest("--timeout=1", "--", "sleep", "60")
    assert done.returncode == 124
    assert "sleep 60 took over 1 s" in done.stderr


def test_without_qemu_the_error_names_the_package(tmp_path: Path) -> None:
    for program in ("busybox", "setpriv", "apt-cache", "apt-get", "dpkg-deb", "depmod"):
        found = next(Path(place) / program for place in os.get_exec_path() if (Path(place) / program).exists())
        (tmp_path / program).symlink_to(found)
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(
        command_line("--", "true"), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 125
    assert "no program qemu-system-x86_64" in done.stderr
    assert "apt install qemu-system-x86" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_runner_ends_no_process_of_it_stays(number: signal.Signals, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    runner = subprocess.Popen(
        command_line("--", "sleep", "60"), cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + DEADLINE
    while not any(b"qemu" in Path(f"/proc/{pid}/exe").readlink().name.encode() for pid in started_for(tmp_path)):
        assert time.monotonic() < deadline, "QEMU was not started"
        time.sleep(0.05)
    runner.send_signal(number)
    runner.wait(timeout=DEADLINE)
    deadline = time.monotonic() + 10
    while left := started_for(tmp_path):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)
    if number is not signal.SIGKILL:
        assert not list(tmp_path.iterdir())
        assert runner.returncode == 128 + number
