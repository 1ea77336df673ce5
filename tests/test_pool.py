"""Which servers take traffic: tables for the rules, properties for what holds always."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernlb.checks.spec import AgentProbe, Check, FileProbe
from kernlb.config.values import AddressBind, OnFailure, Policy, Server, Service
from kernlb.pool import MOVING_SCALE, Hold, Override, Pool, Rating, configured_weight, pool, scale_of

BIND = AddressBind(IPv4Address("192.0.2.1"), 80, 80)
DOWN = Rating(up=False)


def server(name: str, **options) -> Server:
    return Server(name=name, address=IPv4Address(f"10.0.0.{ord(name[0]) - 96}"), port=80, **options)


def service(names: str = "abc", *, backups: str = "", sorry: bool = False, weights=None, **options) -> Service:
    return Service(
        name="web",
        binds=(BIND,),
        servers=tuple(server(n, weight=(weights or {}).get(n, 1)) for n in names)
        + tuple(server(n, backup=True) for n in backups),
        sorry_server=server("z") if sorry else None,
        **options,
    )


def weights(found: Pool) -> dict[str, int]:
    return {member.server.name: member.weight for member in found.members}


def rated(down: str = "", **ratings: Rating) -> dict[tuple[str, str], Rating]:
    return {("web", n): DOWN for n in down} | {("web", n): rating for n, rating in ratings.items()}


def ordered(**orders: Override) -> dict[tuple[str, str], Override]:
    return {("web", n): order for n, order in orders.items()}


@pytest.mark.parametrize(
    ("down", "expected"),
    [("", {"a": 1, "b": 1, "c": 1}), ("b", {"a": 1, "c": 1}), ("abc", {})],
)
def test_the_dead_are_out_at_once(down: str, expected: dict[str, int]) -> None:
    found = pool(service(), ratings=rated(down))
    assert weights(found) == expected
    assert found.out == frozenset(down)


def test_quiesced_on_failure_the_dead_stay_with_weight_0() -> None:
    found = pool(service(on_failure=OnFailure.QUIESCE), ratings=rated("b"))
    assert weights(found) == {"a": 1, "b": 0, "c": 1}
    assert not found.out


@pytest.mark.parametrize(
    ("order", "expected", "out"),
    [
        (Override(hold=Hold.DISABLE), 0, set()),
        (Override(hold=Hold.DRAIN, deadline=9.0), 0, set()),
        (Override(hold=Hold.DRAIN, drained=True), None, {"b"}),
        (Override(weight=5), 5, set()),
        (Override(weight=0), 0, set()),
        (Override(weight=5, hold=Hold.DISABLE), 0, set()),
    ],
)
def test_the_operator_is_obeyed(order: Override, expected: int | None, out: set[str]) -> None:
    found = pool(service(), overrides=ordered(b=order))
    assert weights(found).get("b") == expected
    assert found.out == out


@pytest.mark.parametrize(
    ("rating", "expected"),
    [
        (Rating(factor=0.5), 50),
        (Rating(factor=2.0), 200),
        (Rating(factor=0.0001), 1),
        (Rating(factor=0.0), 0),
        (Rating(weight=7), 700),
        (Rating(weight=0), 0),
        (Rating(held=True), 0),
    ],
)
def test_moving_weights_count_in_hundredths_and_never_vanish_while_up(rating: Rating, expected: int) -> None:
    moving = service(scheduler=Policy.LEAST_RESPONSE_TIME)
    assert scale_of(moving) == MOVING_SCALE
    assert weights(pool(moving, ratings=rated(b=rating)))["b"] == expected


@pytest.mark.parametrize(
    ("rating", "expected"),
    [
        (Rating(adjust=3), 8),
        (Rating(adjust=-3), 2),
        (Rating(adjust=-9), 0),
        (Rating(adjust=2**31), 65535),
        (Rating(weight=7, adjust=3), 10),
    ],
)
def test_what_a_server_adjusts_is_added_to_its_weight_and_never_below_0(rating: Rating, expected: int) -> None:
    each = service(weights={"b": 5})
    assert scale_of(each) == 1
    assert weights(pool(each, ratings=rated(b=rating)))["b"] == expected


def test_quorum_counts_adjusted_weights() -> None:
    assert pool(service("a", quorum=4), ratings=rated(a=Rating(adjust=3))).quorum
    assert not pool(service("a", weights={"a": 4}, quorum=4), ratings=rated(a=Rating(adjust=-1))).quorum


def test_the_operators_weight_is_stronger_than_the_agents() -> None:
    found = pool(service(), ratings=rated(b=Rating(weight=7)), overrides=ordered(b=Override(weight=3)))
    assert weights(found)["b"] == 3


def test_an_agents_limit_takes_the_place_of_the_configured_one() -> None:
    found = pool(service(), ratings=rated(b=Rating(max_connections=9)))
    assert {m.server.name: m.server.max_connections for m in found.members}["b"] == 9


@pytest.mark.parametrize("probe", [AgentProbe(), FileProbe(path="/w")])
def test_a_service_whose_servers_may_ask_for_shares_has_moving_weights(probe) -> None:
    assert scale_of(service()) == 1
    asking = replace(service(), servers=(replace(server("a"), agent=Check(probe=probe)),))
    assert scale_of(asking) == MOVING_SCALE
    adjusting = replace(
        service(), servers=(replace(server("a"), checks=(Check(probe=FileProbe(path="/w", adjust=1)),)),)
    )
    assert scale_of(adjusting) == 1


@pytest.mark.parametrize(
    ("down", "had", "has"),
    [
        # quorum 3, hysteresis 1, five servers: reached at 4, lost below 2
        ("", True, True),
        ("abc", True, True),
        ("abcd", True, False),
        ("abc", False, False),
        ("ab", False, False),
        ("a", False, True),
    ],
)
def test_quorum_is_reached_above_and_lost_below_its_hysteresis(down: str, had: bool, has: bool) -> None:
    found = pool(service("abcde", quorum=3, hysteresis=1), ratings=rated(down), had_quorum=had)
    assert found.quorum is has


def test_quorum_counts_weight_and_not_heads() -> None:
    heavy = service("ab", weights={"a": 9}, quorum=9)
    assert pool(heavy, ratings=rated("b")).quorum
    assert not pool(heavy, ratings=rated("a")).quorum


def test_without_quorum_the_sorry_server_answers_and_the_living_keep_their_connections() -> None:
    found = pool(service(quorum=3, sorry=True), ratings=rated("a"))
    assert weights(found) == {"b": 0, "c": 0, "z": 1}
    assert found.sorry
    assert not found.quorum


def test_a_dead_sorry_server_is_not_called() -> None:
    found = pool(service(quorum=3, sorry=True), ratings=rated("az"))
    assert weights(found) == {"b": 1, "c": 1}
    assert not found.sorry


@pytest.mark.parametrize(
    ("down", "every", "expected"),
    [
        ("", False, {"a": 1, "b": 1, "c": 1}),
        ("a", False, {"b": 1, "c": 1}),
        ("abc", False, {"x": 1}),
        ("abcx", False, {"y": 1}),
        ("abc", True, {"x": 1, "y": 1}),
    ],
)
def test_backups_serve_only_when_nobody_else_does(down: str, every: bool, expected: dict[str, int]) -> None:
    found = pool(service(backups="xy", all_backups=every), ratings=rated(down))
    assert weights(found) == expected
    assert found.quorum


def test_a_backup_that_is_no_longer_needed_leaves_by_quiescing() -> None:
    assert "x" not in pool(service(backups="x")).out
    assert "x" in pool(service(backups="x"), ratings=rated("x")).out


@pytest.mark.parametrize(("down", "panic"), [("a", False), ("ab", True), ("abc", True)])
def test_when_too_many_are_down_at_once_all_keep_serving(down: str, panic: bool) -> None:
    found = pool(service(panic=0.5), ratings=rated(down))
    assert found.panic is panic
    if panic:
        assert weights(found) == {"a": 1, "b": 1, "c": 1}
        assert found.quorum


NO_STAND_INS = [
    (Rating(), Override(weight=0)),
    (Rating(weight=0), Override()),
    (Rating(factor=0.0), Override()),
    (Rating(held=True), Override()),
    (Rating(), Override(hold=Hold.DISABLE)),
    (Rating(), Override(hold=Hold.DRAIN, drained=True)),
]


@pytest.mark.parametrize(("rating", "order"), NO_STAND_INS)
def test_a_backup_that_takes_no_traffic_leaves_its_place_to_the_next(rating: Rating, order: Override) -> None:
    each = service(backups="xy", sorry=True)
    assert weights(pool(each, ratings=rated("abc", x=rating), overrides=ordered(x=order))) == {"y": 1}
    found = pool(each, ratings=rated("abcy", x=rating), overrides=ordered(x=order))
    assert (weights(found), found.sorry, found.quorum) == ({"z": 1}, True, False)


@pytest.mark.parametrize(("rating", "order"), NO_STAND_INS)
def test_a_sorry_server_that_takes_no_traffic_is_not_called(rating: Rating, order: Override) -> None:
    found = pool(service(quorum=3, sorry=True), ratings=rated("a", z=rating), overrides=ordered(z=order))
    assert (weights(found), found.sorry) == ({"b": 1, "c": 1}, False)


def test_a_sorry_server_has_the_weight_and_the_limit_that_were_ordered() -> None:
    each = service(sorry=True)
    ordinary = pool(each, ratings=rated("abc", z=Rating(max_connections=9)), overrides=ordered(z=Override(weight=5)))
    assert weights(ordinary) == {"z": 5}
    assert ordinary.members[0].server.max_connections == 9


@pytest.mark.parametrize(
    ("down", "every", "expected", "panic"),
    [
        ("a", False, {"b": 1, "c": 1}, False),
        ("ab", False, {"c": 1, "x": 1}, False),
        ("ab", True, {"c": 1, "x": 1, "y": 1}, False),
        ("abx", False, {"c": 1, "y": 1}, False),
        ("abc", False, {"x": 1}, False),
        ("abxy", False, {"a": 1, "b": 1, "c": 1}, True),
        ("abcxy", False, {"a": 1, "b": 1, "c": 1}, True),
    ],
)
def test_the_dead_are_trusted_only_where_no_backup_is_well(
    down: str, every: bool, expected: dict[str, int], panic: bool
) -> None:
    found = pool(service(backups="xy", sorry=True, panic=0.5, all_backups=every), ratings=rated(down))
    assert (weights(found), found.panic, found.sorry) == (expected, panic, False)
    assert found.quorum


def test_panic_trusts_nobody_whom_the_operator_took_out() -> None:
    found = pool(service(panic=0.9), ratings=rated("ab"), overrides=ordered(a=Override(hold=Hold.DISABLE)))
    assert weights(found) == {"a": 0, "b": 1, "c": 1}


ratings = st.builds(
    Rating,
    up=st.booleans(),
    held=st.booleans(),
    factor=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]),
    weight=st.none() | st.integers(0, 5),
    adjust=st.integers(-3, 3),
)
overrides = st.builds(
    Override,
    weight=st.none() | st.integers(0, 5),
    hold=st.none() | st.sampled_from(Hold),
    drained=st.booleans(),
)
services = st.builds(
    service,
    names=st.sampled_from(["a", "ab", "abc", "abcd"]),
    backups=st.sampled_from(["", "x", "xy"]),
    sorry=st.booleans(),
    quorum=st.integers(1, 5),
    hysteresis=st.integers(0, 2),
    panic=st.sampled_from([0.0, 0.5, 1.0]),
    on_failure=st.sampled_from(OnFailure),
    all_backups=st.booleans(),
    scheduler=st.sampled_from(["wrr", Policy.LEAST_RESPONSE_TIME]),
)
names = st.sampled_from([("web", n) for n in "abcdxyz"])


@given(services, st.dictionaries(names, ratings), st.dictionaries(names, overrides), st.booleans())
def test_what_holds_always(each: Service, said: dict, orders: dict, had: bool) -> None:
    found = pool(each, ratings=said, overrides=orders, had_quorum=had)
    listed = [member.server.name for member in found.members]
    assert len(listed) == len(set(listed))
    assert not found.out & set(listed)
    for member in found.members:
        name = ("web", member.server.name)
        rating, order = said.get(name, Rating()), orders.get(name, Override())
        assert 0 <= member.weight < 2**31
        if member.weight:
            assert order.hold is None
            assert not order.drained
            assert not rating.held
            assert rating.up or found.panic
    # Nobody who could serve is forgotten: some member takes traffic wherever a server is able to, backups too.
    able = [
        s
        for s in each.servers
        if (r := said.get(("web", s.name), Rating())).up
        and not r.held
        and r.factor
        and (o := orders.get(("web", s.name), Override())).hold is None
        and not o.drained
        and configured_weight(s, r, o)
    ]
    if able:
        assert any(member.weight for member in found.members)


@given(services, st.dictionaries(names, ratings))
def test_hysteresis_never_swings_on_the_same_ratings(each: Service, said: dict) -> None:
    once = pool(each, ratings=said, had_quorum=True).quorum
    again = pool(each, ratings=said, had_quorum=once).quorum
    assert pool(each, ratings=said, had_quorum=again).quorum == again
