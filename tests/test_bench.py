"""The laws of the benchmark harness."""

from collections.abc import Callable

from bench.harness import Comparison, Count, Peer, Report, Series, as_json, compare, from_json


def test_peers_are_interleaved_and_take_turns_at_going_first() -> None:
    order: list[str] = []

    def measure(name: str) -> Callable[[], float]:
        def once() -> float:
            order.append(name)
            return 1.0

        return once

    compare("", [Peer("a", measure("a")), Peer("b", measure("b"))], rounds=3)
    assert "".join(order) == "abbaab"


def test_a_budget_is_a_multiple_of_the_baselines_median() -> None:
    base, fast, slow = Series("base", (1.0, 9.0, 2.0)), Series("fast", (4.0,)), Series("slow", (4.1,))
    comparison = Comparison("", "s", (base, fast, slow), baseline="base", budget=2.0, held=("fast", "slow"))
    assert [comparison.within(series) for series in comparison.series] == [None, True, False]
    assert comparison.ratio(slow) == 4.1 / 2.0


def test_a_report_keeps_only_if_every_budget_and_every_count_is_kept() -> None:
    good = Comparison("", "s", (Series("base", (1.0,)), Series("own", (1.0,))), "base", 2.0, ("own",))
    assert Report("x", (good,), (Count("writes", 0, 0),)).kept
    assert not Report("x", (good,), (Count("writes", 1, 0),)).kept
    assert not Report("x", (Comparison("", "s", good.series, "base", 0.5, ("own",)),)).kept


def test_a_report_survives_json() -> None:
    comparison = Comparison("t", "s", (Series("base", (1.0, 2.0)), Series("own", (3.0,))), "base", 2.0, ("own",))
    report = Report("x", (comparison,), (Count("writes", 1, 1),), {"kernel": "6.1"})
    assert from_json(as_json(report)) == report
