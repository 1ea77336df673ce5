"""What others change is put back: in an engine that notifies nobody, and in the nftables of this kernel."""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from kernlb.daemon.daemon import Daemon
from kernlb.engines.nftables import Nftables
from kernlb.errors import KernlbError, Unsupported
from kernlb.kernel import Kernel
from kernlb.model import ServerKey
from kernlb.plan import Operation, Verb
from kernlb.watch import Watch
from tests.daemon.world import Server, World, service, until
from tests.engines.namespace import fresh_network

PROMISED = 2.0


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))


def looked(daemon: Daemon) -> bool:
    """Whether it has had the first look at the signs, which is the one to compare with."""
    signs = daemon._writer.signs
    assert isinstance(signs, Watch)
    return all(before is not None for _, before in signs._rest)


async def back(as_before: Callable[[], bool]) -> None:
    began = time.monotonic()
    await until(as_before)
    assert time.monotonic() - began < PROMISED


def test_a_server_that_somebody_took_out_is_back_and_told(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def scene() -> None:
        one = Server()
        await one.live()
        async with world.running(service(one)) as daemon:
            await until(lambda: looked(daemon))
            table = world.ipvs.read()
            key = next(key for key in table if isinstance(key, ServerKey))
            world.ipvs.apply([Operation(Verb.REMOVE, key, table[key], None)])
            await back(lambda: world.weights() == {one.address: 1})
            await until(lambda: daemon.drift == 1)
            assert "event=drift-repaired" in world.log.getvalue()

    play(scene)


@pytest.mark.root
@pytest.mark.netns
@pytest.mark.nftables
def test_a_flushed_ruleset_is_back(tmp_path: Path) -> None:
    async def scene() -> None:
        world = World(tmp_path, filtering=Nftables())
        async with world.running(service(Server(), bind="*:80", more='forwarding = "fullnat"\n')) as daemon:
            whole = listed()
            assert any("wildcard" in line for line in whole)
            for command in ("flush ruleset", "delete table inet kernlb", "flush chain inet kernlb postrouting"):
                subprocess.run(["nft", command], check=True)
                await back(lambda: listed() == whole)
            await until(lambda: daemon.error is None and daemon.drift >= 3)

    with fresh_network():
        play(scene)


@pytest.mark.root
@pytest.mark.netns
@pytest.mark.nftables
def test_where_the_engines_of_a_new_file_cannot_be_opened_those_before_still_hear(tmp_path: Path) -> None:
    async def scene() -> None:
        world = World(tmp_path, filtering=Nftables())
        text = service(Server(), bind="*:80", more='forwarding = "fullnat"\n')
        async with world.running(text):
            whole = listed()
            world.closed = Unsupported("no descriptor is left")
            world.write("[engine]\nmark_base = 0x1000000\n" + text)
            with pytest.raises(KernlbError, match="no descriptor"):
                await world.ask("POST", "/reload")
            subprocess.run(["nft", "flush ruleset"], check=True)
            await back(lambda: listed() == whole)

    with fresh_network():
        play(scene)


@pytest.mark.root
@pytest.mark.netns
@pytest.mark.nftables
def test_only_what_happens_to_its_own_table_is_a_sign() -> None:
    with fresh_network(), closing(Watch(Kernel({}, (Nftables(),)))) as watch:
        (sock,) = watch.sockets()
        for command, sign in (("add table ip theirs", False), ("add table inet kernlb", True), ("flush ruleset", True)):
            subprocess.run(["nft", command], check=True)
            assert watch.heed(sock) is sign


def listed() -> list[str]:
    """The lines of the table; chains that were made anew come in another order."""
    done = subprocess.run(["nft", "-s", "list", "table", "inet", "kernlb"], capture_output=True, text=True)
    return sorted(done.stdout.splitlines())
