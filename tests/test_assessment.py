"""Pools as verdicts, orders and time move them; no clock runs here."""

import json
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from kernlb import operator, slow_start
from kernlb.assessment import Assessment
from kernlb.config.values import AddressBind, Config, Policy, Server, Service
from kernlb.health import State, Status
from kernlb.pool import MOVING_SCALE

ONE, TWO = ("web", "one"), ("web", "two")


def config(**options) -> Config:
    slow = options.pop("slow_start", 0.0)
    servers = tuple(
        Server(name=name, address=IPv4Address(f"10.0.0.{n}"), port=80, slow_start=slow)
        for n, name in enumerate(("one", "two"), start=1)
    )
    bind = AddressBind(IPv4Address("192.0.2.1"), 80, 80)
    return Config(services=(Service(name="web", binds=(bind,), servers=servers, **options),))


def state(status: Status, since: float = 0.0, **wishes) -> State:
    return State(status=status, since=since, reason="", **wishes)


def weight(assessment: Assessment, server: str, now: float) -> int | None:
    assessment.assess(now=now)
    members = {member.server.name: member.weight for member in assessment.pools["web"].members}
    return members.get(server)


@pytest.mark.parametrize(
    ("elapsed", "share", "following"),
    [(0, 0.1, 20), (9.9, 0.1, 20), (20, 0.2, 30), (99.9, 0.9, 100), (100, 1.0, None), (1e9, 1.0, None)],
)
def test_a_slow_start_grows_in_ten_steps(elapsed: float, share: float, following: float | None) -> None:
    assert slow_start.share(elapsed, 100) == share
    assert slow_start.next_step(elapsed, 100) == (None if following is None else pytest.approx(following))


def test_a_server_that_comes_back_starts_slowly_and_each_step_is_announced() -> None:
    found = Assessment(config(slow_start=10.0), now=0.0)
    assert weight(found, "one", 0.0) == MOVING_SCALE
    found.judge(ONE, state(Status.UP), now=1.0)
    assert weight(found, "one", 1.0) == MOVING_SCALE, "the first verdict is no return"
    found.judge(ONE, state(Status.DOWN), now=2.0)
    assert weight(found, "one", 2.0) is None
    found.judge(ONE, state(Status.UP), now=5.0)
    weights, now = [weight(found, "one", 5.0)], 5.0
    while (due := found.next_change()) is not None:
        assert due > now
        now = due
        weights.append(weight(found, "one", now))
    assert weights == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert now == pytest.approx(15.0)


def test_a_slow_start_goes_on_after_a_restart() -> None:
    before = Assessment(config(slow_start=10.0), now=0.0)
    before.judge(ONE, state(Status.DOWN), now=0.0)
    before.judge(ONE, state(Status.UP), now=1.0)
    weight(before, "one", 1.0)
    after = Assessment(config(slow_start=10.0), now=4.0, record=json.loads(json.dumps(before.record())))
    assert weight(after, "one", 4.0) == 30
    assert weight(after, "two", 4.0) == 100


def test_a_slow_start_of_a_server_that_is_configured_no_more_asks_for_nothing() -> None:
    before = Assessment(config(slow_start=10.0), now=0.0)
    before.judge(ONE, state(Status.DOWN), now=0.0)
    before.judge(ONE, state(Status.UP), now=1.0)
    (service,) = config(slow_start=10.0).services
    without = Config(services=(replace(service, servers=service.servers[1:]),))
    after = Assessment(without, now=4.0, record=before.record())
    after.assess(now=4.0)
    assert after.next_change() is None
    assert after.record()["returned"] == {}


@pytest.mark.parametrize(
    "garbage", [None, 3, [], "x", {"web": 3}, {"web": {"one": "x"}}, {"web": {"one": float("nan")}}]
)
def test_a_damaged_record_is_forgiven(garbage: object) -> None:
    record = dict.fromkeys(("returned", "quorum", "response_time_shares"), garbage)
    found = Assessment(config(slow_start=10.0, scheduler=Policy.LEAST_RESPONSE_TIME), now=4.0, record=record)
    assert weight(found, "one", 4.0) == MOVING_SCALE
    assert found.pools["web"].quorum


def test_who_is_resumed_starts_slowly() -> None:
    found = Assessment(config(slow_start=10.0), now=0.0)
    found.order(operator.disable({}, ONE, now=0.0), now=0.0)
    assert weight(found, "one", 0.0) == 0
    found.order({}, now=5.0)
    assert weight(found, "one", 5.0) == 10


def test_only_what_something_happened_to_is_worked_out_again() -> None:
    found = Assessment(config(), now=0.0)
    assert found.assess(now=0.0) == {"web"}
    assert found.assess(now=1.0) == set()
    found.judge(ONE, state(Status.UP), now=2.0)
    assert found.assess(now=2.0) == set(), "up as before: the pool is the same"
    found.judge(ONE, state(Status.DOWN), now=3.0)
    assert found.assess(now=3.0) == {"web"}


def test_quorum_remembers_its_side_across_a_restart() -> None:
    wide = config(quorum=1, hysteresis=1)
    before = Assessment(wide, now=0.0)
    before.judge(ONE, state(Status.DOWN), now=0.0)
    before.judge(TWO, state(Status.DOWN), now=0.0)
    before.assess(now=0.0)
    assert before.pools["web"].quorum  # 0 >= 1 - 1
    narrow = config(quorum=2, hysteresis=1)
    lost = Assessment(narrow, now=0.0)
    lost.judge(ONE, state(Status.DOWN), now=0.0)
    lost.judge(TWO, state(Status.DOWN), now=0.0)
    lost.assess(now=0.0)
    assert not lost.pools["web"].quorum
    again = Assessment(narrow, now=1.0, record=json.loads(json.dumps(lost.record())))
    again.assess(now=1.0)
    assert not again.pools["web"].quorum, "two of three wanted to reach it again"


def test_response_times_move_weights_and_survive_a_restart() -> None:
    slow = config(scheduler=Policy.LEAST_RESPONSE_TIME)
    found = Assessment(slow, now=0.0)
    now = 0.0
    for _ in range(100):
        now += 1.0
        found.sample(ONE, 0.010, now=now)
        found.sample(TWO, 0.040, now=now)
        found.assess(now=now)
    fast, lame = weight(found, "one", now), weight(found, "two", now)
    assert fast is not None
    assert lame is not None
    assert 0.2 < lame / fast < 0.42
    after = Assessment(slow, now=now, record=json.loads(json.dumps(found.record())))
    assert (weight(after, "one", now), weight(after, "two", now)) == (fast, lame)


def test_an_agents_share_and_drain_are_obeyed() -> None:
    found = Assessment(config(scheduler=Policy.LEAST_RESPONSE_TIME), now=0.0)
    found.judge(ONE, state(Status.UP, share=0.5), now=0.0)
    found.judge(TWO, state(Status.DRAINING), now=0.0)
    assert weight(found, "one", 0.0) == 50
    assert weight(found, "two", 0.0) == 0


def test_a_reload_keeps_what_is_known_of_those_who_stay() -> None:
    found = Assessment(config(), now=0.0)
    found.judge(ONE, state(Status.DOWN), now=0.0)
    found.assess(now=0.0)
    found.reconfigure(config(quorum=2), now=1.0)
    assert weight(found, "one", 1.0) is None
    assert weight(found, "two", 1.0) == 1
