"""When a real server counts as up. No clock, no socket: verdicts in, states out.

Rules, as HAProxy's: `rise` successes in a row bring a server up, `fall` failures in a row take it down, and one verdict
to the contrary starts the count again. A server never checked serves, and its first failure takes it down. An
agent's orders act at once and stay in force until it gives others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from math import prod
from typing import Any, TypeVar

from kernlb.checks.spec import Check, Start, gives_orders
from kernlb.checks.verdict import Administration, Code, Orders, Outcome, Verdict

T = TypeVar("T")
UP = Outcome.UP


class Status(StrEnum):
    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"  # not checked yet; serves
    DRAINING = "draining"  # by the agent's order: keeps its connections, gets no new ones
    DISABLED = "disabled"  # by the agent's order: as if it were not there


# The first of these that any check of a server says is what the server is.
GRAVITY = (Status.DISABLED, Status.DOWN, Status.DRAINING, Status.UP, Status.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known of a server. `since` is in the caller's time. `share`, `weight`, `adjust` and
    `max_connections` are the server's own wish (Orders); None: it has none."""

    status: Status
    since: float
    reason: str
    share: float | None = None
    weight: int | None = None
    adjust: int | None = None
    max_connections: int | None = None

    @property
    def serves(self) -> bool:
        """Fit for new connections, unless its weight says otherwise."""
        return self.status in (Status.UP, Status.UNKNOWN)


_STATE = tuple(field.name for field in fields(State))


class Health:
    """One check's machine. Feed `judge`; read `state`; ask `interval` when to probe again."""

    __slots__ = ("_administration", "_check", "_streak", "_up", "interval", "response_time", "state", "verdict")

    def __init__(self, check: Check, *, now: float, last: State | None = None, resume: State | None = None) -> None:
        """`last` is the state before a restart, heeded only where the check starts from it; `resume` the state that
        another check of the same server left, heeded always. Orders are heeded where this check may give others."""
        self._check = check
        self._streak = 0  # verdicts in a row against the standing
        self._up: bool | None = None
        self._administration = Administration.READY
        self.response_time: float | None = None
        self.verdict: Verdict | None = None
        self.state = State(status=Status.UNKNOWN, since=now, reason="not checked yet")
        if resume is None and check.start is Start.LAST:
            resume = last
        if resume is not None:
            self._adopt(resume)
        elif check.start is Start.DOWN:
            self._up = False
            self._streak = check.rise - 1  # as HAProxy's init-state down: the first success brings it up
            self.state = replace(self.state, status=Status.DOWN)
        self.interval = self._interval()
        """Seconds from the start of the last probe to the start of the next."""

    def _adopt(self, last: State) -> None:
        if not gives_orders(self._check.probe):
            if last.status in (Status.DRAINING, Status.DISABLED):
                return
            last = replace(last, share=None, weight=None, adjust=None, max_connections=None)
        self.state = last
        match last.status:
            case Status.UP:
                self._up = True
            case Status.DOWN:
                self._up = False
            case Status.DRAINING:
                self._administration = Administration.DRAIN
            case Status.DISABLED:
                self._administration = Administration.MAINT
            case Status.UNKNOWN:
                pass

    def judge(self, verdict: Verdict, now: float) -> State | None:
        """Takes one verdict; returns the new state where anything that people or weights see has changed."""
        self.verdict = verdict
        if verdict.seconds is not None:
            self.response_time = verdict.seconds
        if self._up and not self._streak and verdict.outcome is UP and verdict.orders is None:
            return None  # as nearly all of thousands a second: well, and well it was
        counts = self._count(verdict.outcome)
        after = self._move(verdict, now) if counts or verdict.orders is not None else self._unheard(verdict)
        self.interval = self._interval()
        return after

    def _unheard(self, verdict: Verdict) -> State | None:
        """Of a server of which nothing is known: it was asked, and that says why."""
        if verdict.outcome is not Outcome.NEUTRAL or verdict.code is Code.INTERNAL:
            return None
        if self.state.status is not Status.UNKNOWN or self.state.reason == verdict.text:
            return None
        self.state = replace(self.state, reason=verdict.text)
        return self.state

    def _move(self, verdict: Verdict, now: float) -> State | None:
        wish = verdict.orders or Orders()
        if wish.up is not None:
            self._up, self._streak = wish.up, 0
        if wish.administration is not None:
            self._administration = wish.administration
        before = self.state
        after = replace(
            before,
            status=self._status(),
            share=_kept(wish.share, before.share),
            weight=_kept(wish.weight, before.weight),
            adjust=_kept(wish.adjust, before.adjust),
            max_connections=_kept(wish.max_connections, before.max_connections),
        )
        if after == before:
            return None
        if after.status is not before.status:
            after = replace(after, since=now)
        self.state = replace(after, reason=verdict.text)
        return self.state

    def _count(self, outcome: Outcome) -> bool:
        """Whether this verdict changes the standing."""
        if outcome is Outcome.NEUTRAL:
            return False
        good = outcome is Outcome.UP
        if self._up is good:
            self._streak = 0
            return False
        self._streak += 1
        if self._up is not None and self._streak < (self._check.fall if self._up else self._check.rise):
            return False
        self._up, self._streak = good, 0
        return True

    def _status(self) -> Status:
        if self._administration is Administration.MAINT:
            return Status.DISABLED
        if self._up is False:
            return Status.DOWN
        if self._administration is Administration.DRAIN:
            return Status.DRAINING
        return Status.UNKNOWN if self._up is None else Status.UP

    @property
    def in_transition(self) -> bool:
        """The last verdicts contradict the standing, and are not yet enough to change it."""
        return self._streak > 0 and self.verdict is not None

    @property
    def down(self) -> bool:
        return self._up is False

    def _interval(self) -> float:
        check = self._check
        if self.in_transition:
            return check.interval if check.fast_interval is None else check.fast_interval
        if self._up is False and check.down_interval is not None:
            return check.down_interval
        return check.interval


