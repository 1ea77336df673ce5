"""Laws of the open-loop clients, the demo's and the benchmark's: they keep their rate and hide no delay."""

import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from bench.failover import BOTH, FAILED, LATER, OUT, suffered, traffic
from kernlb.demo.http import Delay, serve
from kernlb.demo.steady import Sample, ask_steadily

RATE = 20.0
_fork = multiprocessing.get_context("fork")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def server(port: int, delay: Delay) -> Iterator[None]:
    process = _fork.Process(target=serve, args=("one", "127.0.0.1", port, delay), daemon=True)
    process.start()
    deadline = time.monotonic() + 20
    while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        yield
    finally:
        process.kill()
        process.join()


Client = Callable[..., None]
both = pytest.mark.parametrize("client", [ask_steadily, traffic.ask_steadily])


def asked(client: Client, port: int, *, seconds: float, patience: float = 5.0) -> list[Sample]:
    ours, theirs = _fork.Pipe()
    result, sent = _fork.Pipe(duplex=False)
    process = _fork.Process(target=client, args=(sent, theirs, "127.0.0.1", port, RATE, patience), daemon=True)
    process.start()
    time.sleep(seconds)
    ours.send(None)
    assert result.poll(30)
    found: list[Sample] = result.recv()
    process.join()
    return found


def steady(samples: list[Sample]) -> bool:
    """Whether every request was due exactly one period after the one before."""
    starts = [sample.started for sample in samples]
    return all(abs(after - before - 1 / RATE) < 1e-6 for before, after in pairwise(starts))


@both
def test_the_rate_stays_though_the_server_is_slow_and_the_delay_is_in_each_sample(client: Client) -> None:
    port, delay = free_port(), multiprocessing.Value("d", 0.5)
    with server(port, delay):
        samples = asked(client, port, seconds=1.5)
    assert len(samples) > 2 * 1.5 / delay.value, "who waits for answers asks half as often"
    assert steady(samples)
    assert {sample.server for sample in samples} == {"one"}
    assert all(sample.seconds >= 0.5 for sample in samples)


@both
def test_requests_that_nobody_answers_fail_with_the_reason(client: Client) -> None:
    samples = asked(client, free_port(), seconds=0.5)
    assert steady(samples)
    assert {(sample.server, sample.failure) for sample in samples} == {(None, "Connection refused")}


@both
def test_a_request_without_an_answer_is_given_up(client: Client) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1024)
        samples = asked(client, silent.getsockname()[1], seconds=0.5, patience=0.3)
    assert {sample.failure for sample in samples} == {"timed out"}
    assert all(sample.seconds >= 0.3 for sample in samples)


def test_what_failed_and_what_came_late_are_counted_apart() -> None:
    samples = [
        Sample(9.0, 0.1, "one"),
        Sample(10.5, 0.2, None, "Connection refused"),
        Sample(11.0, 1.5, "one"),
        Sample(12.0, 0.1, "one"),
    ]
    assert suffered(samples, died=10.0) == {OUT: 1.0, FAILED: 1, LATER: 1, BOTH: 2}
    assert suffered(samples[3:], died=10.0) == {OUT: 0.0, FAILED: 0, LATER: 0, BOTH: 0}
