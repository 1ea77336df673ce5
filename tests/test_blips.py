"""Who is taken out, and when, as the traffic of clients hastens checks: what decides it in the daemon, in virtual time
over a wire with faults."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from itertools import count, pairwise

import pytest

from kernlb.checker import Change, Checker
from kernlb.checks.spec import Address, Check
from kernlb.entries import Watched
from kernlb.health import Status
from kernlb.model import Endpoint, EngineName, Protocol, ServerKey
from kernlb.passive.packets import Kind, Sighting
from kernlb.passive.suspicion import Suspicion
from tests.virtual import RTT, Fate, Fault, Wire, every, play

CHECK = Check(interval=2.0, timeout=1.0, rise=2, fall=3)
CLIENT = ip_address("192.0.2.10")
SERVICE = Endpoint(EngineName.IPVS, Protocol.TCP, ip_address("192.0.2.1"), 80)
AT = 6.0  # when faults begin: all is settled by then
POLL = 0.03
Fall = tuple[float, int, Status]
"""Seconds after AT, the server's number, and what it is from then on."""


def address(number: int) -> Address:
    return ip_address(f"10.0.0.{number + 1}")


class Scene:
    """Clients connect to each server that serves at a steady pace; what is seen of it hastens the checks."""

    def __init__(self, wire: Wire, pools: Sequence[int], *, check: Check, pause: float) -> None:
        self._wire, self._pause = wire, pause
        self._loop = asyncio.get_running_loop()
        self._suspicion = Suspicion()
        self._ports, self._sequence = count(1024), count(1)
        self.falls: list[Fall] = []
        members = [(pool, number) for pool, size in enumerate(pools) for number in range(size)]
        self._servers = [(f"pool{pool}", at) for at, (pool, _) in enumerate(members)]
        self.checker: Checker[tuple[str, int]] = Checker(self._changed, clock=self._loop.time, kinds=wire.probers)
        self._check = check
        self.watch()
        self._suspicion.aim({key: [ServerKey(SERVICE, address(key[1]), 80)] for key in self._servers})

    def watch(self, pool: str | None = None) -> None:
        self.checker.replace(
            Watched(key=key, address=address(key[1]), port=80, checks=(self._check,), pool=pool or key[0])
            for key in self._servers
        )

    async def run(self, seconds: float) -> list[Fall]:
        for number, key in enumerate(self._servers):
            self._loop.call_later(
                self._pause * number / len(self._servers), every, self._pause, lambda key=key: self._connect(key)
            )
        every(POLL, lambda: self._hint(self._suspicion.overdue(self._loop.time())))
        await asyncio.sleep(AT + seconds)
        self.checker.close()
        return [fall for fall in self.falls if fall[0] >= 0]

    def _changed(self, changes: Sequence[Change[tuple[str, int]]]) -> None:
        self.falls += [(self._loop.time() - AT, change.key[1], change.after.status) for change in changes]

    def _hint(self, keys: Sequence[tuple[str, int]]) -> None:
        for key in keys:
            if self.checker.states()[key].serves:
                self.checker.hasten(key)

    def _see(self, kind: Kind, source: tuple, target: tuple, sequence: int) -> None:
        self._hint(self._suspicion.see(Sighting(kind, source, target, sequence), self._loop.time()))

    def _connect(self, key: tuple[str, int]) -> None:
        if self.checker.states()[key].serves:
            self._send((CLIENT, next(self._ports)), (address(key[1]), 80), next(self._sequence), again=1.0)

    def _send(self, client: tuple, server: tuple, sequence: int, *, again: float) -> None:
        self._see(Kind.SYN, client, server, sequence)
        match self._wire.fate(server[0], self._loop.time()):
            case Fate.ANSWERED:
                self._loop.call_later(RTT, self._see, Kind.ANSWER, server, client, 1)
            case Fate.REFUSED:
                self._loop.call_later(RTT, self._see, Kind.REFUSAL, server, client, 0)
            case Fate.LOST if again < 8:
                self._loop.call_later(again, lambda: self._send(client, server, sequence, again=2 * again))


def falls(
    *faults: Fault, pools: Sequence[int] = (2,), check: Check = CHECK, pause: float = 0.05, seconds: float = 10.0
) -> list[Fall]:
    """Every change since AT."""

    async def scene() -> list[Fall]:
        return await Scene(Wire(*faults), pools, check=check, pause=pause).run(seconds)

    return play(scene())


def phases(step: float = 0.4) -> list[float]:
    """Moments of a check's interval: where in it a fault begins must not matter."""
    return [AT + step * n for n in range(int(CHECK.interval / step))]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("pause", [0.05, 0.3])
def test_a_gap_of_three_tenths_on_the_way_to_all_takes_nobody_out(size: int, pause: float) -> None:
    for at in phases():
        assert falls(Fault(at, at + 0.3), pools=(size,), pause=pause) == []


def test_a_gap_of_three_tenths_on_the_way_to_one_takes_nobody_out() -> None:
    for at in phases():
        assert falls(Fault(at, at + 0.3, address(0)), pools=(3,)) == []


