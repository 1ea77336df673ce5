"""What the program's counters say of servers that do not answer."""

import numpy as np

from kernlb.engines.silence import Silence


def looks(*counts: list[tuple[int, int]]) -> list[set[int]]:
    """What each look finds, of (connections begun, packets arrived) by server."""
    silence = Silence()
    return [set(silence.look(*np.array(each, dtype=np.uint64).reshape(-1, 2).T)) for each in counts]


def test_syns_and_nothing_else_are_a_sign() -> None:
    assert looks([(5, 30), (5, 30)], [(9, 34), (9, 54)]) == [set(), {0}]


def test_the_last_packets_of_other_connections_do_not_hide_it_for_long() -> None:
    assert looks([(0, 0)], [(10, 20)], [(20, 31)]) == [set(), set(), {0}]


def test_where_nothing_begins_there_is_no_sign() -> None:
    assert looks([(5, 30)], [(5, 30)], [(5, 31)]) == [set(), set(), set()]


def test_a_number_that_is_given_to_another_server_is_no_sign() -> None:
    assert looks([(5, 30)], [(1, 1)], [(1, 1)]) == [set(), set(), set()]


def test_new_servers_are_compared_from_their_second_look_on() -> None:
    assert looks([], [(7, 7)], [(9, 9)], []) == [set(), set(), {0}, set()]
