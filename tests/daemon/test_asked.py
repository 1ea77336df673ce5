"""What is asked of a daemon of ten thousand servers, and again and again, costs its checks nothing."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kernlb.daemon import unhurried
from kernlb.daemon.unhurried import Answer
from kernlb.errors import KernlbError
from kernlb.metrics import exposition
from tests.daemon.world import Server, World, half_request, service, until
from tests.test_checker_hostile import measured_turns

SERVICES, OF_EACH = 1_000, 10


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 100))


@contextmanager
def frozen() -> Iterator[None]:
    """What other tests have left is none of the garbage collector's business, as in a daemon that has started."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def answer(path: Path, what: str) -> bytes:
    with half_request(path, f"GET /{what} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as client:
        parts = [b""]
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def large() -> str:
    """Servers that are asked once, few of them twice, in the time of a test."""
    return "".join(
        f'[service.v{n}]\nbind = ["192.0.{2 + n // 250}.{n % 250 + 1}:80"]\nforwarding = "fullnat"\n'
        'check = { interval = "10m" }\n'
        + "".join(
            f's{m} = "127.{90 + n // 250}.{n % 250}.{m}:9"\n' if m else f"[service.v{n}.servers]\n"
            for m in range(OF_EACH + 1)
        )
        for n in range(SERVICES)
    )


def test_no_turn_of_the_loop_computes_long_where_ten_thousand_servers_are_asked_about(world: World) -> None:
    async def scene() -> None:
        async with world.running(large()) as daemon:
            await until(lambda: sum(daemon.checker.statistics().outcomes.values()) >= SERVICES * OF_EACH)
            gc.freeze()
            path = world.directory / "run" / "control.sock"
            # Its own work: the client's and the writer's threads have the interpreter in between, however long.
            with measured_turns(asyncio.get_running_loop(), time.thread_time) as longest:
                for _ in range(3):
                    status = await asyncio.to_thread(answer, path, "status")
                    metrics = await asyncio.to_thread(answer, path, "metrics")
                    await asyncio.sleep(2 * unhurried.FRESH)
            assert status.count(b'"configured_weight"') == SERVICES * OF_EACH
            assert metrics.count(b"\nkernlb_server_configured_weight{") == SERVICES * OF_EACH
            assert longest[0] < 0.1

    with frozen():
        play(scene)


def test_an_answer_is_shared_by_all_who_ask_within_its_time_until_there_is_another_to_give() -> None:
    async def scene() -> None:
        made, version = 0, 1

        async def make() -> int:
            nonlocal made
            made += 1
            answer = made
            await asyncio.sleep(0.01)
            return answer

        answer = Answer(make, version=lambda: version)
        assert await asyncio.gather(*(answer.get() for _ in range(20))) == [1] * 20
        assert await answer.get() == 1
        version = 2
        under_way = asyncio.create_task(answer.get())
        await asyncio.sleep(0)
        version = 3
        # What is under way was begun before this one asked, and may know nothing of it.
        assert await asyncio.gather(answer.get(), answer.get(), under_way) == [3, 3, 2]

    play(scene)


def test_a_client_who_leaves_takes_no_answer_from_the_others() -> None:
    async def scene() -> None:
        begun = 0

        async def make() -> int:
            nonlocal begun
            begun += 1
            await asyncio.sleep(0.01)
            return begun

        answer = Answer(make)
        first, second = asyncio.create_task(answer.get()), asyncio.create_task(answer.get())
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 2

    play(scene)


def test_an_answer_after_an_order_knows_of_it(world: World) -> None:
    async def scene() -> None:
        server = Server()
        await server.live()
        async with world.running(service(server)):
            for weight in (3, 5, 2, 7):
                await world.ask("POST", "/weight", service="web", server="s1", weight=weight)
                status = await world.ask("GET", "/status")
                assert status["services"][0]["servers"][0]["configured_weight"] == weight

    play(scene)


def test_a_watcher_gets_one_document_a_second_however_much_changes(world: World) -> None:
    async def scene() -> None:
        server = Server()
        await server.live()
        async with world.running(service(server)) as daemon:
            seen: list[Any] = []

            def watch() -> None:
                for status in world.client.watch():
                    seen.append(status["services"][0]["servers"][0]["configured_weight"])
                    if seen[-1] == 99:
                        return

            began, writes = time.monotonic(), daemon.writes
            watching = asyncio.create_task(asyncio.to_thread(watch))
            await until(lambda: seen)
            while time.monotonic() - began < 2.5:
                await world.ask("POST", "/weight", service="web", server="s1", weight=1 + len(seen) % 2)
                await world.ask("POST", "/weight", service="web", server="s1", weight=3 + len(seen) % 2)
            await world.ask("POST", "/weight", service="web", server="s1", weight=99)
            await watching
            assert daemon.writes - writes > 20
            assert len(seen) <= 2 + (time.monotonic() - began)

    play(scene)


def test_one_server_is_asked_about_alone(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        async with world.running(service(one, two)):
            await world.ask("POST", "/drain", service="web", server="s1", deadline=60, check=False)
            (found,) = await asyncio.to_thread(world.client.standing, "web", "s1")
            assert (found["name"], found["status"]) == ("s1", "draining")
            assert found["drain_deadline"] is not None
            with pytest.raises(KernlbError, match="s9"):
                await asyncio.to_thread(world.client.standing, "web", "s9")

    play(scene)


def test_metrics_are_what_prometheus_reads_whatever_people_call_their_servers() -> None:
    checks = {"probed": 1, "saved": 0, "started": 2, "outcomes": {"up": 2}, "lateness_p50_ms": 1, "lateness_p99_ms": 2}
    daemon = {"since": 1.5, "reconciled": True, "writes": 3, "drift_repaired": 0, "checks": checks}
    row = {
        "name": 'a"b\\c\nd',
        "status": "up",
        "connections": 2**60,
        "bytes_in": 7,
        "bytes_out": None,
        "packets_in": 3,
        "packets_out": None,
        "active_connections": 4,
        "inactive_connections": 0,
        "effective_weight": 0.25,
        "configured_weight": 1,
        "response_time_ms": 1.5,
    }
    binds = [{"name": "web", "quorum": True, "panic": False, "sorry": False, "servers": [row]}] * 2
    text = b"".join(exposition(daemon, binds)).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = {
        name: {sample.labels["server"]: sample.value for sample in family.samples}
        for name, family in families.items()
        if name.startswith("kernlb_server_") and name != "kernlb_server_status"
    }
    assert found == {
        "kernlb_server_connections": {row["name"]: float(2**61)},
        "kernlb_server_received_bytes": {row["name"]: 14},
        "kernlb_server_sent_bytes": {},
        "kernlb_server_received_packets": {row["name"]: 6},
        "kernlb_server_sent_packets": {},
        "kernlb_server_active_connections": {row["name"]: 8},
        "kernlb_server_inactive_connections": {row["name"]: 0},
        "kernlb_server_effective_weight": {row["name"]: 0.25},
        "kernlb_server_configured_weight": {row["name"]: 1},
        "kernlb_server_response_time_seconds": {row["name"]: 0.0015},
    }
    status = {sample.labels["status"]: sample.value for sample in families["kernlb_server_status"].samples}
    assert status == {"up": 1, "down": 0, "unknown": 0, "draining": 0, "disabled": 0}
    assert {family.type for name, family in families.items() if name.endswith(("bytes", "packets"))} == {"counter"}
    assert families["kernlb_service_quorum"].samples[0].value == 1
    assert families["kernlb_writes"].samples[0].value == 3
