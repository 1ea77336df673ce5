"""Weights and orders from files."""

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from kernlb.checks.spec import Check, CommandProbe, FileProbe
from kernlb.checks.verdict import Administration, Code, Orders, Outcome
from tests.checks.hanging import hung
from tests.checks.servers import powerless, verdict


def judged(path: Path):
    return asyncio.run(verdict(Check(probe=FileProbe(path=str(path)), timeout=1.0)))


@pytest.mark.parametrize(
    ("text", "outcome", "orders"),
    [
        ("70\n", Outcome.UP, Orders(weight=70)),
        ("0", Outcome.UP, Orders(weight=0)),
        ("50%\nmore lines\n", Outcome.UP, Orders(share=0.5)),
        ("drain", Outcome.UP, Orders(administration=Administration.DRAIN)),
        ("down #upgrade", Outcome.DOWN, Orders(up=False)),
        ("", Outcome.DOWN, None),
        ("-3", Outcome.DOWN, None),
        ("banana", Outcome.DOWN, None),
        ("9" * 500, Outcome.DOWN, None),
    ],
)
def test_a_file_says(tmp_path, text, outcome, orders):
    file = tmp_path / "weight"
    file.write_text(text)
    found = judged(file)
    assert (found.outcome, found.orders) == (outcome, orders)


@pytest.mark.parametrize(
    ("text", "adjust", "outcome", "change"),
    [
        ("3\n", 2, Outcome.UP, 6),
        ("-3", 2, Outcome.UP, -6),
        (" +3 of them", -1, Outcome.UP, -3),
        ("0", 5, Outcome.UP, 0),
        ("", 5, Outcome.UP, 0),
        ("banana", 5, Outcome.UP, 0),
        (None, 5, Outcome.UP, 0),
        ("-2147483648", 1, Outcome.DOWN, None),
        ("1073741824", -2, Outcome.DOWN, None),
        ("-2147483647", 1, Outcome.UP, -2147483647),
        ("9" * 500, 1, Outcome.NEUTRAL, None),
        ("0", 0, Outcome.UP, 0),
        (None, 0, Outcome.UP, 0),
        ("1", 0, Outcome.DOWN, None),
        ("-1", 0, Outcome.DOWN, None),
    ],
)
def test_the_number_in_a_file_may_adjust_the_weight(tmp_path, text, adjust, outcome, change):
    file = tmp_path / "track"
    if text is not None:
        file.write_text(text)
    found = asyncio.run(verdict(Check(probe=FileProbe(path=str(file), adjust=adjust), timeout=1.0)))
    assert (found.outcome, found.orders) == (outcome, None if change is None else Orders(adjust=change))


def test_a_missing_file_is_down(tmp_path):
    found = judged(tmp_path / "none")
    assert (found.outcome, found.text) == (Outcome.DOWN, "PROCERR no such file or directory")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert judged(tmp_path / "pipe").text == "PROCERR no regular file"
    assert judged(tmp_path).text == "PROCERR no regular file"


def test_a_huge_file_is_not_read_whole(tmp_path):
    file = tmp_path / "huge"
    with file.open("wb") as opened:
        opened.write(b"12\n")
        opened.truncate(10**9)
    assert judged(file).orders == Orders(weight=12)


def test_a_file_that_hangs_costs_one_thread_and_no_other_check_and_is_read_again_afterwards(tmp_path):
    dead, alive = tmp_path / "dead", tmp_path / "alive"
    for file in (dead, alive):
        file.write_text("7\n")
    check = Check(probe=FileProbe(path=str(dead)), timeout=0.05)
    command = Check(probe=CommandProbe(argv=("true",)), timeout=5.0)
    before = threading.active_count()

    async def scene() -> None:
        with hung(dead):
            for _ in range(20):
                assert (await verdict(check)).code is Code.PROCTOUT
            assert threading.active_count() <= before + 1
            found = await verdict(Check(probe=FileProbe(path=str(alive)), timeout=5.0))
            assert found.orders == Orders(weight=7)
            assert (await verdict(command)).outcome is Outcome.UP
        assert (await verdict(replace(check, timeout=5.0))).orders == Orders(weight=7)

    asyncio.run(scene())


def test_a_file_that_may_not_be_read_is_down(tmp_path):
    file = tmp_path / "secret"
    file.write_text("7\n")
    file.chmod(0)
    assert powerless(f"FileProbe(path={str(file)!r})") == "down PROCERR permission denied"