def _kept(said: T | None, before: T | None) -> T | None:
    return before if said is None else said


def combined(states: Sequence[State], before: State | None = None) -> State:
    """One server under several checks: the gravest says what it is and why, of several that failed the first, of those
    that came up the last. Shares multiply, adjustments add up, of weights and limits the smallest counts. What the
    server was `before` and still is, it has been all the time, whichever of its checks is at fault now.

    At least one state.
    """
    status = min((state.status for state in states), key=GRAVITY.index)
    alike = [state for state in states if state.status is status]
    first = min if status in (Status.DISABLED, Status.DOWN, Status.DRAINING) else max
    gravest = first(alike, key=lambda state: state.since)
    adjustments = [state.adjust for state in states if state.adjust is not None]
    shares = [state.share for state in states if state.share is not None]
    return replace(
        gravest,
        since=before.since if before is not None and before.status is status else gravest.since,
        share=prod(shares) if shares else None,
        weight=min((state.weight for state in states if state.weight is not None), default=None),
        adjust=sum(adjustments) if adjustments else None,
        max_connections=min((s.max_connections for s in states if s.max_connections is not None), default=None),
    )


def dumped(state: State) -> dict[str, Any]:
    """For the state file; `loaded` reads it back."""
    # Ten thousand at a time: asdict copies deeply, which takes ten times as long.
    return {key: value for key in _STATE if (value := getattr(state, key)) is not None}


def loaded(data: Mapping[str, Any]) -> State | None:
    """None where a state file holds something else than `dumped` wrote."""
    try:
        share, weight, limit = data.get("share"), data.get("weight"), data.get("max_connections")
        adjust = data.get("adjust")
        return State(
            status=Status(data["status"]),
            since=float(data["since"]),
            reason=str(data["reason"]),
            share=None if share is None else float(share),
            weight=None if weight is None else int(weight),
            adjust=None if adjust is None else int(adjust),
            max_connections=None if limit is None else int(limit),
        )
    except (KeyError, TypeError, ValueError):
        return None
