"""The checker against real listeners: who is probed, when, and what is told."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernlb.agenda import latest_beat, spread_evenly
from kernlb.checker import Change, Checker
from kernlb.checks.spec import AgentProbe, Check, CommandProbe, HttpProbe, Start
from kernlb.entries import Watched
from kernlb.health import State, Status
from kernlb.standing import Standing
from tests.checks.servers import serving

LOCAL = ip_address("127.0.0.1")
QUICK = Check(interval=0.05, rise=2, fall=3)


def listener(port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(64)
    return sock


def watched(key: str, port: int, *checks: Check, **options) -> Watched[str]:
    return Watched(key=key, address=LOCAL, port=port, checks=checks or (QUICK,), **options)


class Log:
    def __init__(self) -> None:
        self.changes: list[Change[str]] = []
        self.samples: list[tuple[str, float]] = []
        self.beats = 0

    def beat(self) -> None:
        self.beats += 1


@asynccontextmanager
async def checking(*servers: Watched[str], spread: Callable[[int], float] = spread_evenly, **options):
    log = Log()
    checker: Checker[str] = Checker(
        log.changes.extend,
        sampled=lambda key, seconds, now: log.samples.append((key, seconds)),
        heartbeat=log.beat,
        spread=spread,
    )
    checker.replace(servers, **options)
    try:
        yield checker, log
    finally:
        checker.close()


async def until(question: Callable[[], bool], seconds: float = 10.0) -> float:
    """Polls; the seconds it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not question():
        assert loop.time() < started + seconds, "in vain"
        await asyncio.sleep(0.005)
    return loop.time() - started


def test_a_server_is_told_up_down_and_up_again():
    async def run() -> None:
        server = listener()
        port = server.getsockname()[1]
        async with checking(watched("web", port)) as (checker, log):
            assert checker.states()["web"].status is Status.UNKNOWN
            await until(lambda: len(log.changes) == 1)
            server.close()
            await until(lambda: len(log.changes) == 2)
            with listener(port):
                await until(lambda: len(log.changes) == 3)
        assert [change.after.status for change in log.changes] == [Status.UP, Status.DOWN, Status.UP]
        assert log.changes[1].before == log.changes[0].after
        assert log.changes[1].after.reason == "L4CON connection refused"
        assert checker.states()["web"] == log.changes[2].after

    asyncio.run(run())


def test_one_probe_serves_all_who_ask_the_same():
    async def run() -> None:
        with listener() as server:
            port = server.getsockname()[1]
            other = Check(interval=0.05, rise=9)
            async with checking(*(watched(f"s{n}", port) for n in range(10)), watched("t", port, other)) as (
                checker,
                log,
            ):
                figures = checker.statistics()
                assert (figures.asked, figures.probed, figures.saved) == (11, 2, 9)
                await until(lambda: len(log.changes) == 11)
                assert checker.statistics().started < 11

    asyncio.run(run())


def test_a_check_may_look_elsewhere_than_the_server():
    async def run() -> None:
        with listener() as server:
            check = Check(interval=0.05, address=LOCAL, port=server.getsockname()[1])
            elsewhere = Watched(key="web", address=ip_address("127.0.0.77"), port=1, checks=(check,))
            async with checking(elsewhere) as (_, log):
                await until(lambda: bool(log.changes))
                assert log.changes[0].after.status is Status.UP

    asyncio.run(run())


def test_the_gravest_of_several_checks_counts():
    async def agent(reader, writer):
        writer.write(b"drain 50% maxconn:7\n")
        await writer.drain()

    async def run() -> None:
        with listener() as server:
            async with serving(agent) as port:
                orders = Check(probe=AgentProbe(), port=port, interval=0.05)
                async with checking(watched("web", server.getsockname()[1], QUICK, orders)) as (checker, _):
                    await until(lambda: checker.states()["web"].status is Status.DRAINING)
                    state = checker.states()["web"]
                    assert (state.share, state.max_connections) == (0.5, 7)

    asyncio.run(run())


