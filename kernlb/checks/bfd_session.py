"""A BFD session (RFC 5880, asynchronous mode) and its Control packet, without socket, clock or dice: packets and times
in, packets and the time of the next turn out. No authentication, no echo function, no demand of its own.

Times are seconds of one clock; intervals in packets are microseconds, as on the wire.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from struct import Struct

VERSION = 1
SLOWLY = 1_000_000  # microseconds between packets at least, while the session is not up (6.8.3)
_MANDATORY = Struct("!BBBBIIIII")
_POLL, _FINAL, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x04, 0x02, 0x01


class State(IntEnum):
    """4.1, Sta"""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """4.1, Diag: those that a session here may give."""

    NONE = 0
    EXPIRED = 1
    NEIGHBOR_DOWN = 3
    ADMIN_DOWN = 7


_NEXT = {
    (State.DOWN, State.DOWN): State.INIT,
    (State.DOWN, State.INIT): State.UP,
    (State.INIT, State.INIT): State.UP,
    (State.INIT, State.UP): State.UP,
    (State.INIT, State.ADMIN_DOWN): State.DOWN,
    (State.UP, State.ADMIN_DOWN): State.DOWN,
    (State.UP, State.DOWN): State.DOWN,
}
"""What a state becomes by the one that a packet brings (6.8.6); any other pair changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The mandatory section (4.1). `mine` and `yours` are the discriminators of who sends and of who receives."""

    state: State
    mine: int
    yours: int
    min_tx: int
    min_rx: int
    multiplier: int
    diagnostic: int = Diagnostic.NONE
    poll: bool = False
    final: bool = False
    demand: bool = False


def encode(packet: Packet) -> bytes:
    flags = packet.state << 6 | packet.poll * _POLL | packet.final * _FINAL | packet.demand * _DEMAND
    intervals = (packet.min_tx, packet.min_rx, 0)  # no echo packets are wanted
    first = VERSION << 5 | packet.diagnostic
    return _MANDATORY.pack(first, flags, packet.multiplier, _MANDATORY.size, packet.mine, packet.yours, *intervals)


def decode(data: bytes) -> Packet | None:
    """None for what has to be discarded whomever it is for (6.8.6), and for what is authenticated."""
    if len(data) < _MANDATORY.size:
        return None
    first, flags, multiplier, length, mine, yours, min_tx, min_rx, _ = _MANDATORY.unpack_from(data)
    state = State(flags >> 6)
    sound = first >> 5 == VERSION and _MANDATORY.size <= length <= len(data) and multiplier and mine
    if not sound or flags & (_AUTHENTICATED | _MULTIPOINT) or (not yours and state > State.DOWN):
        return None
    return Packet(
        state=state,
        mine=mine,
        yours=yours,
        min_tx=min_tx,
        min_rx=min_rx,
        multiplier=multiplier,
        diagnostic=first & 0x1F,
        poll=bool(flags & _POLL),
        final=bool(flags & _FINAL),
        demand=bool(flags & _DEMAND),
    )


class Session:
    """One end. Tell it of packets by `receive`; call `turn` after each, and at `due` at the latest, and send what it
    gives. Intervals in microseconds; `chance` gives numbers from 0 up to 1. `mine` is its discriminator, to be set
    before the first turn; `heard` the last packet, for a Detection Time after it came."""

    def __init__(
        self, *, min_tx: int, min_rx: int, multiplier: int, passive: bool, chance: Callable[[], float]
    ) -> None:
        self.state = State.DOWN
        self.diagnostic = Diagnostic.NONE
        self.mine = 0
        self.heard: Packet | None = None
        self._heard_at = -inf
        self._fast = min_tx
        self._min_tx = max(min_tx, SLOWLY)
        self._min_rx = min_rx
        self._multiplier = multiplier
        self._passive = passive
        self._chance = chance
        self._their_min_rx = 1  # 6.8.1: what was last heard, however long ago
        self._polling = False
        self._answers = False  # a poll, which waits for its final packet
        self._changed = False  # since the last packet sent
        self._sent_at = -inf
        self._share = self._jitter()

    @property
    def detection(self) -> float:
        """Seconds without a packet after which the other end is gone (6.8.4); of whom nothing is heard, 0."""
        heard = self.heard
        return 0.0 if heard is None else heard.multiplier * max(self._min_rx, heard.min_tx) / 1e6

    @property
    def notice(self) -> float:
        """Seconds after which the other end has missed this one, whatever it heard before."""
        return self._multiplier * self._interval

    @property
    def due(self) -> float:
        """When the next turn is, unless a packet comes before."""
        expiry = inf if self.heard is None else self._heard_at + self.detection
        return min(expiry, self._next if self._periodic else inf)

    def receive(self, packet: Packet, now: float) -> None:
        """A packet for this session (6.8.6, from where it has been found)."""
        if self.state is State.ADMIN_DOWN:
            return
        self.heard, self._heard_at, self._their_min_rx = packet, now, packet.min_rx
        if packet.final:
            self._polling = False
        after = _NEXT.get((self.state, packet.state))
        if after is not None:
            self._become(after, Diagnostic.NEIGHBOR_DOWN)
        self._answers = self._answers or packet.poll

    def turn(self, now: float) -> list[Packet]:
        """What is to be sent now."""
        sent: list[Packet] = []
        if self.heard is not None and now >= self._heard_at + self.detection:
            self.heard = None
            if self.state in (State.INIT, State.UP):
                self._become(State.DOWN, Diagnostic.EXPIRED)
        if self._answers:
            # At once, whatever the timer says (6.8.7): it takes no part in the pace, which carries polls of our own.
            self._answers = self._changed = False
            sent.append(self._packet(final=True))
        if self._periodic and (self._changed or now >= self._next):
            self._changed = False
            self._sent_at, self._share = now, self._jitter()
            sent.append(self._packet())
        return sent

    def stop(self) -> None:
        """6.8.16. Turns go on for as long as the other end is to be told."""
        self._become(State.ADMIN_DOWN, Diagnostic.ADMIN_DOWN)

    def _become(self, state: State, fault: Diagnostic) -> None:
        self.state, self._changed = state, True
        if state in (State.DOWN, State.ADMIN_DOWN):
            self.diagnostic = fault
        min_tx = self._fast if state is State.UP else max(self._fast, SLOWLY)
        if min_tx != self._min_tx:
            self._min_tx, self._polling = min_tx, True  # 6.8.3

    @property
    def _interval(self) -> float:
        return max(self._min_tx, self._their_min_rx) / 1e6

    @property
    def _next(self) -> float:
        """What either end asks for anew holds at once (6.8.3)."""
        return self._sent_at + self._interval * self._share

    @property
    def _periodic(self) -> bool:
        """Whether packets are sent without being asked for (6.8.7)."""
        heard = self.heard
        if heard is None and self._passive:
            return False
        up = self.state is State.UP and heard is not None and heard.state is State.UP
        demanded = up and heard is not None and heard.demand and not self._polling
        return self._their_min_rx != 0 and (not demanded or self._changed)

    def _jitter(self) -> float:
        """The share of the interval that passes until the next packet (6.8.7)."""
        return 0.9 - 0.15 * self._chance() if self._multiplier == 1 else 1 - 0.25 * self._chance()

    def _packet(self, *, final: bool = False) -> Packet:
        return Packet(
            state=self.state,
            mine=self.mine,
            yours=0 if self.heard is None else self.heard.mine,
            min_tx=self._min_tx,
            min_rx=self._min_rx,
            multiplier=self._multiplier,
            diagnostic=self.diagnostic,
            poll=self._polling and not final,
            final=final,
        )