def test_a_gap_of_three_tenths_takes_nobody_out_whom_somebody_suspects_as_it_begins() -> None:
    async def scene(at: float) -> list[Fall]:
        playing = Scene(Wire(Fault(at, at + 0.3)), (1,), check=CHECK, pause=0.05)
        asyncio.get_running_loop().call_at(at, playing.checker.hasten, ("pool0", 0))
        return await playing.run(10.0)

    for at in phases(0.2):
        assert play(scene(at)) == []


@pytest.mark.parametrize("seconds", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("pools", [(2,), (3,), (8,), (1, 1), (2, 6)])
def test_a_longer_gap_on_the_way_to_all_takes_nobody_out_in_haste(seconds: float, pools: Sequence[int]) -> None:
    for at in phases():
        assert falls(Fault(at, at + seconds), pools=pools) == []


@pytest.mark.parametrize("size", [1, 2, 3])
def test_who_vanishes_is_out_after_little_more_than_one_timeout(size: int) -> None:
    for at in phases():
        ((after, who, status),) = falls(Fault(at, whose=address(0)), pools=(size,))
        assert (who, status) == (0, Status.DOWN)
        assert after + AT - at < CHECK.patience + 1.3


@pytest.mark.parametrize("size", [1, 2, 3])
def test_who_is_killed_is_out_at_once(size: int) -> None:
    for at in phases():
        ((after, who, status),) = falls(Fault(at, whose=address(0), refuses=True), pools=(size,))
        assert (who, status) == (0, Status.DOWN)
        assert after + AT - at < 0.8


def test_who_vanishes_alone_is_out_as_soon_though_others_are_suspected_without_reason() -> None:
    async def scene(at: float) -> list[Fall]:
        playing = Scene(Wire(Fault(at, whose=address(0))), (2,), check=CHECK, pause=0.05)
        every(0.2, lambda: playing.checker.hasten(("pool0", 1)))
        return await playing.run(10.0)

    for at in phases():
        ((after, who, _),) = play(scene(at))
        assert who == 0
        assert after + AT - at < CHECK.patience + 1.5


def test_who_vanishes_alone_is_out_as_soon_though_another_pool_is_lost() -> None:
    lost = [Fault(AT - 5, whose=address(n)) for n in (0, 1)]
    found = falls(*lost, Fault(AT, whose=address(2), refuses=True), pools=(2, 6))
    assert next(after for after, who, _ in found if who == 2) < 0.8


def test_who_is_lost_with_most_others_is_out_at_the_pace_of_its_check() -> None:
    found = falls(Fault(AT), pools=(2,))
    assert [(who, status) for _, who, status in sorted(found, key=lambda each: each[1])] == [
        (0, Status.DOWN),
        (1, Status.DOWN),
    ]
    for after, _, _ in found:
        assert CHECK.interval < after < CHECK.fall * CHECK.interval + CHECK.patience + 0.1


@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.2])
def test_who_was_taken_out_in_haste_is_back_about_a_second_after_it_could_be(seconds: float, refuses: bool) -> None:
    for at in phases():
        found = falls(Fault(at, at + seconds, address(0), refuses), pools=(3,))
        assert [(who, status) for _, who, status in found] in ([], [(0, Status.DOWN), (0, Status.UP)])
        if found:
            (down, _, _), (up, _, _) = found
            assert up - max(down, at - AT + seconds) < 1.2


def test_a_reload_that_renames_the_pool_amid_haste_does_not_delay_it() -> None:
    async def scene() -> list[Fall]:
        playing = Scene(Wire(Fault(AT, whose=address(0))), (3,), check=CHECK, pause=0.05)

        def rename() -> None:
            playing.watch("renamed")

        asyncio.get_running_loop().call_at(AT + 0.5, rename)
        return await playing.run(10.0)

    ((after, who, status),) = play(scene())
    assert (who, status) == (0, Status.DOWN)
    assert after < CHECK.patience + 1.5


@pytest.mark.parametrize("refuses", [True, False])
def test_who_stays_away_is_soon_asked_at_the_pace_of_its_check(refuses: bool) -> None:
    wire = Wire(Fault(AT, whose=address(0), refuses=refuses))

    async def scene() -> None:
        await Scene(wire, (3,), check=CHECK, pause=0.05).run(20.0)

    play(scene())
    late = [at - AT for at, whose in wire.asked if whose == address(0) and at > AT]
    assert len([at for at in late if at < 10]) <= CHECK.fall + 10
    settled = [at for at in late if at > 9]
    assert all(after - before > CHECK.interval - 0.05 for before, after in pairwise(settled))


def test_who_falls_again_and_again_comes_back_at_the_pace_of_its_check() -> None:
    flaps = [Fault(AT + 2 * n, AT + 2 * n + 1, address(0), refuses=True) for n in range(4)]
    found = falls(*flaps, pools=(3,), seconds=15.0)
    out = [up - down for (down, _, _), (up, _, _) in zip(found[::2], found[1::2], strict=True)]
    assert out[0] < 1.0
    assert len(out) > 1
    assert all(seconds > CHECK.interval for seconds in out[1:])
