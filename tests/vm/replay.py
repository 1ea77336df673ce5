"""Tests that run elsewhere, in this session's report: beside the others, and each result is told here.

The tests that miss a feature of this kernel are sent to one guest together; those that boot machines of their own go to
another process of this machine. A pytest there, which loads this same plugin, writes its reports to a file, and this
session replays them under the tests' own names.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.features import GUEST_KERNEL, REQUIRE, Feature, absent

IN_GUEST = "KERNLB_GUEST"
REPORTS = "KERNLB_TEST_REPORTS"
BOOTED = "booted"
SUITE_TIMEOUT = "KERNLB_GUEST_TIMEOUT"
PASSED_ON = (REQUIRE, "PYTHONPATH", "PYTHONDEVMODE")
# Python in an emulated machine is ten to twenty times slower.
SLOWNESS = 3
# The tests of this process go first: some of them look at the clock.
NICENESS = 5
POLL = 0.1
END = 60.0
LAST_WORDS = 3000
TUPLES = ("location", "longrepr")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{BOOTED}: boots machines of its own; runs beside the tests that do not")
    if path := os.environ.get(REPORTS):
        config.pluginmanager.register(Reporter(config, Path(path)))
        if not os.environ.get(IN_GUEST):
            # So that what was booted ends with its test.
            signal.signal(signal.SIGTERM, signal.default_int_handler)


class Reporter:
    """Elsewhere: every report as one line of JSON, and a line for each test that has ended."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self.config = config
        self.lines = path.open("w", buffering=1)

    def write(self, **line: object) -> None:
        self.lines.write(json.dumps(line, default=str) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.write(report=self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.write(finished=nodeid)


class Elsewhere:
    """Here: a pytest that runs elsewhere, and the reports it has written so far."""

    def __init__(self, name: str, config: pytest.Config, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.name = name
        self.config = config
        self.process = process
        self.output = directory / "output"
        self.lines = (directory / "reports").open()
        self.partial = ""
        self.reports: dict[str, list[pytest.TestReport]] = defaultdict(list)
        self.finished: set[str] = set()

    def results(self, nodeid: str) -> list[pytest.TestReport] | None:
        """The reports of a test, waited for as long as it lives; None if it ended without them."""
        while nodeid not in self.finished:
            ended = self.process.poll() is not None
            self._read()
            if ended:
                break
            time.sleep(POLL)
        return self.reports[nodeid] if nodeid in self.finished else None

    def last_words(self) -> str:
        return self.output.read_text(errors="replace")[-LAST_WORDS:]

    def _read(self) -> None:
        *lines, self.partial = (self.partial + self.lines.read()).split("\n")
        for line in map(json.loads, lines):
            if "finished" in line:
                self.finished.add(line["finished"])
            else:
                # JSON knows no tuples, and pytest asks for them.
                data = {
                    name: tuple(v) if isinstance(v, list) and name in TUPLES else v
                    for name, v in line["report"].items()
                }
                report = self.config.hook.pytest_report_from_serializable(config=self.config, data=data)
                self.reports[report.nodeid].append(report)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, Any]:
    if session.config.option.collectonly or os.environ.get(REPORTS):
        return (yield)
    all_items = session.items
    in_guest = [item for item in all_items if runs_in_guest(item)]
    booted = [item for item in all_items if item.get_closest_marker(BOOTED) and item not in in_guest]
    here = [item for item in all_items if item not in in_guest and item not in booted]
    if not here:
        here, booted = booted, []
    parts = [(run, items) for run, items in ((guest, in_guest), (beside, booted)) if items]
    with ExitStack() as stack:
        away = [(items, stack.enter_context(run(session.config, items))) for run, items in parts]
        session.items = here
        try:
            result = yield
        finally:
            session.items = all_items
        for items, there in away:
            for item in items:
                replay(item, there)
                stop_if_told(session)
    return result


def runs_in_guest(item: pytest.Item) -> bool:
    """Whether the test misses a feature that a guest kernel brings, and this machine can start one."""
    if os.environ.get(IN_GUEST) or absent(Feature.ROOT) or absent(Feature.QEMU):
        return False
    return any(item.get_closest_marker(feature) and absent(feature) for feature in sorted(GUEST_KERNEL))


def guest(config: pytest.Config, items: list[pytest.Item]) -> AbstractContextManager[Elsewhere]:
    """In a guest that has what this kernel has not, and is slower."""
    limit = os.environ.get(SUITE_TIMEOUT, "2700")
    environment = [f"--env={name}" for name in (*PASSED_ON, REPORTS)]
    runner = [sys.executable, "-m", "tests.vm", "--memory=2048", f"--timeout={limit}", *environment]

    def sharing(directory: Path) -> list[str]:
        return [*runner, f"--share={directory}", "--"]

    return elsewhere("guest", config, items, sharing, slowness=SLOWNESS)


def beside(config: pytest.Config, items: list[pytest.Item]) -> AbstractContextManager[Elsewhere]:
    """On this machine."""
    return elsewhere("process beside", config, items, lambda _: ["nice", f"-n{NICENESS}"], slowness=1)


@contextmanager
def elsewhere(
    name: str, config: pytest.Config, items: list[pytest.Item], runner: Callable[[Path], list[str]], *, slowness: int
) -> Iterator[Elsewhere]:
    """A pytest that runs these tests while this one runs its own; it is stopped when the block ends."""
    with tempfile.TemporaryDirectory(prefix="kernlb-tests-") as made:
        directory = Path(made)
        (directory / "reports").touch()
        (directory / "items").write_text("".join(f"{item.nodeid}\n" for item in items))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(config.rootpath)]
        command += [
            f"--tb={config.option.tbstyle}",
            f"--capture={config.option.capture}",
            f"--verbosity={config.option.verbose}",
            f"--maxfail={config.option.maxfail or 0}",
            *timeout_option(config, slowness),
        ]
        command += [f"@{directory}/items"]
        # Whatever ends this process ends that one with it.
        bound = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "TERM"]
        with (directory / "output").open("wb") as output:
            process = subprocess.Popen(
                [*bound, *runner(directory), *command],
                cwd=config.rootpath,
                env=os.environ | {REPORTS: str(directory / "reports")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield Elsewhere(name, config, process, directory)
        finally:
            process.terminate()
            try:
                process.wait(END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def timeout_option(config: pytest.Config, slowness: int) -> list[str]:
    """pytest-timeout's limit for one test."""
    limit = float(config.getini("timeout") or 0) if config.pluginmanager.hasplugin("timeout") else 0
    return [f"--timeout={limit * slowness:g}"] if limit else []


def replay(item: pytest.Item, running: Elsewhere) -> None:
    """Tell this session what was seen of the test there."""
    reports = running.results(item.nodeid)
    if reports is None:
        reports = [lost(item, running)]
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def lost(item: pytest.Item, running: Elsewhere) -> pytest.TestReport:
    """The failure of a test whose process ended before it did."""
    ended = f"the {running.name} ended (status {running.process.returncode})"
    words = f"{ended} without a result for this test; its last words:"
    message = f"{words}\n{running.last_words()}"
    keywords: dict[str, Literal[1]] = dict.fromkeys(item.keywords, 1)
    return pytest.TestReport(item.nodeid, item.location, keywords, "failed", message, "call")


def stop_if_told(session: pytest.Session) -> None:
    """-x and --maxfail, as pytest's own loop heeds them."""
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
