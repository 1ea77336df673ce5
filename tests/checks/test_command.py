"""Programs: their codes, their output, and what they leave behind."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from kernlb.checks import processes
from kernlb.checks.command import household
from kernlb.checks.privileges import BECOME
from kernlb.checks.spec import Check, CommandProbe, Exit
from kernlb.checks.verdict import Code, Orders, Outcome, Verdict
from tests.checks.hanging import hung
from tests.checks.servers import powerless, verdict

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user needs root")


def judged(*argv: str, timeout: float = 5.0, port: int = 80, **options) -> Verdict:
    return asyncio.run(verdict(Check(probe=CommandProbe(argv=argv, **options), timeout=timeout), port))


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-E", "-c", code)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, ValueError):
        return False


def test_the_exit_code_decides():
    assert judged("true").code is Code.PROCOK
    found = judged("sh", "-c", "echo disk full; exit 3")
    assert (found.outcome, found.text) == (Outcome.DOWN, "PROCERR exit code 3: disk full")


@pytest.mark.parametrize(
    ("code", "outcome", "orders"),
    [
        (0, Outcome.UP, None),
        (1, Outcome.DOWN, None),
        (2, Outcome.UP, Orders(weight=0)),
        (102, Outcome.UP, Orders(weight=100)),
        (255, Outcome.UP, Orders(weight=253)),
    ],
)
def test_the_exit_code_is_a_weight_where_asked(code, outcome, orders):
    found = judged("sh", "-c", f"exit {code}", exit=Exit.WEIGHT)
    assert (found.outcome, found.orders) == (outcome, orders)


def test_no_shell_is_between():
    assert judged("echo", "$HOME; false").reason == "$HOME; false"


def test_the_target_is_in_arguments_and_environment():
    assert judged("echo", "{address}", "[{port}]", port=81).reason == "127.0.0.1 [81]"
    assert judged("sh", "-c", "echo $KERNLB_ADDRESS $KERNLB_PORT", port=82).reason == "127.0.0.1 82"


def test_a_program_that_is_not_there_is_down():
    found = judged("/no/such/program")
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.PROCERR)


def test_a_signal_is_down():
    assert judged("sh", "-c", "kill -SEGV $$").reason == "signal 11"


def test_much_output_neither_blocks_nor_fills_memory():
    found = judged(*python("print('x' * 2_000_000)"), output_limit=100, timeout=20)
    assert (found.outcome, found.reason) == (Outcome.UP, "x" * 100)


def test_output_without_end_is_stopped_at_the_timeout():
    assert judged("yes", timeout=0.5).code is Code.PROCTOUT


def test_a_background_child_that_holds_the_pipe_does_not_hold_the_verdict():
    started = time.monotonic()
    assert judged("sh", "-c", "sleep 60 & echo $!; exit 0").outcome is Outcome.UP
    assert time.monotonic() - started < 4


ESCAPES = {
    "child": "",
    "own group": "os.setpgid(0, 0)",
    "own session": "os.setsid()",
    "orphan in its own session": "os.setsid(); os.fork() and os._exit(0)",
    "orphan without a past": "os.setsid(); os.fork() and os._exit(0); os.environ.clear(); "
    "os.environ.get('again') or os.execve(sys.executable, [sys.executable, '-S', '-c', LATE], {'again': '1'})",
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_at_the_timeout_everything_it_started_is_killed_even_what_ignores_sigterm(tmp_path, escape):
    late = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w').close()\ntime.sleep(60)"
    )
    code = (
        f"import os, signal, sys, time\nLATE = {late!r}\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"for _ in range(3):\n    if not os.fork():\n        {ESCAPES[escape] or 'pass'}\n        exec(LATE)\n"
        "time.sleep(60)"
    )
    found = judged(*python(code), timeout=1.5)
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.PROCTOUT)
    pids = [int(each.name) for each in tmp_path.iterdir()]
    assert len(pids) == 3
    deadline = time.monotonic() + 2
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, pids))


def test_one_programs_end_leaves_the_others_alone():
    async def both() -> list[Verdict]:
        slow = Check(probe=CommandProbe(argv=("sh", "-c", "sleep 0.6; echo done")), timeout=5.0)
        quick = Check(probe=CommandProbe(argv=("true",)), timeout=5.0)
        return list(await asyncio.gather(verdict(slow), *(verdict(quick) for _ in range(8))))

    found = asyncio.run(both())
    assert [each.outcome for each in found] == [Outcome.UP] * 9
    assert found[0].reason == "done"


def test_children_that_are_no_check_are_let_live():
    with subprocess.Popen(["sleep", "30"], start_new_session=True) as stranger:
        assert judged("sh", "-c", "sleep 30 & exit 0").outcome is Outcome.UP
        judged("sleep", "30", timeout=0.3)
        assert stranger.poll() is None
        stranger.kill()


def children() -> set[str]:
    """Of this process, the dead that nobody has waited for included."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_no_zombie_and_no_descriptor_remains():
    judged("true")
    others = children()
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(5):
        judged("sh", "-c", "sleep 0.01 & exit 0")
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before
    assert children() <= others


@needs_root
def test_it_runs_as_the_user_asked_for_with_no_groups_left():
    assert judged("sh", "-c", "echo $(id -un) $(id -G)", user="nobody").reason.startswith("nobody ")
    assert "0" not in judged("id", "-G", user="nobody").reason.split()


def test_an_unknown_user_is_the_directors_fault():
    found = judged("true", user="nosuchuser")
    assert found.code is Code.INTERNAL


def test_a_program_that_hangs_before_it_starts_holds_up_no_other(tmp_path):
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    dead = Check(probe=CommandProbe(argv=(str(program),)), timeout=0.05)
    before = threading.active_count()

    async def scene() -> None:
        with hung(program):
            for _ in range(40):
                assert (await verdict(dead)).code is Code.PROCTOUT
            assert threading.active_count() <= before + 1
            assert (await verdict(Check(probe=CommandProbe(argv=("true",)), timeout=5.0))).outcome is Outcome.UP
        assert (await verdict(replace(dead, timeout=5.0))).outcome is Outcome.UP

    asyncio.run(scene())


def test_a_program_that_may_not_be_executed_is_down(tmp_path):
    (tmp_path / "program").write_text("#!/bin/sh\n")
    found = judged(str(tmp_path / "program"))
    assert (found.outcome, found.text) == (Outcome.DOWN, "PROCERR permission denied")


@needs_root
def test_where_it_may_not_become_another_user_the_verdict_says_what_to_do():
    said = powerless("CommandProbe(argv=('true',), user='nobody')")
    assert said == f"down INTERNAL kernlb may not become nobody: {BECOME}"


def test_those_who_clear_out_together_look_for_what_is_left_together(monkeypatch):
    count, looks = 40, []
    census, together = processes._census, threading.Barrier(count)

    def looking():
        looks.append(census())
        return looks[-1]

    def clear_out(process):
        together.wait(30)
        household.clear_out(process)

    monkeypatch.setattr(processes, "_census", looking)
    begun = [household.start(["sleep", "30"], environment=os.environ, user=None, group=None) for _ in range(count)]
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(clear_out, begun))
    assert all(process.poll() is not None for process in begun)
    for process in begun:
        process.stdout.close()
    assert len(looks) < count, "one after another each looks twice"
