"""Laws of the marks."""

from hypothesis import given
from hypothesis import strategies as st

from kernlb.marks import SPAN, assign, is_ours

BASE = 0x4B4C0000
names = st.lists(st.text(max_size=8), unique=True, max_size=60)


@given(names, st.randoms())
def test_marks_follow_from_the_names_in_whatever_order(services: list[str], random: st.DataObject) -> None:
    shuffled = list(services)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign(services, base=BASE) == assign(shuffled, base=BASE)


@given(names)
def test_no_two_services_share_a_mark_and_all_are_recognised(services: list[str]) -> None:
    marks = assign(services, base=BASE)
    assert len(set(marks.values())) == len(services)
    assert all(is_ours(mark, base=BASE) and mark != BASE for mark in marks.values())


def test_a_service_that_leaves_moves_few_marks() -> None:
    before = assign([f"service{i}" for i in range(1000)], base=BASE)
    after = assign([f"service{i}" for i in range(1, 1000)], base=BASE)
    assert sum(before[name] != mark for name, mark in after.items()) <= 1


def test_a_foreign_mark_is_not_ours() -> None:
    assert not is_ours(7, base=BASE)
    assert not is_ours(BASE + SPAN, base=BASE)
