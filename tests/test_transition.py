"""Tables that give way to each other: what is new moves at once, what is in use stays."""

import numpy as np

from kernlb.engines.abi import SLOT_TRACKED
from kernlb.transition import NEVER, Transition

IDLE = 900.0


def table(*servers: int) -> np.ndarray:
    return np.array(servers, dtype=np.uint16)


def unused(slots: int) -> np.ndarray:
    return np.full(slots, NEVER)


def test_a_settled_table_tracks_nothing() -> None:
    current, previous = Transition.settled(table(1, 2, 3)).words()
    assert (current == previous).all()


def test_a_slot_that_moves_keeps_its_server_for_what_was_there() -> None:
    current, previous = Transition.settled(table(1, 1)).toward(table(1, 2), now=10).words()
    assert current.tolist() == [1, 2]
    assert previous.tolist() == [1, 1 | SLOT_TRACKED]


def test_a_slot_may_move_again_at_once_and_keeps_its_first_server() -> None:
    moved = Transition.settled(table(1)).toward(table(2), now=10).toward(table(3), now=20).toward(table(1), now=30)
    current, previous = moved.words()
    assert (current.tolist(), previous.tolist()) == ([1], [1 | SLOT_TRACKED])


def test_after_idle_seconds_every_flow_in_use_is_known_and_the_previous_server_gets_no_more() -> None:
    moved = Transition.settled(table(1)).toward(table(2), now=0)
    used = np.array([500.0])
    early = moved.settle(now=IDLE - 1, idle=IDLE, used=used)
    assert early.words()[1].tolist() == [1 | SLOT_TRACKED]
    later = early.settle(now=IDLE, idle=IDLE, used=used)
    assert later.words()[1].tolist() == [2 | SLOT_TRACKED]
    assert later.settle(now=1399, idle=IDLE, used=used).active
    assert not later.settle(now=1400, idle=IDLE, used=used).active


def test_a_transition_ends_when_nothing_used_another_server() -> None:
    moved = Transition.settled(table(1)).toward(table(2), now=0)
    assert not moved.settle(now=IDLE, idle=IDLE, used=unused(1)).active
    assert not moved.settle(now=1, idle=IDLE, used=unused(1), unused={1}).active


def test_a_dead_server_is_nowhere_at_once() -> None:
    start = Transition.settled(table(1, 1, 2)).toward(table(2, 1, 2), now=0)
    after = start.toward(table(2, 2, 2), now=1, dead={1})
    current, previous = after.words()
    assert current.tolist() == [2, 2, 2]
    assert (previous & ~np.uint16(SLOT_TRACKED)).tolist() == [2, 2, 2]
    # The flows that slot 0's new server got meanwhile stay in the memory; slot 1 had nobody else.
    assert after.tracked.tolist() == [True, False, False]


def test_what_does_not_change_writes_nothing() -> None:
    before = Transition.settled(table(1, 2)).toward(table(2, 2), now=0)
    after = before.toward(table(2, 2), now=50)
    for one, other in zip(before.words(), after.words(), strict=True):
        assert (one == other).all()
    assert (before.changed == after.changed).all()


def test_a_transition_ends_when_the_last_slot_has_been_quiet_for_idle_seconds() -> None:
    moved = Transition.settled(table(1, 1, 1)).toward(table(2, 1, 1), now=0).toward(table(2, 3, 1), now=100)
    assert moved.ends(idle=IDLE, used=unused(3)) == 100 + IDLE
    assert moved.ends(idle=IDLE, used=np.array([400.0, NEVER, 800.0])) == 400 + IDLE
