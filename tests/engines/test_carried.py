"""The book of what the eBPF engine carries: follows a Table part by part, and reads back as it was written down."""

from dataclasses import replace
from ipaddress import ip_address

from kernlb.engines.carried import Book, Wish, from_text, to_text
from kernlb.model import (
    Endpoint,
    EngineName,
    Forwarding,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    Table,
    VirtualService,
)
from kernlb.ports import PortRange

WEB, MAIL = (Endpoint(EngineName.XDP, Protocol.TCP, ip_address("192.0.2.1"), port) for port in (80, 25))
HASHED = VirtualService(Scheduler.MAGLEV)
REST = 900.0


def book() -> Book:
    return Book(
        abi=1,
        namespace=1,
        secret=1,
        fingerprint="",
        tick_shift=8,
        memory_buckets=1,
        flow_buckets=1,
        wish=Wish(sources=(ip_address("192.0.2.9"),), ports=PortRange(1024, 2047)),
        slots=251,
    )


def part(service: Endpoint, *weights: int, forwarding: Forwarding = Forwarding.DIRECT) -> Table:
    return {service: HASHED} | {
        ServerKey(service, ip_address("10.0.0.0") + number, service.port): RealServer(forwarding, weight)
        for number, weight in enumerate(weights, start=1)
    }


def without(number: int, part: Table) -> Table:
    return {
        key: value for key, value in part.items() if getattr(key, "address", None) != ip_address("10.0.0.0") + number
    }


def follow(carried: Book, *parts: Table, now: float = 0.0) -> tuple[int, int, int, bool]:
    """How many services changed, how many members came and left, and whether more than weights did."""
    change = carried.follow({next(iter(each)): each for each in parts}, now=now, servers=16, rest=REST)  # type: ignore[misc]
    return len(change.services), len(change.came), len(change.left), change.reshaped


def numbers(carried: Book) -> set[int]:
    return {member.id for _, _, member in carried.members()}


def before(carried: Book) -> list[int | None]:
    return [member.before for member in carried.services[WEB].members.values()]


def test_a_change_is_what_changed() -> None:
    carried = book()
    assert follow(carried, part(WEB, 1, 1), part(MAIL, 1)) == (2, 3, 0, True)
    assert follow(carried, part(WEB, 1, 1), part(MAIL, 1)) == (0, 0, 0, False)
    assert follow(carried, part(WEB, 5, 0)) == (1, 0, 0, False)
    assert follow(carried, part(WEB, 5, 0, 2)) == (1, 1, 0, True)
    assert follow(carried, part(WEB, 5)) == (1, 0, 2, True)
    assert follow(carried, part(WEB, 5, forwarding=Forwarding.TUNNEL)) == (1, 0, 0, True)
    assert set(carried.services) == {WEB, MAIL}
    change = carried.follow({MAIL: {}}, now=0.0, servers=16, rest=REST)
    assert (change.services, len(change.left), set(carried.services)) == ([], 1, {WEB})


def test_a_part_that_does_not_change_stays_the_same_object() -> None:
    carried = book()
    follow(carried, part(WEB, 1, 1), part(MAIL, 1))
    first = carried.parts()
    follow(carried, part(WEB, 1, 2), part(MAIL, 1))
    second = carried.parts()
    assert second[MAIL] is first[MAIL]
    assert second[WEB] == part(WEB, 1, 2)


def test_the_number_of_a_server_that_left_rests() -> None:
    carried = book()
    follow(carried, part(WEB, 1, 1))
    left = numbers(carried)
    follow(carried, part(WEB, 1), now=0.0)
    left -= numbers(carried)
    follow(carried, part(WEB, 1, 1), now=REST - 1)
    assert not left & numbers(carried)
    follow(carried, part(WEB, 1, 1, 1), now=REST + 1)
    assert left <= numbers(carried)


def test_who_comes_with_the_change_by_which_another_leaves_gets_another_number() -> None:
    carried = book()
    follow(carried, part(WEB, 1, 1), part(MAIL, 1))
    was = numbers(carried)
    assert follow(carried, without(2, part(WEB, 1, 1, 1))) == (1, 1, 1, True)
    came = numbers(carried) - was
    assert len(came) == 1
    assert len(numbers(carried)) == 3
    assert follow(carried, without(1, part(WEB, 1, 1)), {MAIL: HASHED}) == (2, 1, 3, True)
    assert not numbers(carried) & (was | came)


def test_weights_that_move_again_and_again_are_one_generation_until_the_transition_ends() -> None:
    carried = book()
    follow(carried, part(WEB, 1, 2))
    carried.services[WEB].moved(0.0, under_way=False)
    for weights in ((3, 2), (4, 2, 1), (7, 9, 2)):
        follow(carried, part(WEB, *weights))
        carried.services[WEB].moved(1.0, under_way=True)
        assert before(carried) == [1, 2, 0][: len(weights)]
    carried.services[WEB].settled()
    assert before(carried) == [None] * 3


def test_what_is_written_down_is_what_is_carried() -> None:
    carried = book()
    follow(carried, part(WEB, 1, 2), part(MAIL, 3))
    assert carried.source_range((ip_address("192.0.2.9"),)) == (0, 1)
    for weights in ((3, 2), (3,)):
        follow(carried, part(WEB, *weights), now=5.0)
        carried.services[WEB].moved(5.0, under_way=True)
        again = from_text(to_text(carried))
        assert again.parts() == carried.parts()
        assert (numbers(again), again.retired, again.sources) == (numbers(carried), carried.retired, carried.sources)
        assert before(again) == before(carried)
        assert again.services[WEB].changed == 5.0
        assert to_text(again) == to_text(carried)
        assert again.wish == carried.wish


def test_who_wrote_it_down_before_there_were_ranges_of_ports_had_none() -> None:
    carried = book()
    carried.wish = replace(carried.wish, ports=None)
    text = to_text(carried).replace(b',"ports":null', b"")
    assert b"ports" not in text
    assert from_text(text).wish == carried.wish
