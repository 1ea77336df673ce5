"""Laws of a BFD session and its packets: two ends in virtual time over a wire that loses, delays and reorders."""

import heapq
import random
from dataclasses import dataclass, field
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernlb.checks.bfd_session import SLOWLY, Diagnostic, Packet, Session, State, decode, encode

WORDS = st.integers(0, 2**32 - 1)
PACKETS = st.builds(
    Packet,
    state=st.sampled_from(State),
    mine=st.integers(1, 2**32 - 1),
    yours=st.integers(1, 2**32 - 1),
    min_tx=WORDS,
    min_rx=WORDS,
    multiplier=st.integers(1, 255),
    diagnostic=st.integers(0, 31),
    poll=st.booleans(),
    final=st.booleans(),
    demand=st.booleans(),
)
GOOD = encode(Packet(state=State.UP, mine=1, yours=2, min_tx=3, min_rx=4, multiplier=5))


@given(PACKETS, st.binary(max_size=40))
def test_a_packet_is_read_as_it_was_written_whatever_comes_after_it(packet: Packet, rest: bytes) -> None:
    assert decode(encode(packet) + rest) == packet


def test_a_packet_is_laid_out_as_the_rfc_draws_it() -> None:
    packet = Packet(
        state=State.INIT, mine=0x01020304, yours=0x05060708, min_tx=1_000_000, min_rx=50_000, multiplier=3, poll=True,
        diagnostic=Diagnostic.EXPIRED,
    )  # fmt: skip
    assert encode(packet).hex(" ") == ("21 a0 03 18 01 02 03 04 05 06 07 08 00 0f 42 40 00 00 c3 50 00 00 00 00")


@given(st.binary(max_size=60))
def test_whatever_comes_is_a_packet_or_passed_over(data: bytes) -> None:
    packet = decode(data)
    assert packet is None or (packet.multiplier and packet.mine and (packet.yours or packet.state <= State.DOWN))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, 0x40), (0, 0x00), (1, 0xC4), (1, 0xC1), (2, 0), (3, 23), (3, 25), (3, 255), (7, 0), (11, 0),
    ],
)  # fmt: skip
def test_what_6_8_6_discards_is_none(at: int, value: int) -> None:
    """Version, authentication, multipoint, Detect Mult, Length, My Discriminator, Your Discriminator while up."""
    assert decode(GOOD) is not None
    assert decode(GOOD[:at] + bytes([value]) + GOOD[at + 1 :]) is None
    assert decode(GOOD[:-1]) is None


# --- two ends


@dataclass
class End:
    session: Session
    sent: list[tuple[float, Packet]] = field(default_factory=list)
    changes: list[tuple[float, State]] = field(default_factory=list)
    mute: bool = False


class Wire:
    """Carries what either end sends, by `fate`: how long it takes, or None where it is lost."""

    def __init__(self, one: Session, other: Session, fate) -> None:
        self.ends = (End(one), End(other))
        self.now = 0.0
        self._fate = fate
        self._under_way: list[tuple[float, int, int, Packet]] = []
        self._order = count()

    def run(self, until: float) -> None:
        while True:
            due = [(max(end.session.due, self.now), number) for number, end in enumerate(self.ends) if not end.mute]
            turn = min(due, default=(until, 0))
            packet = self._under_way[0] if self._under_way else (float("inf"), 0, 0, None)
            self.now = min(turn[0], packet[0])
            if self.now >= until:
                self.now = until
                return
            if packet[0] <= turn[0]:
                _, _, number, content = heapq.heappop(self._under_way)
                if not self.ends[number].mute:
                    self.ends[number].session.receive(content, self.now)
                    self._turn(number)
            else:
                self._turn(turn[1])

    def _turn(self, number: int) -> None:
        end = self.ends[number]
        for packet in end.session.turn(self.now):
            end.sent.append((self.now, packet))
            delay = self._fate()
            if delay is not None:
                heapq.heappush(self._under_way, (self.now + delay, next(self._order), 1 - number, packet))
        if not end.changes or end.changes[-1][1] is not end.session.state:
            end.changes.append((self.now, end.session.state))

    @property
    def states(self) -> tuple[State, State]:
        return self.ends[0].session.state, self.ends[1].session.state