def test_a_reload_keeps_what_is_known_even_where_the_check_changed():
    async def run() -> None:
        with listener() as server:
            port = server.getsockname()[1]
            server.close()
            async with checking(watched("web", port, Check(interval=0.05, start=Start.UP))) as (checker, log):
                await until(lambda: bool(log.changes))
                down = checker.states()["web"]
                checker.replace([watched("web", port, Check(interval=5.0, start=Start.UP))])
                assert checker.states()["web"] == down
                checker.replace([Watched(key="web", address=ip_address("127.0.0.8"), port=port, checks=(QUICK,))])
                assert checker.states()["web"].status is Status.UNKNOWN
                checker.replace([])
                assert checker.states() == {}

    asyncio.run(run())


def test_a_restart_takes_up_the_last_standing():
    async def run() -> None:
        last = {"web": Standing((State(status=Status.DOWN, since=5.0, reason="L4CON connection refused"),))}
        async with checking(watched("web", 1, Check(interval=60)), last=last) as (checker, _):
            assert checker.standing() == last

    asyncio.run(run())


def test_a_removed_server_is_told_no_more():
    async def run() -> None:
        with listener() as server:
            async with checking(watched("web", server.getsockname()[1])) as (checker, log):
                checker.replace([])
                await asyncio.sleep(0.3)
                assert log.changes == []
                assert checker.statistics().started <= 1

    asyncio.run(run())


def test_a_hint_brings_a_dead_server_out_long_before_fall_times_interval():
    async def run() -> None:
        server = listener()
        port = server.getsockname()[1]
        async with checking(watched("web", port, Check(interval=20.0, fall=3))) as (checker, log):
            checker.hasten("web")
            await until(lambda: bool(log.changes))
            server.close()
            checker.hasten("web")
            assert await until(lambda: len(log.changes) == 2, 10) < 2
            assert log.changes[1].after.status is Status.DOWN

    asyncio.run(run())


class Falling:
    """Answers HTTP until told to fall silent; counts connections under way."""

    def __init__(self) -> None:
        self.silent = False
        self.waiting = self.most = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if self.silent:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            try:
                await reader.read()
            finally:
                self.waiting -= 1
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()


def test_a_silent_server_that_is_suspected_is_waited_for_once_and_not_fall_times():
    async def run() -> None:
        server = Falling()
        check = Check(probe=HttpProbe(), interval=20.0, timeout=1.5, fall=3)
        async with serving(server) as port, checking(watched("web", port, check)) as (checker, log):
            checker.hasten("web")
            await until(lambda: bool(log.changes))
            server.silent = True
            checker.hasten("web")
            assert await until(lambda: len(log.changes) == 2) < 2 * check.patience
            assert log.changes[1].after.status is Status.DOWN
            assert (server.most, checker.statistics().started) == (check.fall, 1 + check.fall)
            await until(lambda: server.waiting <= 1)
            for _ in range(20):  # then it is asked whether it is back, by one at a time
                await asyncio.sleep(0.01)
                assert server.waiting <= 1

    asyncio.run(run())


def test_a_suspicion_that_the_first_answer_refutes_costs_one_probe():
    async def run() -> None:
        with listener() as server:
            web = watched("web", server.getsockname()[1], Check(interval=20.0))
            # Last of the round: nothing but suspicion brings him forward.
            async with checking(web, spread=lambda _: 1.0) as (checker, log):
                checker.hasten("web")
                await until(lambda: bool(log.changes))
                started = checker.statistics().started
                await asyncio.sleep(0.6)  # past the relief that follows a probe
                checker.hasten("web")
                await until(lambda: checker.statistics().started > started)
                await asyncio.sleep(0.4)
                assert checker.statistics().started == started + 1

    asyncio.run(run())


