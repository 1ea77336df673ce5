"""A marker for each feature of the machine: what is missing skips a test by name, or fails it where it is required."""

import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from tests.features import REQUIRE, Feature, need, required

pytest_plugins = ["tests.vm.replay"]

# A law does not become false on a busy machine, or in a guest where Python is twenty times slower. Where nothing may be
# missing the examples are the same each time, so that what fails there fails again; elsewhere others are looked for.
hypothesis.settings.register_profile(
    "kernlb",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=REQUIRE in os.environ,
    print_blob=True,
)
hypothesis.settings.load_profile("kernlb")

left_out: Counter[str] = Counter()


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kernlb's Debian package: one for all tests, because building it takes the longest."""
    from tests.debian.package import build

    return build(tmp_path_factory.mktemp("package"))


def pytest_configure(config: pytest.Config) -> None:
    for feature in Feature:
        config.addinivalue_line("markers", f"{feature}: needs {feature}; skipped where it is missing")
    try:
        required()
    except ValueError as unknown:
        raise pytest.UsageError(f"{REQUIRE}: {unknown}; known are {', '.join(Feature)}") from unknown


def pytest_runtest_setup(item: pytest.Item) -> None:
    need(*(feature for feature in Feature if item.get_closest_marker(feature)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple) and "needs " in report.longrepr[2]:
        left_out[report.longrepr[2].removeprefix("Skipped: ")] += 1


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    # Outermost, so that nothing but pytest's closing line comes after it.
    yield
    if left_out:
        terminalreporter.section("left out")
        for reason, tests in sorted(left_out.items()):
            terminalreporter.write_line(f"{tests} {'test' if tests == 1 else 'tests'}: {reason}")
