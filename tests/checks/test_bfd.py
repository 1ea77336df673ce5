"""BFD with kernlb at both ends: what leaves, what is heeded, what watches see; and the checker that lets them watch."""

import asyncio
import random
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from ipaddress import ip_address
from itertools import pairwise

import pytest

from kernlb.checker import Checker
from kernlb.checks import bfd
from kernlb.checks.base import target_of
from kernlb.checks.bfd import BfdProber
from kernlb.checks.bfd_session import Packet, State, decode, encode
from kernlb.checks.bfd_sockets import SINGLE_HOP, listener
from kernlb.checks.spec import BfdProbe, Check, usual
from kernlb.checks.verdict import Code, Outcome, Verdict
from kernlb.entries import Watched
from tests.checks.link import SERVERS, linked
from tests.checks.servers import verdict
from tests.system.network import inside, ip, namespaces, run
from tests.virtual import play


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    with linked() as names:
        yield names


@contextmanager
def answering(namespace: str, address: str = "10.9.0.1", **options) -> Iterator[BfdProber]:
    """The other end, in the running loop: its sockets are opened where it starts."""
    prober = BfdProber(lambda verdicts: prober.start([target]), most=9)
    target = target_of(Check(probe=BfdProbe(**options)), ip_address(address), 0)
    with inside(namespace):
        prober.start([target])
    try:
        yield prober
    finally:
        prober.close()


class Watch:
    """One watch after another of one server, as a checker has it; in the namespace of the calling thread."""

    def __init__(self, address: str = "10.9.0.2", **options) -> None:
        self.verdicts: list[Verdict] = []
        self.prober = BfdProber(self._report, most=9)
        self._target = target_of(Check(probe=BfdProbe(**options), interval=0.1), ip_address(address), 0)
        self.prober.start([self._target])

    def _report(self, verdicts) -> None:
        self.verdicts += [found for _, found in verdicts]
        self.prober.start([self._target])

    async def next(self) -> Verdict:
        known = len(self.verdicts)
        async with asyncio.timeout(20):
            while len(self.verdicts) == known:
                await asyncio.sleep(0.01)
        return self.verdicts[known]

    def instead(self, **options) -> None:
        """Another check from now on."""
        self._target = target_of(Check(probe=BfdProbe(**options), interval=0.1), ip_address("10.9.0.2"), 0)
        self.prober.start([self._target])


@asynccontextmanager
async def watching(address: str = "10.9.0.2", **options) -> AsyncIterator[Watch]:
    watch = Watch(address, **options)
    try:
        yield watch
    finally:
        watch.prober.close()


UP = "L4OK BFD session up"


@pytest.mark.netns
def test_who_is_down_by_its_operators_wish_says_nothing_until_it_is_silent(machines: tuple[str, str]) -> None:
    """RFC 5882 3.2"""
    director, server = machines

    async def scene() -> None:
        async with watching() as watch:
            with answering(server):
                assert (await watch.next()).text == UP
            after = await watch.next()
            assert after.outcome is Outcome.NEUTRAL
            assert after.code is not Code.INTERNAL
            assert (await watch.next()).outcome is Outcome.DOWN

    with inside(director):
        asyncio.run(scene())


@pytest.mark.netns
@pytest.mark.parametrize("address", SERVERS)
def test_packets_leave_as_rfc_5881_has_it(address: str, machines: tuple[str, str]) -> None:
    director, server = machines
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(server):
        listening = listener(family, SINGLE_HOP)

    async def scene() -> list[tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]]:
        came = []
        async with watching(address):
            while len(came) < 3:
                with suppress(BlockingIOError):
                    came.append(listening.recvmsg(256, socket.CMSG_SPACE(4)))
                await asyncio.sleep(0.02)
        return came

    with inside(director), listening:
        came = asyncio.run(scene())
    (port,) = {source[1] for *_, source in came}
    assert 49152 <= port <= 65535
    assert {int.from_bytes(value, sys.byteorder) for _, ((_, _, value),), _, _ in came} == {255}
    assert [(packet.state, packet.yours) for data, *_ in came if (packet := decode(data))] == [(State.DOWN, 0)] * 3


@pytest.mark.netns
def test_where_another_program_has_the_port_that_is_told_and_the_server_not_judged(machines: tuple[str, str]) -> None:
    director, server = machines

    async def scene() -> None:
        other = listener(socket.AF_INET, SINGLE_HOP)
        async with watching() as watch:
            found = await watch.next()
            assert (found.outcome, found.code) == (Outcome.NEUTRAL, Code.INTERNAL)
            assert "UDP port 3784" in found.reason
            other.close()
            with answering(server):
                assert UP in [(await watch.next()).text for _ in range(2)]

    with inside(director):
        asyncio.run(scene())


@pytest.mark.netns
def test_garbage_on_the_port_disturbs_nothing(machines: tuple[str, str]) -> None:
    director, server = machines

    async def scene() -> None:
        async with watching() as watch:
            with answering(server):
                assert (await watch.next()).text == UP
                with inside(server), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    for size in range(300):
                        sock.sendto(random.randbytes(size), ("10.9.0.1", SINGLE_HOP))
                        # From too far away by its TTL of 64.
                        down = Packet(state=State.DOWN, mine=9, yours=0, min_tx=1, min_rx=1, multiplier=1)
                        sock.sendto(encode(down), ("10.9.0.1", SINGLE_HOP))
                assert (await watch.next()).text == UP

    with inside(director):
        asyncio.run(scene())


