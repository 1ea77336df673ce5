"""Weights and orders from files."""

import asyncio
import os
from pathlib import Path

import pytest

from kernlb.checks.spec import Check, FileProbe
from kernlb.checks.verdict import Administration, Code, Orders, Outcome
from tests.checks.servers import verdict


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


def test_a_missing_file_is_down(tmp_path):
    found = judged(tmp_path / "none")
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.PROCERR)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert judged(tmp_path / "pipe").code is Code.PROCERR


def test_a_huge_file_is_not_read_whole(tmp_path):
    file = tmp_path / "huge"
    with file.open("wb") as opened:
        opened.write(b"12\n")
        opened.truncate(10**9)
    assert judged(file).orders == Orders(weight=12)
