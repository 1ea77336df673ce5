"""Servers under several checks, against real listeners: up while all are, down by the one that fails, named by it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.checks.spec import Check, CommandProbe, DnsProbe, FileProbe, HttpProbe, TlsOptions
from kernlb.checks.title import title
from kernlb.config import load
from kernlb.health import Status
from kernlb.simulation import parsed, simulate
from tests.checks.servers import serving
from tests.daemon.world import PATIENCE, World
from tests.daemon.world import until as by_and_by
from tests.test_checker import QUICK, checking, listener, until, watched

SLOW = Check(interval=20.0, fall=2)


class Site:
    """Answers every request with the status it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return  # a tcp check
        self.asked += 1
        writer.write(b"HTTP/1.1 %d So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self.status)
        await writer.drain()


@asynccontextmanager
async def site() -> AsyncIterator[tuple[Site, int]]:
    each = Site()
    async with serving(each) as port:
        yield each, port


def http(path: str, **options) -> Check:
    return Check(probe=HttpProbe(path=path), **options)


def test_a_server_is_down_by_the_one_check_that_fails_and_up_when_all_are():
    async def run() -> None:
        async with site() as (page, port):
            ready = http("/ready", interval=0.05, rise=2, fall=2)
            async with checking(watched("web", port, QUICK, ready)) as (checker, log):
                await until(lambda: len(checker.verdicts("web")) == 2 and all(checker.verdicts("web")))
                page.status = 503
                await until(lambda: checker.states()["web"].status is Status.DOWN)
                down = checker.states()["web"]
                assert down.reason.startswith("L7STS")
                assert down.reason.endswith("(http /ready)")
                assert [verdict.outcome for verdict in checker.verdicts("web")] == ["up", "down"]
                page.status = 200
                await until(lambda: checker.states()["web"].status is Status.UP)
            moves = [(c.before.status, c.after.status) for c in log.changes if c.before.status is not c.after.status]
            assert moves == [("unknown", "up"), ("up", "down"), ("down", "up")]

    asyncio.run(run())


def test_equal_checks_of_several_servers_are_one_probe_each():
    async def run() -> None:
        with listener() as server:
            port = server.getsockname()[1]
            both = (QUICK, http("/a", interval=0.05))
            async with checking(watched("a", port, *both), watched("b", port, *both), watched("c", port)) as (
                checker,
                _,
            ):
                figures = checker.statistics()
                assert (figures.asked, figures.probed) == (5, 2)

    asyncio.run(run())


def test_a_suspicion_hurries_all_checks_but_that_of_a_file(tmp_path: Path):
    async def run() -> None:
        weight = tmp_path / "weight"
        weight.write_text("5")
        async with site() as (page, port):
            checks = (SLOW, http("/", interval=20.0, fall=2), Check(probe=FileProbe(path=str(weight)), interval=20.0))
            async with checking(watched("web", port, *checks)) as (checker, _):
                checker.hasten("web")
                await until(lambda: all(checker.verdicts("web")))
                page.status, asked, read = 503, page.asked, checker.verdicts("web")[2]
                await asyncio.sleep(0.6)  # past the relief that follows a probe
                checker.hasten("web")
                assert await until(lambda: checker.states()["web"].status is Status.DOWN) < 5
                assert page.asked >= asked + 2
                assert checker.verdicts("web")[2] is read

    asyncio.run(run())


def test_weights_learn_from_the_first_check_that_measures(tmp_path: Path):
    async def run() -> None:
        weight = tmp_path / "weight"
        weight.write_text("5")
        async with site() as (_, port):
            file = Check(probe=FileProbe(path=str(weight)), interval=0.05)
            async with checking(watched("a", port, file, http("/"), QUICK, timed=True)) as (checker, log):
                await until(lambda: all(checker.verdicts("a")) and bool(log.samples))
                http_verdict = checker.verdicts("a")[1]
                assert http_verdict is not None
                assert checker.response_time("a") == http_verdict.seconds

    asyncio.run(run())


def test_a_daemon_takes_a_server_out_by_its_second_check_and_says_so(tmp_path: Path) -> None:
    async def scene() -> None:
        world = World(tmp_path)
        async with site() as (page, port):
            text = (
                '[service.web]\nbind = "192.0.2.1:80"\ncheck = [\n'
                '  { type = "tcp", interval = "50ms", fall = 2 },\n'
                '  { type = "http", path = "/ready", interval = "50ms", fall = 2 },\n]\n'
                f'[service.web.servers]\ns1 = "127.0.0.1:{port}"\n'
            )

            async def server() -> tuple[str, str]:
                (web,) = (await world.ask("GET", "/status"))["services"]
                (each,) = web["servers"]
                return each["status"], each["reason"]

            async with world.running(text):
                await by_and_by(lambda: page.asked and world.weights() == {"127.0.0.1": 1})
                page.status = 503
                await by_and_by(lambda: world.weights() == {})
                status, reason = await server()
                assert status == "down"
                assert "L7STS" in reason
                assert "(http /ready)" in reason
                line = next(line for line in world.log.getvalue().splitlines() if "now=down" in line)
                assert "http /ready" in line
                page.status = 200
                await by_and_by(lambda: world.weights() == {"127.0.0.1": 1})
                # The kernel has it before the step has ended that makes another answer.
                async with asyncio.timeout(PATIENCE):
                    while (await server())[0] != "up":
                        await asyncio.sleep(0.01)

    asyncio.run(scene())


def test_a_file_beside_a_check_adjusts_the_weight_and_can_take_the_server_out(tmp_path: Path) -> None:
    async def scene() -> None:
        world, file = World(tmp_path), tmp_path / "load"
        with listener() as server:
            text = (
                '[service.web]\nbind = "192.0.2.1:80"\ncheck = [\n  { type = "tcp", interval = "50ms" },\n'
                f'  {{ type = "file", path = "{file}", adjust = -2, interval = "50ms", rise = 1, fall = 1 }},\n]\n'
                f'[service.web.servers]\ns1 = {{ address = "127.0.0.1:{server.getsockname()[1]}", weight = 9 }}\n'
            )
            async with world.running(text):
                for said, weights in ((None, 9), ("3", 3), ("-4", 17), ("100", 0), ("1073741824", None), ("1", 7)):
                    if said is not None:
                        file.write_text(f"{said}\n")
                    expected = {} if weights is None else {"127.0.0.1": weights}
                    await by_and_by(lambda expected=expected: world.weights() == expected)

    asyncio.run(scene())


def test_a_simulated_server_is_down_by_any_of_its_checks():
    config = load(
        '[service.web]\nbind = "192.0.2.1:80"\n'
        'check = [{ type = "tcp", fall = 1 }, { type = "http", timeout = "100ms", fall = 1, rise = 1 }]\n'
        'servers = { a = "10.0.0.1:80", b = "10.0.0.2:80" }\n',
        "kernlb.toml",
    )
    script = parsed("10s time web/a 500ms\n20s time web/a 1ms\n30s end\n", "script", config)
    changes = [(change.server, change.weight) for change in simulate(config, script) if change.at > 0]
    assert changes == [("a", None), ("a", 1)]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (Check(), "tcp"),
        (Check(port=9090), "tcp port 9090"),
        (http("/healthz"), "http /healthz"),
        (Check(probe=HttpProbe(host="a.example", tls=TlsOptions())), "https a.example/"),
        (http("/", address=ip_address("192.0.2.1"), port=80), "http / at 192.0.2.1 port 80"),
        (Check(probe=CommandProbe(argv=("/usr/lib/check-ldap", "-v"))), "command check-ldap"),
        (Check(probe=DnsProbe(name="example.org")), "dns example.org"),
        (Check(probe=FileProbe(path="/run/w")), "file /run/w"),
    ],
)
def test_a_check_is_called_by_what_it_asks(check: Check, said: str):
    assert title(check) == said
