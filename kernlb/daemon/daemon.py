"""The daemon's loop: whatever happens sets one event; behind it, what is wanted is worked out and written.

Nothing that goes wrong in here touches traffic: what the kernel has, it keeps.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from kernlb import operator, record
from kernlb.assessment import Assessment
from kernlb.checker import Change, Checker
from kernlb.config.values import Config
from kernlb.daemon import telling
from kernlb.daemon.drift import Drift
from kernlb.daemon.opening import opened
from kernlb.daemon.options import Machine, Options, Signs, same_engines
from kernlb.daemon.readiness import Readiness
from kernlb.daemon.schedule import FULL, next_look
from kernlb.daemon.setbacks import Setbacks
from kernlb.daemon.suspects import Suspects
from kernlb.daemon.track import Track
from kernlb.daemon.view import View
from kernlb.daemon.waiters import Waiters
from kernlb.daemon.watched import watched
from kernlb.daemon.writer import Record, Work, Writer
from kernlb.desired import Meaning
from kernlb.errors import KernelError, KernlbError
from kernlb.journal import Journal, Level
from kernlb.ownership import Ownership
from kernlb.pool import ServerName
from kernlb.reconciler import Plan, Reconciler, Wanted
from kernlb.source import Source
from kernlb.standing import Standing
from kernlb.state import StateError
from kernlb.systemd import Notifier
from kernlb.totals import Totals

STUCK = 180.0  # seconds of one piece of the writer's work after which the watchdog gets no more food


class Daemon:
    """Make it inside a running loop, `start` it, and `run` it until `stop`."""

    def __init__(
        self,
        source: Source,
        *,
        reconciler: Reconciler,
        signs: Signs,
        machine: Machine,
        options: Options,
        journal: Journal,
        notifier: Notifier,
        track: Track | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.source = source
        self.options = options
        self.assessment: Assessment
        self._meaning: Meaning
        self.view = View()
        self.drift = self.writes = 0
        self._machine = machine
        self._journal = journal
        self._complain = partial(telling.complain, journal)
        self._hindered = telling.Hindrances(journal).look
        self._notifier = notifier
        self.readiness = Readiness(notifier)
        self._track = track
        self.now = clock
        self._reconciler = reconciler
        self.started = clock()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._told = asyncio.Event()
        self._stepping = asyncio.Lock()
        self._waiters = Waiters()
        self._urgent = True  # something is wanted that was not before
        self._setbacks = Setbacks()
        self._full = self._due = 0.0  # monotonic
        self._note = False
        self.unwritten: StateError | None = None  # why a restart or a reboot would lose what is remembered
        self._finishing = False  # the last step left servers behind: what the next does is no drift
        self.overrides: operator.Overrides = {}
        self._suspects: Suspects | None = None
        self.checker: Checker[ServerName]
        self._writer = Writer(reconciler, signs, deadline=options.deadline)
        self._drift = Drift(self._writer, wake=self._wake.set, complain=self._complain)

    # --- life

    async def start(self) -> None:
        """Adopt what is there and bring the kernel to what the file says. Raises what a reconciler raises for a
        configuration that cannot be carried out here; what the kernel refuses is tried again later."""
        state = self._reconciler.state
        now = self.now()
        self.checker = Checker(
            self._judged, sampled=self._sampled, heartbeat=self._heartbeat, hindered=self._hindered, clock=self.now
        )
        self.checker.replace(watched(self.source.config), last=record.standing(state.health))
        self.view.totals = Totals(record.known(state.health))
        self.assessment = Assessment(self.source.config, now=now, record=state.health)
        self._meaning = self._machine.meaning(self.source.config)
        self.overrides = operator.of_configuration(state.overrides, self.source.config)
        self.assessment.order(self.overrides, now=now)
        self.assessment.adopt(self.checker.states(), now=now)
        self._drift.listen()
        if self.options.passive:
            self._suspects = Suspects(self._suspected, silent=self._writer.silent, journal=self._journal)
        self._journal.say("start", file=self.source.file, pid=os.getpid(), services=len(self.source.config.services))
        try:
            await self._reconcile()
            await self._remember()
        except KernelError as error:
            self._failed(error)
        except BaseException:
            await self._close()
            raise

    async def run(self) -> None:
        """Until `stop`. Traffic flows on afterwards, unless `clear_on_exit`."""
        tasks = [
            asyncio.create_task(work(), name=name)
            for name, work in (("reconcile", self._keep_reconciled), ("drift", self._drift.keep_watch))
        ]
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            self._notifier.stopping()
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await self._close()

    def stop(self) -> None:
        self._stop.set()

    async def _close(self) -> None:
        self.checker.close()
        if self._suspects is not None:
            self._suspects.close()
        self._drift.deaf()
        async with self._stepping:
            try:
                if self.options.clear_on_exit and self._stop.is_set():
                    removed = await self._writer.clear()
                    self._journal.say("clear", operations=len(removed))
                elif hasattr(self, "assessment"):
                    await self._writer.note(self.overrides, self._record())
                    self._written()
            except KernlbError as error:
                self._complain("stop", error)
        self._waiters.fail(asyncio.CancelledError())
        self._told.set()
        self._writer.close()
        self._journal.say("stop", level=Level.NOTICE)

    # --- what happens

    def _judged(self, changes: Sequence[Change[ServerName]]) -> None:
        now = self.now()
        for change in changes:
            self.assessment.judge(change.key, change.after, now=now)
            if change.before.status is not change.after.status:
                telling.server(self._journal, change)
        self._note = True
        self._want()

    def _sampled(self, name: ServerName, seconds: float, _: float) -> None:
        self.assessment.sample(name, seconds, now=self.now())

    def _suspected(self, name: ServerName) -> None:
        # Resets of a server that is down already say nothing new, and many of them are of the probes themselves.
        state = self.assessment.states.get(name)
        if state is not None and state.serves:
            self.checker.hasten(name)

    def _heartbeat(self) -> None:
        if not self._writer.stuck(seconds=STUCK):
            self._notifier.feed()

    def _want(self) -> None:
        self._urgent = True
        self._wake.set()

    def order(self, overrides: operator.Overrides) -> None:
        if overrides != self.overrides:
            self.overrides = overrides
            self.assessment.order(overrides, now=self.now())
            self._note = True
            self._want()

    async def settled(self, service: str) -> None:
        """Until what is wanted of a service now is in the kernel. Raises what the kernel says against it."""
        waiter = self._waiters.add(service)
        self._want()
        await waiter

    # --- the loop

    async def _keep_reconciled(self) -> None:
        while True:
            now = time.monotonic()
            setbacks = self._setbacks
            due = setbacks.retry if setbacks.blocked else min(self._due, self._full, setbacks.retry)
            try:
                async with asyncio.timeout(max(0.0, due - now)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if not self._urgent and setbacks.blocked and time.monotonic() < setbacks.retry:
                continue
            try:
                await self._reconcile()
            except KernlbError as error:
                self._failed(error)
            except Exception as error:  # Whatever is wrong with kernlb must not end what it does for the rest.
                self._failed(KernlbError(f"{type(error).__name__}: {error}", hint="this is a defect of kernlb"))

    async def _reconcile(self) -> None:
        async with self._stepping:
            waiters = self._waiters.take()
            try:
                work = await self._step()
            except BaseException as error:
                waiters.fail(error)
                raise
            waiters.settle(work.step.refused)

    async def _step(self) -> Work:
        assessment = self.assessment
        wall, began = self.now(), time.monotonic()
        before = dict(assessment.pools)
        changed = assessment.assess(now=wall)
        urgent, self._urgent = self._urgent or bool(changed), False
        for name in changed:
            telling.pool(self._journal, name, before.get(name), assessment.pools[name])
        draining = operator.under_way(self.overrides)
        if began >= self._full:
            await self._writer.spoil()
            self._full = began + FULL
        health = None
        if self._note and self._writer.may_note:
            health, self._note = self._record(), False
        overrides = self.overrides
        work = await self._writer.step(
            partial(self._meaning.desired, dict(assessment.pools)),
            overrides=overrides,
            health=health,
            count=bool(draining),
            now=wall,
        )
        self._worked(work, urgent=urgent)
        if draining and work.counters is not None:
            counters, config = work.counters, assessment.config
            await self.view.count(counters)
            ended = operator.ended(self.overrides, lambda name: self.view.live(name, config, counters), now=self.now())
            self.order(ended)
        self._schedule(work, bool(operator.under_way(self.overrides)))
        return work

    def _worked(self, work: Work, *, urgent: bool) -> None:
        step = work.step
        self.view.take(step)
        self.writes += len(step.done)
        expected = urgent or self._finishing or self._setbacks.tried(time.monotonic(), refused=bool(step.refused))
        if step.refused:
            self._refused(step.refused)
        else:
            if self._setbacks.error is not None:
                self._journal.say("recovered", level=Level.NOTICE, attempts=self._setbacks.over())
            self.readiness.reconciled(telling.line(self.assessment))
        if step.done and not expected:
            self.drift += len(step.done)
            telling.operations(self._journal, "drift-repaired", step.done, step.plan.names, level=Level.WARNING)
        else:
            telling.operations(self._journal, "write", step.done, step.plan.names)
        self._finishing = bool(step.waiting)
        self._written()
        if self._suspects is not None:
            self._suspects.aim(self.view.keys, checked=self.checker.states(), config=self.source.config)
        if self._track is not None:
            self._track.tell(self.assessment.pools)
        self._tell()

    def _written(self) -> None:
        """What could not be written down is tried again; traffic does not wait for it."""
        before, self.unwritten = self.unwritten, self._reconciler.unwritten
        if self.unwritten is not None:
            self._note = True
            if before is None or before.message != self.unwritten.message:
                self._complain("unwritten", self.unwritten)
        elif before is not None:
            self._journal.say("written", level=Level.NOTICE)

    def _schedule(self, work: Work, draining: bool) -> None:
        change = self.assessment.next_change()
        self._due = time.monotonic() + next_look(
            leaving=bool(work.step.waiting),
            draining=draining,
            change=None if change is None else change - self.now(),
            note=self._writer.next_note if self._note else None,
        )

    def _failed(self, error: KernlbError) -> None:
        """Nothing could be done."""
        pause = self._setbacks.add(error, time.monotonic(), blocked=True)
        self._note = True  # what could not be written down with this step
        self._complain("refused", error, attempt=self._setbacks.count, retry=pause)
        self.readiness.failed(error)
        self._tell()

    def _refused(self, refused: Mapping[str, KernlbError]) -> None:
        """Some services could not be made as wanted; all others are."""
        error = next(iter(refused.values()))
        pause = self._setbacks.add(error, time.monotonic(), blocked=False)
        for owner, error in list(refused.items())[: telling.LINES]:
            self._complain("refused", error, of=owner, attempt=self._setbacks.count, retry=pause)
        self.readiness.refused(refused.keys())

    # --- what others ask of it

    @property
    def error(self) -> KernlbError | None:
        """What the kernel refused lately; None where it is as wanted."""
        return self._setbacks.error

    async def changed(self) -> None:
        """Returns when something has happened."""
        await self._told.wait()

    async def recount(self) -> None:
        await self.view.recount(self._writer.seen)

    async def plan(self, wanted: Wanted, open: Callable[[Ownership], Signs] | None) -> Plan:
        """What a step would do. Writes nothing. `open`s the kernel where the daemon's own engines are not the right."""
        async with self._stepping:
            return await self._writer.foresee(wanted, open)

    async def swap(self, source: Source) -> Work:
        """Another configuration, once it has been planned without objection. Raises what speaks against it; then all
        is as before. A service that the kernel refuses nevertheless keeps no other out, and is tried again."""
        async with self._stepping:
            meaning = self._machine.meaning(source.config)
            async with self._engines(source.config):
                work = await self._change(source, meaning)
            self._wake.set()  # the loop is waiting for what was due before
            await self._remember()
            return work

    # --- inside

    def _engines(self, config: Config) -> AbstractAsyncContextManager[None]:
        """Those that a configuration needs."""
        if same_engines(config, self.source.config):
            return nullcontext()
        wanted = partial(self._machine.open, config, self._reconciler.state.ownership)
        return opened(wanted, writer=self._writer, drift=self._drift)

    async def _change(self, source: Source, meaning: Meaning) -> Work:
        before, meant, standing = self.source, self._meaning, self.checker.standing()
        try:
            await self._writer.plan(partial(meaning.desired, self.assessment.trial(source.config, now=self.now())))
            self._configure(source, meaning, standing)
            return await self._step()
        except BaseException:
            if self.source is not before:
                self._configure(before, meant, standing)
            self._want()
            raise

    async def _remember(self) -> None:
        try:
            await self._writer.do(lambda: self._machine.remember(self.source))
        except KernlbError as error:
            self._complain("remember", error)

    def _configure(self, source: Source, meaning: Meaning, standing: Mapping[ServerName, Standing]) -> None:
        now = self.now()
        self.source, self._meaning = source, meaning
        self.checker.replace(watched(source.config), last=standing)
        self.assessment.reconfigure(source.config, now=now)
        self.order(operator.of_configuration(self.overrides, source.config))
        self.assessment.adopt(self.checker.states(), now=now)
        self._note = True

    def _record(self) -> Record:
        return partial(record.written, self.checker.standing(), self.assessment.record(), self.view.totals.known)

    def _tell(self) -> None:
        self._told.set()
        self._told = asyncio.Event()
