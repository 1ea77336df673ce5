"""The demo's network leaves nothing behind, of its processes either."""

import os
from multiprocessing.connection import Connection

import pytest

from kernlb.demo.namespaces import lab

pytestmark = [pytest.mark.root, pytest.mark.netns]


def answer(result: Connection, number: int) -> None:
    result.send(number)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_processes_that_have_answered_keep_no_descriptor() -> None:
    with lab() as built:
        assert built.ask("client", answer, 0).value(timeout=30) == 0
        before = descriptors()
        for number in range(20):
            assert built.ask("client", answer, number).value(timeout=30) == number
        assert descriptors() <= before + 1