def made(mine: int, dice: random.Random, *, min_tx=50_000, min_rx=50_000, multiplier=3, passive=False) -> Session:
    session = Session(min_tx=min_tx, min_rx=min_rx, multiplier=multiplier, passive=passive, chance=dice.random)
    session.mine = mine
    return session


ENDS = st.fixed_dictionaries(
    {
        "min_tx": st.integers(30_000, 3_000_000),
        "min_rx": st.integers(30_000, 3_000_000),
        "multiplier": st.integers(1, 20),
    }
)
UP = (State.UP, State.UP)


def smoothly() -> float:
    return 0.001


@settings(max_examples=40)
@given(ENDS, ENDS, st.booleans(), st.integers())
def test_two_ends_come_up_within_seconds_and_speak_as_fast_as_both_allow(one, other, passive, seed) -> None:
    dice = random.Random(seed)
    wire = Wire(made(1, dice, **one), made(2, dice, passive=passive, **other), smoothly)
    wire.run(4 * max(1.0, one["min_tx"] / 1e6, other["min_tx"] / 1e6, one["min_rx"] / 1e6, other["min_rx"] / 1e6))
    assert wire.states == UP
    settled = wire.now + 4.0
    wire.run(settled + 60.0)
    assert wire.states == UP
    for (mine, theirs), end in zip(((one, other), (other, one)), wire.ends, strict=True):
        assert [state for _, state in end.changes if state is State.DOWN] in ([], [State.DOWN]), "it came up once"
        interval = max(mine["min_tx"], theirs["min_rx"]) / 1e6
        times = [time for time, packet in end.sent if time > settled and not packet.final]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert all(0.75 * interval - 1e-6 <= gap <= interval + 1e-6 for gap in gaps)
        if mine["multiplier"] == 1:
            assert all(gap <= 0.9 * interval + 1e-6 for gap in gaps)
        assert gaps or interval > 20


@given(ENDS, ENDS, st.integers())
def test_while_it_is_not_up_an_end_sends_once_a_second_at_most(one, other, seed) -> None:
    dice = random.Random(seed)
    wire = Wire(made(1, dice, **one), made(2, dice, **other), lambda: None)
    wire.run(30.0)
    for end in wire.ends:
        times = [time for time, _ in end.sent]
        assert all(later - earlier >= 0.75 for earlier, later in pairwise(times))
        assert all(packet.min_tx >= SLOWLY and not packet.yours for _, packet in end.sent)
        assert len(times) >= 30 / max(1.0, one["min_tx"] / 1e6, other["min_tx"] / 1e6) - 1


@settings(max_examples=40)
@given(ENDS, ENDS, st.integers())
def test_who_falls_silent_is_down_for_the_other_within_the_detection_time_and_not_before(one, other, seed) -> None:
    dice = random.Random(seed)
    wire = Wire(made(1, dice, **one), made(2, dice, **other), smoothly)
    wire.run(30.0 + dice.random())
    assert wire.states == UP
    silent, left = wire.ends
    silent.mute, died = True, wire.now
    detection = one["multiplier"] * max(other["min_rx"], one["min_tx"]) / 1e6
    assert left.session.detection == pytest.approx(detection)
    wire.run(died + detection + 0.01)
    assert left.session.state is State.DOWN
    assert left.session.diagnostic is Diagnostic.EXPIRED
    fell = next(time for time, state in left.changes if state is State.DOWN and time > died)
    last = max(time for time, _ in silent.sent)
    assert fell >= last + detection
    silent.mute = False
    wire.run(wire.now + 30.0)
    assert wire.states == UP, "it comes back"


@settings(max_examples=40)
@given(ENDS, ENDS, st.integers(), st.floats(0, 0.4))
def test_loss_delay_and_reordering_keep_no_session_down_for_good(one, other, seed, loss) -> None:
    dice = random.Random(seed)
    rough = True

    def fate() -> float | None:
        if not rough:
            return 0.001
        return None if dice.random() < loss else dice.random() * 0.5

    wire = Wire(made(1, dice, **one), made(2, dice, **other), fate)
    wire.run(60.0)
    rough = False
    # What is known of rates may be of long ago on either side.
    wire.run(60.0 + 20 * 4 + 30.0)
    assert wire.states == UP
    for end in wire.ends:
        assert all(not (packet.poll and packet.final) for _, packet in end.sent)
        assert all(packet.min_tx >= SLOWLY for _, packet in end.sent if packet.state is not State.UP)
        assert not end.sent[-1][1].poll, "polls have ended"


