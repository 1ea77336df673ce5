"""Health as scripts: verdicts in, states out."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernlb.checks.spec import Check, Start
from kernlb.checks.verdict import Administration, Code, Orders, Outcome, Verdict
from kernlb.health import Health, State, Status, combined, dumped, loaded

UP = Verdict(Outcome.UP, Code.L4OK, "", 0.001)
DOWN = Verdict(Outcome.DOWN, Code.L4CON, "connection refused")
LETTER = {Status.UP: "U", Status.DOWN: "D", Status.UNKNOWN: "?", Status.DRAINING: "R", Status.DISABLED: "M"}


def order(**wishes) -> Verdict:
    return Verdict(Outcome.NEUTRAL, Code.L7OK, "agent", orders=Orders(**wishes))


VERDICTS = {
    "+": UP,
    "-": DOWN,
    "0": Verdict(Outcome.NEUTRAL, Code.L4CON, "agent unreachable"),
    "d": order(administration=Administration.DRAIN),
    "m": order(administration=Administration.MAINT),
    "r": order(administration=Administration.READY),
    "u": order(up=True),
    "x": order(up=False),
    "h": order(share=0.5),
}


def statuses(script: str, last: State | None = None, **options) -> str:
    health = Health(Check(**options), now=0, last=last)
    letters = []
    for now, each in enumerate(script, start=1):
        health.judge(VERDICTS[each], now)
        letters.append(LETTER[health.state.status])
    return "".join(letters)


def intervals(script: str, **options) -> list[float]:
    health = Health(Check(**options), now=0)
    seen = []
    for now, each in enumerate(script):
        health.judge(VERDICTS[each], now)
        seen.append(health.interval)
    return seen


def state(status: Status, since: float = 0) -> State:
    return State(status=status, since=since, reason="")


def test_rise_and_fall_count_verdicts_in_a_row():
    assert statuses("++-+-+++", rise=3, fall=1) == "UUDDDDDU"
    assert statuses("+--+---+-++", rise=2, fall=3) == "UUUUUUDDDDU"


def test_the_first_failure_of_an_unchecked_server_takes_it_down():
    assert statuses("-", fall=3) == "D"
    assert statuses("+--", fall=3) == "UUU"


def test_a_server_serves_before_its_first_verdict():
    assert Health(Check(), now=0).state.serves


def test_a_server_that_starts_down_comes_up_with_its_first_success():
    health = Health(Check(start=Start.DOWN, rise=5), now=0)
    assert health.state.status is Status.DOWN
    assert statuses("-+", start=Start.DOWN, rise=2) == "DD"
    assert statuses("+", start=Start.DOWN, rise=5) == "U"


def test_the_last_state_is_resumed_with_its_age_and_needs_the_full_count_to_change():
    assert statuses("++", last=state(Status.DOWN), rise=2) == "DU"
    assert statuses("---", last=state(Status.UP), fall=3) == "UUD"
    resumed = Health(Check(), now=100, last=state(Status.DOWN, since=7))
    assert (resumed.state.status, resumed.state.since) == (Status.DOWN, 7)


def test_a_check_that_starts_up_ignores_the_last_state():
    assert Health(Check(start=Start.UP), now=9, last=state(Status.DOWN)).state.serves


def test_one_contrary_verdict_never_changes_a_settled_server_so_flapping_does_not():
    assert statuses("++" + "-+" * 50, rise=2, fall=3) == "U" * 102
    assert statuses("-" + "+-" * 50, rise=2, fall=3) == "D" * 101


def test_the_fast_interval_holds_in_transition_and_the_down_interval_while_down():
    options = {"interval": 2.0, "fast_interval": 0.5, "down_interval": 10.0, "rise": 2, "fall": 3}
    assert intervals("+--+---+-++", **options) == [2, 0.5, 0.5, 2, 0.5, 0.5, 10, 0.5, 10, 0.5, 2]
    assert intervals("+--", interval=2.0) == [2, 2, 2]
    assert Health(Check(interval=3.0), now=0).interval == 3.0


def test_agent_orders_act_at_once_and_stay_in_force():
    assert statuses("+d++r", rise=3, fall=3) == "URRRU"
    assert statuses("+m+-+r", fall=1, rise=1) == "UMMMMU"
    assert statuses("+x+u", fall=3, rise=3) == "UDDU"


def test_a_draining_server_that_dies_is_down_and_drains_again_when_back():
    assert statuses("+d---++", rise=2, fall=3) == "URRRDDR"


def test_a_neutral_verdict_changes_nothing():
    assert statuses("0+0-0--0") == "?UUUUUDD"


def test_a_server_of_which_nothing_was_heard_says_why_and_says_it_once():
    health = Health(Check(), now=0)
    assert health.judge(VERDICTS["0"], 1) == State(status=Status.UNKNOWN, since=0, reason="L4CON agent unreachable")
    assert health.judge(VERDICTS["0"], 2) is None
    hindered = Verdict(Outcome.NEUTRAL, Code.INTERNAL, "too many open files")
    assert health.judge(hindered, 3) is None  # told beside it
    assert health.judge(UP, 4).status is Status.UP
    assert health.judge(VERDICTS["0"], 5) is None


def test_an_agents_share_is_reported_once_and_kept():
    health = Health(Check(), now=0)
    assert health.judge(VERDICTS["h"], 1).share == 0.5
    assert health.judge(VERDICTS["h"], 2) is None
    assert health.judge(UP, 3).share == 0.5


def test_since_moves_only_with_the_status():
    health = Health(Check(), now=0)
    health.judge(UP, 5)
    health.judge(VERDICTS["h"], 6)
    assert health.state.since == 5


def test_the_response_time_is_the_last_one_measured():
    health = Health(Check(), now=0)
    health.judge(UP, 1)
    health.judge(DOWN, 2)
    assert health.response_time == 0.001


def test_the_gravest_check_says_what_a_server_is():
    def status(*of: Status) -> Status:
        return combined([state(each) for each in of]).status

    assert status(Status.UP, Status.DOWN) is Status.DOWN
    assert status(Status.UP, Status.UNKNOWN) is Status.UP
    assert status(Status.DRAINING, Status.UP) is Status.DRAINING
    assert status(Status.DOWN, Status.DISABLED) is Status.DISABLED


def test_of_several_checks_that_failed_the_first_says_why_and_of_those_that_came_up_the_last():
    assert combined([state(Status.DOWN, 9), state(Status.DOWN, 5)]).since == 5
    assert combined([state(Status.UP, 9), state(Status.UP, 5)]).since == 9
    assert combined([state(Status.UP, 9), state(Status.DOWN, 5), state(Status.DOWN, 4)]).since == 4


def test_a_server_that_is_down_by_one_check_after_another_has_been_down_all_the_time():
    both = combined([state(Status.DOWN, 9), state(Status.UP, 5)], before=state(Status.DOWN, 7))
    assert (both.status, both.since) == (Status.DOWN, 7)
    assert combined([state(Status.UP, 9), state(Status.UP, 5)], before=both).since == 9


def test_adjustments_of_several_checks_add_up():
    several = [replace(state(Status.UP), adjust=change) for change in (3, None, -5)]
    assert combined(several).adjust == -2
    assert combined(several[1:2]).adjust is None


def test_wishes_of_several_checks_multiply_or_take_the_smaller():
    both = combined(
        [
            State(status=Status.UP, since=0, reason="", share=0.5, max_connections=10),
            State(status=Status.UP, since=0, reason="", share=0.5, weight=7, max_connections=5),
        ]
    )
    assert (both.share, both.weight, both.max_connections) == (0.25, 7, 5)


states = st.builds(
    State,
    status=st.sampled_from(Status),
    since=st.floats(0, 1e9),
    reason=st.text(max_size=20),
    share=st.none() | st.floats(0, 2.56),
    weight=st.none() | st.integers(0, 256),
    adjust=st.none() | st.integers(-(2**62), 2**62),
    max_connections=st.none() | st.integers(0, 2**31),
)


@given(st.lists(states, min_size=1, max_size=4))
def test_a_server_serves_while_all_its_checks_say_so(several):
    assert combined(several).serves is all(each.serves for each in several)
    assert combined(several).status in {each.status for each in several}


@given(st.lists(states, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_checks_changes_no_weight(several, random):
    shuffled = random.sample(several, len(several))
    one, other = combined(several), combined(shuffled)
    assert (one.status, one.since, one.weight, one.adjust, one.max_connections) == (
        other.status, other.since, other.weight, other.adjust, other.max_connections,
    )  # fmt: skip
    assert one.share == pytest.approx(other.share)


@given(states)
def test_a_state_survives_the_state_file(given_state):
    assert loaded(json.loads(json.dumps(dumped(given_state)))) == given_state


@given(
    st.dictionaries(
        st.sampled_from(["status", "since", "reason", "share", "weight"]), st.none() | st.text() | st.integers()
    )
)
def test_a_damaged_state_file_gives_a_state_or_none(garbage):
    assert isinstance(loaded(garbage), State | None)


@given(st.text(alphabet="+-", max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_states_match_the_rule_stated_as_runs(script, rise, fall):
    """The same rule as a reader would check it by hand: look back over the run that ends here."""
    up: bool | None = None
    expected = []
    for end in range(1, len(script) + 1):
        run = len(script[:end]) - len(script[:end].rstrip(script[end - 1]))
        good = script[end - 1] == "+"
        if up is None or (good and not up and run >= rise) or (not good and up and run >= fall):
            up = good
        expected.append("U" if up else "D")
    assert statuses(script, rise=rise, fall=fall) == "".join(expected)
