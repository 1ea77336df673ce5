"""Guest tests in the host's report: tests that need another kernel run in one guest, and each result is told here.

On the host, the tests that miss a feature of the kernel are sent away together; the guest's pytest, which loads this
same plugin, writes its reports to a shared file, and the host replays them under the tests' own names.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.features import GUEST_KERNEL, REQUIRE, Feature, absent

IN_GUEST = "KERNLB_GUEST"
REPORTS = "KERNLB_GUEST_REPORTS"
SUITE_TIMEOUT = "KERNLB_GUEST_TIMEOUT"
PASSED_ON = (REQUIRE, "PYTHONPATH", "PYTHONDEVMODE")
# Python in an emulated machine is ten to twenty times slower.
SLOWNESS = 3
POLL = 0.1
LAST_WORDS = 3000
TUPLES = ("location", "longrepr")


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get(REPORTS):
        config.pluginmanager.register(Reporter(config, Path(path)))


class Reporter:
    """In the guest: every report as one line of JSON, and a line for each test that has ended."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self.config = config
        self.lines = path.open("w", buffering=1)

    def write(self, **line: object) -> None:
        self.lines.write(json.dumps(line, default=str) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.write(report=self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.write(finished=nodeid)


class Guest:
    """On the host: a pytest in a guest, and the reports it has written so far."""

    def __init__(self, config: pytest.Config, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.config = config
        self.process = process
        self.output = directory / "output"
        self.lines = (directory / "reports").open()
        self.partial = ""
        self.reports: dict[str, list[pytest.TestReport]] = defaultdict(list)
        self.finished: set[str] = set()

    def results(self, nodeid: str) -> list[pytest.TestReport] | None:
        """The reports of a test, waited for as long as the guest lives; None if it ended without them."""
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
    away = [item for item in session.items if not session.config.option.collectonly and runs_in_guest(item)]
    if not away:
        return (yield)
    all_items = session.items
    session.items = [item for item in all_items if item not in away]
    with guest(session.config, away) as running:
        try:
            result = yield
        finally:
            session.items = all_items
        for item in away:
            replay(item, running)
            stop_if_told(session)
    return result


def runs_in_guest(item: pytest.Item) -> bool:
    """Whether the test misses a feature that a guest kernel brings, and this machine can start one."""
    if os.environ.get(IN_GUEST) or absent(Feature.ROOT) or absent(Feature.QEMU):
        return False
    return any(item.get_closest_marker(feature) and absent(feature) for feature in sorted(GUEST_KERNEL))


@contextmanager
def guest(config: pytest.Config, items: list[pytest.Item]) -> Iterator[Guest]:
    """A guest that runs these tests while the host runs its own; it is stopped when the block ends."""
    with tempfile.TemporaryDirectory(prefix="kernlb-tests-") as name:
        directory = Path(name)
        (directory / "reports").touch()
        (directory / "items").write_text("".join(f"{item.nodeid}\n" for item in items))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(config.rootpath)]
        command += [
            f"--tb={config.option.tbstyle}",
            f"--capture={config.option.capture}",
            f"--verbosity={config.option.verbose}",
            f"--maxfail={config.option.maxfail or 0}",
            *timeout_option(config),
        ]
        command += [f"@{directory}/items"]
        environment = [f"--env={name}" for name in PASSED_ON] + [f"--env={REPORTS}={directory}/reports"]
        limit = os.environ.get(SUITE_TIMEOUT, "2700")
        runner = [sys.executable, "-m", "tests.vm", "--memory=2048", f"--timeout={limit}", f"--share={directory}"]
        # Whatever ends this process ends the guest with it.
        bound = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "TERM"]
        with (directory / "output").open("wb") as output:
            process = subprocess.Popen(
                [*bound, *runner, *environment, "--", *command],
                cwd=config.rootpath,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield Guest(config, process, directory)
        finally:
            process.terminate()
            process.wait()


def timeout_option(config: pytest.Config) -> list[str]:
    """pytest-timeout's limit for one test, longer in the guest."""
    limit = float(config.getini("timeout") or 0) if config.pluginmanager.hasplugin("timeout") else 0
    return [f"--timeout={limit * SLOWNESS:g}"] if limit else []


def replay(item: pytest.Item, running: Guest) -> None:
    """Tell this session what the guest saw of the test."""
    reports = running.results(item.nodeid)
    if reports is None:
        reports = [lost(item, running)]
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def lost(item: pytest.Item, running: Guest) -> pytest.TestReport:
    """The failure of a test whose guest ended before it did."""
    words = f"the guest ended (status {running.process.returncode}) without a result for this test; its last words:"
    message = f"{words}\n{running.last_words()}"
    keywords: dict[str, Literal[1]] = dict.fromkeys(item.keywords, 1)
    return pytest.TestReport(item.nodeid, item.location, keywords, "failed", message, "call")


def stop_if_told(session: pytest.Session) -> None:
    """-x and --maxfail, as pytest's own loop heeds them."""
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