@given(ENDS, st.lists(st.tuples(st.floats(0, 3), PACKETS), max_size=60), st.integers())
def test_whatever_a_neighbour_says_at_most_one_packet_goes_out_for_one_that_came_and_the_pace_holds(
    own, said, seed
) -> None:
    session, now, unasked = made(1, random.Random(seed), **own), 0.0, 0
    for pause, packet in said:
        end = now + pause
        while session.due < end:
            now = max(now, session.due)
            before = session.due
            sent = session.turn(now)
            unasked += len(sent)
            assert len(sent) <= 1
            assert sent or session.due > before
        now = end
        session.receive(packet, now)
        assert sum(1 for each in session.turn(now) if each.final) == packet.poll
        assert session.state is not State.ADMIN_DOWN
    assert unasked <= 2 + now / (0.75 * own["min_tx"] / 1e6) + len(said)


def test_the_states_go_as_6_8_6_has_it() -> None:
    def after(own: State, received: State) -> State:
        session = made(1, random.Random(0))
        session.state = own
        session.receive(Packet(state=received, mine=2, yours=1, min_tx=1, min_rx=1, multiplier=3), 0.0)
        return session.state

    table = {own: "".join(after(own, received).name[0] for received in State) for own in State}
    assert table == {State.ADMIN_DOWN: "AAAA", State.DOWN: "DIUD", State.INIT: "DIUU", State.UP: "DDUU"}


def test_who_is_taken_down_by_its_operator_says_so_and_hears_nothing_more() -> None:
    dice = random.Random(1)
    wire = Wire(made(1, dice), made(2, dice), smoothly)
    wire.run(5.0)
    assert wire.states == UP
    wire.ends[0].session.stop()
    wire._turn(0)
    wire.run(5.1)
    assert wire.states == (State.ADMIN_DOWN, State.DOWN)
    other = wire.ends[1].session
    assert other.diagnostic is Diagnostic.NEIGHBOR_DOWN
    assert other.heard is not None
    assert other.heard.state is State.ADMIN_DOWN
    wire.run(20.0)
    assert wire.states == (State.ADMIN_DOWN, State.DOWN)


def test_a_neighbour_that_wants_no_packets_gets_none_but_answers() -> None:
    session = made(1, random.Random(1))
    session.turn(0.0)
    packet = Packet(state=State.DOWN, mine=2, yours=1, min_tx=SLOWLY, min_rx=0, multiplier=3)
    session.receive(packet, 0.1)
    assert session.turn(0.1) == []
    assert session.due == pytest.approx(3.1), "but for the detection time"
    session.receive(Packet(state=State.DOWN, mine=2, yours=1, min_tx=1, min_rx=0, multiplier=3, poll=True), 0.2)
    assert [each.final for each in session.turn(0.2)] == [True]


def test_a_neighbour_in_demand_mode_is_sent_nothing_while_both_are_up() -> None:
    """6.8.7"""
    session = made(1, random.Random(1))
    said = {"mine": 2, "yours": 1, "min_tx": 50_000, "min_rx": 50_000, "multiplier": 200}
    session.turn(0.0)
    session.receive(Packet(state=State.INIT, **said), 0.1)
    assert [(each.state, each.poll) for each in session.turn(0.1)] == [(State.UP, True)]
    session.receive(Packet(state=State.UP, final=True, demand=True, **said), 0.11)
    assert session.turn(1.0) == []
    assert session.due == pytest.approx(10.11), "the detection time holds"
    session.receive(Packet(state=State.UP, **said), 1.1)
    assert len(session.turn(1.1)) == 1


def test_a_passive_end_is_silent_until_it_is_spoken_to() -> None:
    """6.1"""
    session = made(1, random.Random(1), passive=True)
    assert session.turn(0.0) == []
    assert session.due == float("inf")
    session.receive(Packet(state=State.DOWN, mine=2, yours=0, min_tx=SLOWLY, min_rx=1, multiplier=3), 1.0)
    assert [each.state for each in session.turn(1.0)] == [State.INIT]
    assert session.turn(100.0) == []
    assert session.due == float("inf")