@pytest.mark.netns
def test_what_is_configured_anew_holds_at_once_and_is_no_failure(machines: tuple[str, str]) -> None:
    director, server = machines

    async def scene() -> None:
        async with watching() as watch:
            with answering(server) as other:
                assert (await watch.next()).text == UP
                watch.instead(min_tx=0.05, multiplier=9)
                while len([each for each in watch.verdicts if each.text == UP]) < 2:
                    await watch.next()
                (session,) = [each.session for each in other._sessions.values()]
                assert session.heard is not None
                assert session.heard.multiplier == 9
        assert Outcome.DOWN not in {each.outcome for each in watch.verdicts}

    with inside(director):
        asyncio.run(scene())


@pytest.mark.netns
def test_whom_nobody_watches_is_told_so_and_the_port_is_free_again(
    machines: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    director, server = machines
    monkeypatch.setattr(bfd, "LINGERING", 0.1)
    monkeypatch.setattr(bfd, "PARTING", 0.5)

    async def scene() -> None:
        ended = asyncio.Event()
        prober = BfdProber(lambda verdicts: ended.set(), most=9)
        prober.start([target_of(Check(probe=BfdProbe()), ip_address("10.9.0.2"), 0)])
        with answering(server) as other:
            await asyncio.wait_for(ended.wait(), 10)
            (end,) = other._peers.values()
            async with asyncio.timeout(10):
                while not end.disabled:
                    await asyncio.sleep(0.01)
                while prober._listening:
                    await asyncio.sleep(0.01)
        listener(socket.AF_INET, SINGLE_HOP).close()
        prober.close()

    with inside(director):
        asyncio.run(scene())


@pytest.mark.netns
@pytest.mark.parametrize(
    ("options", "comes_up"),
    [({}, False), ({"min_ttl": 254}, True), ({"multihop": True}, True), ({"min_ttl": 255, "multihop": True}, False)],
)
def test_over_a_router_it_takes_a_lower_ttl_or_multihop(options: dict[str, int], comes_up: bool) -> None:
    """director 10.9.1.1 --- 10.9.1.2 router 10.9.2.1 --- 10.9.2.2 server"""
    with namespaces("director", "router", "server") as (director, router, server):
        ip(director, f"link add name wire type veth peer name near netns {router}\n")
        ip(server, f"link add name wire type veth peer name far netns {router}\n")
        ip(director, "addr add 10.9.1.1/24 dev wire\nlink set wire up\nroute add 10.9.2.0/24 via 10.9.1.2\n")
        ip(router, "addr add 10.9.1.2/24 dev near\nlink set near up\naddr add 10.9.2.1/24 dev far\nlink set far up\n")
        ip(server, "addr add 10.9.2.2/24 dev wire\nlink set wire up\nroute add 10.9.1.0/24 via 10.9.2.1\n")
        with inside(router):
            run("sysctl", "-qw", "net.ipv4.ip_forward=1")

        async def scene() -> Verdict:
            async with watching("10.9.2.2", **options) as watch:
                with answering(server, "10.9.1.1", **options):
                    return await watch.next()

        with inside(director):
            found = asyncio.run(scene())
    assert (found.outcome is Outcome.UP) == comes_up


@pytest.mark.netns
def test_where_nobody_speaks_bfd_the_server_is_down(machines: tuple[str, str]) -> None:
    director, _ = machines
    with inside(director):
        assert asyncio.run(verdict(Check(probe=BfdProbe()), 0, "10.9.0.2")).text == "L4TOUT no BFD session within 3 s"
        unreachable = asyncio.run(verdict(Check(probe=BfdProbe()), 0, "192.0.2.1"))
    assert unreachable.text == "L4CON network is unreachable"


# --- the checker


def test_a_watch_follows_a_watch_without_a_gap() -> None:
    """Else what happens between them would be known an interval later."""

    class Sentry:
        """Each watch lasts a second and a bit."""

        def __init__(self, report) -> None:
            self.report = report
            self.began: list[float] = []

        def of(self, target) -> "Sentry":
            return self

        def start(self, targets) -> None:
            loop = asyncio.get_running_loop()
            for target in targets:
                self.began.append(loop.time())
                up = Verdict(Outcome.UP, Code.L4OK, "")
                loop.call_later(1.234, self.report, [(target, up)])

        def close(self) -> None:
            pass

    async def scene() -> list[float]:
        made = []
        checker: Checker[str] = Checker(lambda _: None, kinds=lambda report, _: made.append(Sentry(report)) or made[0])
        checker.replace([Watched(key="a", address=ip_address("10.9.0.2"), port=0, checks=(usual(BfdProbe()),))])
        await asyncio.sleep(60)
        checker.hasten("a")
        await asyncio.sleep(60)
        checker.close()
        return made[0].began

    began = play(scene())
    assert len(began) > 90
    assert [later - earlier for earlier, later in pairwise(began)] == pytest.approx([1.234] * (len(began) - 1))
