"""The daemon with real checks of real servers, on the memory engine."""

import asyncio
import resource
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernlb.daemon.waiters import Waiters
from kernlb.errors import ConfigError, Ending, KernelError, KernlbError
from kernlb.health import Status
from kernlb.model import ServerKey
from kernlb.plan import Operation
from tests.checks.servers import certificate, serving, silent
from tests.daemon.world import FAST, Server, World, service, until


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))


def test_a_dead_server_leaves_and_a_living_one_returns(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        async with world.running(service(one, two)) as daemon:
            assert world.weights() == {one.address: 1, two.address: 1}
            await two.die()
            await until(lambda: world.weights() == {one.address: 1})
            status = await world.ask("GET", "/status")
            (web,) = status["services"]
            assert [s["status"] for s in web["servers"]] == ["up", "down"]
            assert "refused" in web["servers"][1]["reason"]
            assert web["quorum"] is True
            await two.live()
            await until(lambda: world.weights() == {one.address: 1, two.address: 1})
            assert daemon.drift == 0
        # The end of the daemon leaves traffic flowing.
        assert world.weights() == {one.address: 1, two.address: 1}

    play(scene)


def test_an_order_under_way_when_the_daemon_ends_is_told_so() -> None:
    async def scene() -> None:
        waiters = Waiters()
        waiter = waiters.add("web")
        waiters.fail(asyncio.CancelledError())
        with pytest.raises(Ending):
            await waiter

    play(scene)


def test_a_daemon_killed_and_started_again_adopts_weights_and_health_and_writes_nothing(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        text = service(one, two, check='check = { type = "tcp", interval = "30s", timeout = "1s", fall = 1 }\n')
        async with world.running(text, cut=True):
            await until(lambda: world.weights() == {one.address: 1})
            await world.ask("POST", "/weight", service="web", server="s1", weight=7)
        writes = world.ipvs.writes
        async with world.running(text, cut=True):
            assert world.weights() == {one.address: 7}
            status = await world.ask("GET", "/status")
            assert [s["status"] for s in status["services"][0]["servers"]] == ["up", "down"]
        assert world.ipvs.writes == writes

    play(scene)


def test_a_reload_takes_the_new_file_and_keeps_health(world: World) -> None:
    async def scene() -> None:
        one, two, three = Server(), Server(), Server()
        await one.live()
        await three.live()
        async with world.running(service(one, two)):
            await until(lambda: world.weights() == {one.address: 1})
            world.write(service(one, two, three))
            said = await world.ask("POST", "/reload")
            assert said["changed"]
            # The dead one stays out: its health was kept.
            assert world.weights() == {one.address: 1, three.address: 1}
            assert not (await world.ask("POST", "/reload"))["changed"]

    play(scene)


def test_a_reload_reads_renewed_authorities(world: World, tmp_path: Path) -> None:
    async def scene() -> None:
        (tmp_path / "old").mkdir()
        (tmp_path / "new").mkdir()
        _, authorities = certificate(tmp_path / "old")
        context, renewed = certificate(tmp_path / "new")
        async with serving(silent(), tls=context) as port:
            check = f'check = {{ type = "tls", interval = "50ms", rise = 1, tls = {{ ca_file = "{authorities}" }} }}\n'
            servers = f'[service.web.servers]\none = "127.0.0.1:{port}"\n'
            text = f'[service.web]\nbind = ["192.0.2.1:443"]\nforwarding = "fullnat"\n{check}{servers}'
            async with world.running(text):
                await until(lambda: world.weights() == {})
                authorities.write_bytes(renewed.read_bytes())
                await world.ask("POST", "/reload")
                await until(lambda: world.weights() == {"127.0.0.1": 1})

    play(scene)


def test_a_file_with_mistakes_changes_nothing_and_its_mistakes_reach_the_caller(world: World) -> None:
    async def scene() -> None:
        one = Server()
        await one.live()
        async with world.running(service(one)):
            writes = world.ipvs.writes
            world.write("[service.web]\nbnd = 1\n")
            with pytest.raises(ConfigError) as refused:
                await world.ask("POST", "/reload")
            assert refused.value.mistakes
            assert world.ipvs.writes == writes
            assert "event=reload-refused" in world.log.getvalue()
            await one.die()
            await until(lambda: world.weights() == {})

    play(scene)


def test_what_the_kernel_refuses_of_a_new_file_keeps_no_other_service_out_and_is_tried_again(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        async with world.running(service(one)) as daemon:
            apply, room = world.ipvs.apply, [False]

            def refuse(operations: Sequence[Operation]) -> None:
                if not room[0] and any(str(getattr(op.key, "address", None)) == one.address for op in operations):
                    raise KernelError("no room", errno=28)
                apply(operations)

            world.ipvs.apply = refuse  # type: ignore[method-assign]
            again = service(one, name="again", bind="192.0.2.2:80")
            world.write(service(one) + again + service(two, name="other", bind="192.0.2.3:80"))
            said = await world.ask("POST", "/reload")
            assert list(said["refused"]) == ["again"]
            assert said["refused"]["again"]["message"] == "no room"
            assert world.weights() == {one.address: 1, two.address: 1}
            assert daemon.error is not None
            room[0] = True
            await until(lambda: daemon.error is None)
            assert len([key for key in world.ipvs.read() if isinstance(key, ServerKey)]) == 3
            assert daemon.drift == 0

    play(scene)


def test_apply_of_another_file_is_refused_unless_temporary_and_ends_with_a_reload(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        async with world.running(service(one)):
            other = service(two)
            with pytest.raises(KernlbError, match="the daemon runs"):
                await world.ask("POST", "/apply", file="/other.toml", content=other)
            await world.ask("POST", "/apply", file="/other.toml", content=other, temporary=True)
            assert (await world.ask("GET", "/status"))["daemon"]["temporary"] == "/other.toml"
            assert world.weights()[two.address] == 1
            await world.ask("POST", "/reload")
            assert (await world.ask("GET", "/status"))["daemon"]["temporary"] is None
            await until(lambda: world.weights() == {one.address: 1})

    play(scene)


def test_an_apply_on_probation_stays_when_confirmed_and_goes_when_not(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        async with world.running(service(one)):
            file, both = str(world.file), {one.address: 1, two.address: 1}

            async def apply(seconds: float) -> None:
                said = await world.ask("POST", "/apply", file=file, content=service(one, two), confirm=seconds)
                assert said["changed"]

            await apply(0.2)
            await until(lambda: world.weights().get(two.address, 0) == 0)
            await until(lambda: world.log.getvalue().count("event=reload ") == 2)
            assert "as it was before" in (await world.ask("GET", "/status"))["daemon"]["temporary"]
            await until(lambda: world.weights() == {one.address: 1})
            await apply(60)
            assert await world.ask("POST", "/confirm", keep=False) == {"pending": True}
            assert world.weights()[two.address] == 0
            assert await world.ask("POST", "/confirm", keep=True) == {"pending": False}
            await until(lambda: world.weights() == {one.address: 1})
            await apply(2.0)
            assert await world.ask("POST", "/confirm", keep=True) == {"pending": True}
            await asyncio.sleep(2.2)
            assert world.weights() == both
            assert (await world.ask("GET", "/status"))["daemon"]["temporary"] is None

    play(scene)


def test_a_drain_quiesces_ends_when_idle_and_resume_brings_the_server_back(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        async with world.running(service(one, two)):
            said = await world.ask("POST", "/drain", service="web", server="s2", deadline=60)
            assert said["through"] == "daemon"
            assert world.weights() == {one.address: 1, two.address: 0}
            status = await world.ask("GET", "/status")
            assert status["services"][0]["servers"][1]["status"] == "draining"
            await until(lambda: world.weights() == {one.address: 1})
            await world.ask("POST", "/resume", service="web", server="s2")
            assert world.weights() == {one.address: 1, two.address: 1}

    play(scene)


@pytest.mark.parametrize(("verb", "body"), [("drain", {"deadline": 9}), ("disable", {}), ("weight", {"weight": 7})])
def test_an_order_that_is_only_asked_about_changes_nothing(world: World, verb: str, body: dict[str, int]) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        name = {"service": "web", "server": "s2"}
        async with world.running(service(one, two)):
            asked = await world.ask("POST", f"/{verb}", **name, **body, check=True)
            assert asked["changed"]
            assert world.weights() == {one.address: 1, two.address: 1}
            done = await world.ask("POST", f"/{verb}", **name, **body)
            assert done["before"] == {"hold": None, "deadline": None, "drained": False, "weight": None}
            assert world.weights().get(two.address) != 1
            assert not (await world.ask("POST", f"/{verb}", **name, **body, check=True))["changed"]

    play(scene)


def test_an_unknown_name_is_answered_with_close_ones(world: World) -> None:
    async def scene() -> None:
        one = Server()
        await one.live()
        async with world.running(service(one)):
            with pytest.raises(KernlbError) as refused:
                await world.ask("POST", "/disable", service="wbe", server="s1")
            assert "web" in str(refused.value.hint)

    play(scene)


def test_where_nothing_can_be_written_down_the_dead_still_leave_and_orders_are_carried_out(world: World) -> None:
    async def scene() -> None:
        servers = [Server(), Server(), Server()]
        for each in servers:
            await each.live()
        one, two, three = servers
        async with world.running(service(*servers)) as daemon:
            await until(lambda: set(world.weights().values()) == {1} and len(world.weights()) == 3)
            world.fill_disk()
            said = await world.ask("POST", "/disable", service="web", server="s1")
            assert "cannot write the state" in said["unwritten"]
            assert world.weights() == {one.address: 0, two.address: 1, three.address: 1}
            await two.die()
            await until(lambda: world.weights() == {one.address: 0, three.address: 1})
            await world.ask("POST", "/drain", service="web", server="s3", deadline=60)
            await until(lambda: world.weights() == {one.address: 0})
            assert daemon.error is None
            assert world.log.getvalue().count("event=unwritten") == 1
            world.write(service(*servers) + service(three, name="more", bind="192.0.2.2:80"))
            with pytest.raises(KernlbError, match="cannot write the state"):
                await world.ask("POST", "/reload")
            assert list(daemon.assessment.pools) == ["web"]
            await two.live()
            await until(lambda: world.weights() == {one.address: 0, two.address: 1})
            world.make_room()
        assert "event=written" in world.log.getvalue()
        writes = world.ipvs.writes
        world.write(service(*servers))
        async with world.running():
            assert world.weights() == {one.address: 0, two.address: 1}
        assert world.ipvs.writes == writes

    play(scene)


def test_after_a_boot_without_room_the_state_lies_beside_the_socket_until_there_is_room(world: World) -> None:
    world.aside = world.directory / "run" / "state.json"
    world.fill_disk()

    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        async with world.running(service(one, two), cut=True):
            await world.ask("POST", "/weight", service="web", server="s1", weight=7)
            assert world.weights() == {one.address: 7, two.address: 1}
            assert (await world.ask("GET", "/status"))["daemon"]["unwritten"]["where"] == str(world.state)
        writes = world.ipvs.writes
        async with world.running() as daemon:
            assert world.weights() == {one.address: 7, two.address: 1}
            assert world.ipvs.writes == writes
            world.make_room()
            await two.die()
            await until(lambda: world.weights() == {one.address: 7})
            await until(lambda: daemon.unwritten is None)
        assert not world.aside.exists()
        assert world.state.exists()

    play(scene)


@contextmanager
def no_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_keeps_checks_from_being_made_is_told_once_and_when_it_is_over(world: World) -> None:
    async def scene() -> None:
        one, two = Server(), Server()
        await one.live()
        await two.live()
        async with world.running(service(one, two, check=FAST.replace("fall = 2", "fall = 20"))) as daemon:
            await until(lambda: all(state.status is Status.UP for state in daemon.checker.states().values()))
            with no_descriptors():
                await one.die()  # a socket that was refused is not used again
                await until(lambda: "event=checks-hindered" in world.log.getvalue())
            await one.live()
            await until(lambda: "event=checks-again" in world.log.getvalue())
            assert world.weights() == {one.address: 1, two.address: 1}
        said = world.log.getvalue()
        assert said.count("event=checks-") == 2
        (hindered,) = (line for line in said.splitlines() if "event=checks-hindered" in line)
        assert "level=error" in hindered
        assert "oo many open files, at the director itself" in hindered

    play(scene)


def test_status_says_what_keeps_a_server_from_being_checked(world: World) -> None:
    async def reason() -> str:
        (web,) = (await world.ask("GET", "/status"))["services"]
        (row,) = web["servers"]
        assert row["status"] == "up"
        said: str = row["reason"]
        return said

    async def scene() -> None:
        one = Server()
        await one.live()
        async with world.running(service(one)) as daemon:
            await until(lambda: daemon.checker.states()["web", "s1"].status is Status.UP)
            assert "cannot be checked" not in await reason()
            world.write(service(one, check=FAST.replace("}", ', interface = "nosuch0" }')))
            await world.ask("POST", "/reload")
            await until(lambda: "event=checks-hindered" in world.log.getvalue())
            assert "cannot be checked: INTERNAL no such device, at the director itself" in await reason()
            world.write(service(one))
            await world.ask("POST", "/reload")
            await until(lambda: "event=checks-again" in world.log.getvalue())
            assert "cannot be checked" not in await reason()

    play(scene)
