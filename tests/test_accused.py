"""When suspicion is so common that it is no longer about the suspected."""

from kernlb.accused import ANSWERABLE, LASTING, Accused

POOL, ALL = "pool", "all"


def accused(pool: str, everybody: str) -> Accused[str, str]:
    made: Accused[str, str] = Accused()
    made.among({POOL: set(pool), ALL: set(everybody)})
    return made


def most(of: Accused[str, str], now: float) -> bool:
    return of.most((POOL, ALL), since=now - LASTING, now=now)


def blame(of: Accused[str, str], names: str, now: float, *, groups: tuple[str, ...] = (POOL, ALL)) -> None:
    for name in names:
        of.accuse(name, groups, now)


def test_most_are_more_than_half_and_two_at_least_of_the_pool_or_of_all() -> None:
    for pool, names, expected in (("a", "a", False), ("ab", "a", False), ("ab", "ab", True), ("abcd", "ab", False)):
        found = accused(pool, "abcdefgh")
        blame(found, names, 0.0)
        assert most(found, ANSWERABLE) is expected
    found = accused("a", "abc")
    blame(found, "a", 0.0)
    blame(found, "b", 0.0, groups=(ALL,))
    assert most(found, ANSWERABLE)


def test_an_accusation_counts_once_an_answer_could_have_refuted_it() -> None:
    found = accused("ab", "ab")
    blame(found, "ab", 0.0)
    assert not most(found, ANSWERABLE / 2)
    found.clear("b", (POOL, ALL), ANSWERABLE / 2)
    assert not most(found, ANSWERABLE)


def test_an_answer_over_what_most_share_ends_it() -> None:
    found = accused("ab", "ab")
    blame(found, "ab", 0.0)
    assert most(found, 0.5)
    found.clear("b", (POOL, ALL), 0.6)
    assert not most(found, 0.6)


def test_what_nobody_repeats_is_over() -> None:
    found = accused("ab", "ab")
    blame(found, "ab", 0.0)
    assert most(found, 0.5)
    for now in (0.7, 1.4, 2.1):
        for name in "ab":
            found.repeat(name, (POOL, ALL), now)
        assert most(found, now)
    assert not most(found, 2.1 + 2 * LASTING)
    found.repeat("a", (POOL, ALL), 9.0)
    found.repeat("b", (POOL, ALL), 9.0)
    assert not most(found, 9.0 + ANSWERABLE)


def test_a_reload_keeps_what_was_said_and_forgets_groups_that_are_gone() -> None:
    found = accused("ab", "ab")
    blame(found, "ab", 0.0)
    found.among({POOL: set("abc")})
    assert most(found, 0.5)
    found.among({POOL: set("abcde")})
    assert not most(found, 2.5)
    blame(found, "ab", 3.0, groups=("gone",))
    found.clear("a", ("gone",), 3.0)
    assert not found.most(("gone",), since=0.0, now=4.0)