def test_no_probe_of_a_command_starts_while_one_is_under_way(tmp_path: Path):
    async def run() -> None:
        # Leaves a mark where it meets itself.
        met, running = tmp_path / "met", tmp_path / "running"
        script = f"mkdir {running} || touch {met}; sleep 0.3; rmdir {running}; exit 1"
        command = CommandProbe(argv=("/bin/sh", "-c", script))
        check = Check(probe=command, interval=20.0, timeout=5.0, fall=3, start=Start.UP)
        async with checking(watched("web", 1, check)) as (checker, _):
            checker.hasten("web")
            await until(lambda: checker.states()["web"].status is Status.DOWN)
            assert not met.exists()

    asyncio.run(run())


def test_hints_about_a_healthy_server_change_nothing_and_are_bounded():
    async def run() -> None:
        with listener() as server:
            async with checking(watched("web", server.getsockname()[1], Check(interval=20.0))) as (checker, log):
                for _ in range(100):
                    checker.hasten("web")
                    await asyncio.sleep(0.005)
                assert [change.after.status for change in log.changes] == [Status.UP]
                assert checker.statistics().started <= 12
                checker.hasten("nobody")

    asyncio.run(run())


def test_response_times_are_told_for_those_who_asked():
    async def run() -> None:
        with listener() as server:
            port = server.getsockname()[1]
            async with checking(watched("a", port, timed=True), watched("b", port)) as (checker, log):
                await until(lambda: len(log.samples) >= 3)
                assert {key for key, _ in log.samples} == {"a"}
                assert checker.response_time("b") == pytest.approx(log.samples[-1][1])

    asyncio.run(run())


def test_rounds_keep_their_phase_and_start_on_time():
    async def run() -> None:
        with listener() as server:
            port = server.getsockname()[1]
            many = [
                Watched(key=str(n), address=ip_address(f"127.0.0.{n + 1}"), port=port, checks=(Check(interval=0.2),))
                for n in range(100)
            ]
            async with checking(*many) as (checker, _):
                await until(lambda: checker.statistics().started >= 1000)
                assert checker.statistics().lateness_p50 < 0.1

    asyncio.run(run())


def test_first_rounds_are_spread_evenly_for_any_number():
    for count in (1, 7, 100, 1000):
        places = sorted(spread_evenly(index) for index in range(count))
        gaps = [after - before for before, after in zip(places, [*places[1:], 1.0], strict=True)]
        assert max(gaps) <= 3 / count


@given(st.floats(0, 1e5), st.floats(0.02, 3600), st.floats(0, 1e6))
def test_who_is_late_keeps_his_phase(since: float, interval: float, late: float):
    beat = latest_beat(since, interval, since + late)
    rounds = (beat - since) / interval
    assert since <= beat <= since + late
    assert since + late - beat < interval * (1 + 1e-6)
    assert rounds == pytest.approx(round(rounds), abs=1e-4)


def test_the_heart_beats_at_once_and_only_while_the_loop_runs():
    async def run() -> None:
        async with checking() as (_, log):
            assert log.beats == 1
            await until(lambda: log.beats == 2)

    asyncio.run(run())


def test_replacing_for_ever_leaks_no_task_no_descriptor_and_no_entry():
    async def run() -> None:
        with listener() as server:
            port = server.getsockname()[1]

            def servers(number: int) -> list[Watched[str]]:
                dialogue = Check(interval=0.02, probe=HttpProbe(path=f"/{number}"), timeout=0.05)
                return [watched("a", port, Check(interval=0.02, rise=number % 5 + 1)), watched("b", port, dialogue)]

            async with checking(*servers(0)) as (checker, _):
                await asyncio.sleep(0.2)

                def size() -> tuple[int, int]:
                    return len(asyncio.all_tasks()), sum(1 for _ in Path("/proc/self/fd").iterdir())

                for number in range(100):
                    checker.replace(servers(number))
                    await asyncio.sleep(0.01)
                assert checker.statistics().probed == 2
                await until(lambda: size()[0] <= 4 and size()[1] <= before + 12)

    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    asyncio.run(run())
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before + 1
