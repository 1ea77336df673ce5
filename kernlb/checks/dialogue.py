"""Probes that hold a conversation, as coroutines behind the batch protocol: one task a probe, bounded in number.

A conversation says how far it got (its layer) and when the first byte came; whatever ends it becomes a verdict here.
"""

import asyncio
import errno
import logging
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from kernlb.checks.base import Late, Report, Target, opened, refused, timed_out, unheeded
from kernlb.checks.spec import Probe
from kernlb.checks.verdict import Code, Orders, Outcome, Verdict

log = logging.getLogger(__name__)

_CLOSED = "closed before it answered"

TIMEOUTS = {
    Code.L4CON: Code.L4TOUT,
    Code.L6RSP: Code.L6TOUT,
    Code.L7RSP: Code.L7TOUT,
    Code.PROCERR: Code.PROCTOUT,
}


class Failed(Exception):
    """Ends a conversation with a verdict of down."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Conversation:
    """One probe under way. `layer` is the code of a failure from here on, `silence` the verdict if no answer comes."""

    __slots__ = ("layer", "seconds", "silence", "started", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.layer = Code.L4CON
        self.started = time.monotonic()
        self.seconds: float | None = None
        self.silence: Verdict | None = None

    def first_byte(self) -> None:
        if self.seconds is None:
            self.seconds = time.monotonic() - self.started

    def up(self, code: Code, reason: str = "", *, orders: Orders | None = None) -> Verdict:
        return Verdict(Outcome.UP, code, reason, self.seconds, orders)

    def down(self, code: Code, reason: str) -> Verdict:
        return Verdict(Outcome.DOWN, code, reason, self.seconds)

    async def connect(self) -> socket.socket:
        """A connected TCP socket, the caller's to close. Raises OSError."""
        sock = opened(self.target, socket.SOCK_STREAM)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.target.sockaddr)
        except BaseException:
            sock.close()
            raise
        self.layer = Code.L7RSP
        return sock


Talk = Callable[[Conversation], Awaitable[Verdict]]


class DialogueProber:
    """A Prober of one kind of conversation. At most `parallel` are held at once; the others wait their turn, and their
    time runs from when they get it. Of one probe there are never more than places left: where all that ask one thing
    hang, those that ask another find a place at once."""

    def __init__(self, talk: Talk, report: Report, *, parallel: int = 2048, late: Late = unheeded) -> None:
        self._talk = talk
        self._report = report
        self._late = late
        self._parallel = parallel
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: Counter[Probe] = Counter()
        self._waiting: dict[Probe, deque[tuple[Target, float]]] = {}  # and since when
        self._done: list[tuple[Target, Verdict]] = []

    def start(self, targets: Sequence[Target]) -> None:
        now = self._loop.time()
        for target in targets:
            self._waiting.setdefault(target.check.probe, deque()).append((target, now))
        self._seat(now)

    def _seat(self, now: float) -> None:
        """One of each probe, and again, until there is no place or none may take one."""
        ready = deque(self._waiting)
        while ready and len(self._tasks) < self._parallel:
            probe = ready.popleft()
            if self._seated(probe, now):
                ready.append(probe)

    def _seated(self, probe: Probe, now: float) -> bool:
        waiting = self._waiting.get(probe)
        if waiting is None or self._held[probe] >= self._parallel - len(self._tasks):
            return False
        target, since = waiting.popleft()
        if not waiting:
            del self._waiting[probe]
        if since < now:
            self._late(now - since)
        self._held[probe] += 1
        task = self._loop.create_task(self._probe(target))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, probe))
        return True

    def close(self) -> None:
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._done.clear()

    async def _probe(self, target: Target) -> None:
        verdict = await judged(self._talk, target)
        if not self._done:
            self._loop.call_soon(self._flush)
        self._done.append((target, verdict))

    def _flush(self) -> None:
        done, self._done = self._done, []
        if done:
            self._report(done)

    def _ended(self, probe: Probe, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._held[probe] -= 1
        if not self._held[probe]:
            del self._held[probe]
        if self._waiting:
            self._seat(self._loop.time())


async def judged(talk: Talk, target: Target) -> Verdict:
    """Holds one conversation to its end or to the target's patience."""
    conversation = Conversation(target)
    loop = asyncio.get_running_loop()
    end = loop.time() + target.patience
    try:
        async with asyncio.timeout(None) as limit:
            alarm = loop.call_at(end, _over, limit, end)
            try:
                return await talk(conversation)
            finally:
                alarm.cancel()
    except Failed as failure:
        return conversation.down(failure.code, failure.reason)
    except TimeoutError:
        if limit.expired():
            if conversation.silence is not None:
                return conversation.silence
            return timed_out(TIMEOUTS.get(conversation.layer, conversation.layer), target.patience)
        return refused(errno.ETIMEDOUT, conversation.layer)
    except ssl.SSLError as error:
        return conversation.down(Code.L6RSP, _words(error))
    except OSError as error:
        if error.errno is None:  # asyncio's own: the end of the stream within a handshake has no words either
            return conversation.down(conversation.layer, str(error) or _CLOSED)
        return refused(error.errno, conversation.layer)
    except EOFError:
        return conversation.down(conversation.layer, _CLOSED)
    except Exception as error:
        log.exception("a probe of %s port %s broke", target.address, target.port)
        return Verdict(Outcome.NEUTRAL, Code.INTERNAL, f"{type(error).__name__}: {error}")


def _over(limit: asyncio.Timeout, end: float) -> None:
    """What the loop is late by is given back, a turn at least: the answer may have come in time and wait to be read."""
    now = asyncio.get_running_loop().time()
    limit.reschedule(2 * now - end)


def _words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    return (error.reason or str(error)).lower().replace("_", " ")
