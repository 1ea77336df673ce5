"""Orders as transactions on overrides, and when a drain ends."""

from ipaddress import IPv4Address

import pytest

from kernlb import operator
from kernlb.config.values import AddressBind, Config, Server, Service
from kernlb.counters import Counters
from kernlb.model import Protocol
from kernlb.pool import Hold, Override

NAME = ("web", "one")
CONFIG = Config(
    services=(
        Service(
            name="web",
            binds=(AddressBind(IPv4Address("192.0.2.1"), 80, 80),),
            servers=(Server(name="one", address=IPv4Address("10.0.0.1"), port=80),),
            sorry_server=Server(name="sorry", address=IPv4Address("10.0.0.9"), port=80),
        ),
    )
)


def drained(live: int | None, *, now: float, deadline: float = 100.0) -> bool:
    overrides = operator.drain({}, NAME, now=0.0, deadline=deadline)
    return operator.ended(overrides, lambda name: live, now=now)[NAME].drained


@pytest.mark.parametrize(
    ("live", "now", "ends"),
    [
        (0, 0.5, False),  # handshakes under way are not seen yet
        (0, operator.SETTLE, True),
        (3, 50.0, False),
        (3, 100.0, True),
        (None, 50.0, False),
        (None, 100.0, True),
    ],
)
def test_a_drain_ends_when_idle_or_at_its_deadline(live: int | None, now: float, ends: bool) -> None:
    assert drained(live, now=now) is ends


def test_deadline_zero_ends_a_drain_at_once() -> None:
    assert drained(9, now=0.0, deadline=0.0)


def test_a_second_drain_only_moves_the_deadline() -> None:
    first = operator.drain({}, NAME, now=0.0, deadline=10.0)
    second = operator.drain(first, NAME, now=5.0, deadline=60.0)
    assert second[NAME] == Override(hold=Hold.DRAIN, since=0.0, deadline=60.0)


def test_an_answer_says_what_an_order_changes_and_a_later_deadline_is_no_change() -> None:
    first = operator.drain({}, NAME, now=0.0, deadline=10.0)
    said = operator.answer({}, first, NAME)
    assert (said["changed"], said["before"]["hold"], said["hold"]) == (True, None, "drain")
    assert not operator.answer(first, operator.drain(first, NAME, now=5.0, deadline=60.0), NAME)["changed"]
    assert operator.answer(first, operator.weigh(first, NAME, 3), NAME)["changed"]
    assert operator.answer(first, operator.resume(first, NAME), NAME)["before"] == operator.told(first[NAME])


def test_resume_undoes_drain_and_disable_and_keeps_the_ordered_weight() -> None:
    weighed = operator.weigh({}, NAME, 5)
    for held in (
        operator.drain(weighed, NAME, now=0.0, deadline=1.0),
        operator.disable(weighed, NAME, now=0.0),
        operator.ended(operator.drain(weighed, NAME, now=0.0, deadline=1.0), lambda name: 0, now=9.0),
    ):
        assert operator.resume(held, NAME) == weighed
    assert operator.weigh(weighed, NAME, None) == {}


def test_a_drain_turned_into_a_disablement_never_ends_by_itself() -> None:
    held = operator.disable(operator.drain({}, NAME, now=0.0, deadline=1.0), NAME, now=0.5)
    assert operator.ended(held, lambda name: 0, now=99.0) == held
    assert operator.under_way(held) == []


@pytest.mark.parametrize(
    ("protocol", "counters", "live"),
    [
        (Protocol.TCP, [Counters(active_connections=2, inactive_connections=9)], 2),
        (Protocol.UDP, [Counters(active_connections=0, inactive_connections=9)], 9),
        (Protocol.TCP, [Counters(active_connections=2), Counters(active_connections=3)], 5),
        (Protocol.TCP, [Counters(active_connections=2), Counters()], None),
        (Protocol.TCP, [], 0),
    ],
)
def test_established_connections_are_live_and_every_udp_flow(protocol, counters, live) -> None:
    assert operator.live_connections(protocol, counters) == live


def test_names_are_those_of_the_configuration_and_others_meet_close_ones() -> None:
    assert operator.known(CONFIG, "web", "sorry") == ("web", "sorry")
    with pytest.raises(operator.Unknown) as service:
        operator.known(CONFIG, "wbe", "one")
    assert service.value.hint == "did you mean web?"
    with pytest.raises(operator.Unknown) as server:
        operator.known(CONFIG, "web", "xyz")
    assert server.value.hint == "there is: one, sorry"


def test_orders_for_servers_that_are_gone_are_dropped_with_them() -> None:
    overrides = {NAME: Override(weight=2), ("web", "gone"): Override(weight=2)}
    assert operator.of_configuration(overrides, CONFIG) == {NAME: Override(weight=2)}
