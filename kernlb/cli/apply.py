"""kernlb apply"""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from select import select

import click

from kernlb import applied
from kernlb.cli import changes, handover, output
from kernlb.cli.options import Duration, consent, consent_options, file_argument
from kernlb.cli.plan import foresee
from kernlb.cli.progress import Progress
from kernlb.cli.root import verb
from kernlb.cli.session import Session, need_net_admin
from kernlb.errors import KernlbError, Refused
from kernlb.machine import wanted
from kernlb.model import Table
from kernlb.plan import Operation
from kernlb.reconciler import Plan, Reconciler, Wanted
from kernlb.state import State

_POLL = 0.25


@verb("apply")
@file_argument
@click.option("--check", is_flag=True, help="Say what would change, change nothing, exit 0 either way.")
@click.option(
    "--deadline",
    type=Duration(),
    default="30s",
    show_default=True,
    help="How long a leaving server keeps its live connections; 0 removes at once.",
)
@click.option(
    "--confirm",
    type=Duration(),
    metavar="DURATION",
    help="Put everything back unless 'yes' is entered within this time.",
)
@click.option("--temporary", is_flag=True, help="Where a daemon runs another file: use this one until its next reload.")
@consent_options
def command(
    session: Session,
    file: str,
    format: str | None,
    check: bool,
    deadline: float,
    confirm: float | None,
    temporary: bool,
    accept_loss: bool,
    adopt: bool,
    shared_settings: bool,
    take_port: bool,
    force: bool,
) -> int:
    """Make the kernel what the configuration says, once.

    What is new is added first. A server that leaves is quiesced (weight 0), waited for until its live connections
    have ended or the deadline has passed, then removed. Interrupted, it stays quiesced, and the next apply finishes.
    Applied again, nothing is written. A service that the kernel refuses holds up no other; all refusals are told.
    Where a daemon runs, it gets the file and does all this.

    Exit status: 0 done, 1 error.
    """
    source = changes.read_source(file, format, accept_loss=accept_loss)
    need_net_admin("apply")
    allowed = consent(adopt=adopt, shared_settings=shared_settings, take_port=take_port, force=force)
    if check:
        foresee(session, source, format, allowed)
        return 0
    places = session.places()
    handed = handover.apply(session, source, format=format, temporary=temporary, confirm=confirm, confirmed=_confirmed)
    if handed is not None:
        return handed
    with session.writing("apply"):
        reconciler = session.reconciler(source.config, allowed)
        state = reconciler.state
        want = wanted(source.config, overrides=state.overrides, owned=state.ownership)
        for obstacle in changes.obstacles(source.config):
            output.note(obstacle)
        if confirm is None:
            came = _carry_out(session, reconciler, want, deadline=deadline)
        elif (tried := _on_probation(session, reconciler, want, deadline=deadline, confirm=confirm)) is None:
            return 1
        else:
            came = tried
        # Said first: the kernel has it, whatever becomes of the files.
        if session.as_json:
            output.facts(changes.document(came.done, came.plan.names, came.plan.breaks))
        elif came.done:
            click.echo(changes.summary((op.verb for op in came.done), done=True))
        elif not came.refused:
            click.echo(f"nothing to do: the kernel is as {source.file} says")
        reconciler.note(health=state.health)  # what lay aside has its place again, if there is room
        unwritten = applied.remember(places, source, asdict(allowed)) or reconciler.unwritten
    if unwritten is not None:
        output.note(f"a reboot will forget orders: {unwritten.message} at {unwritten.where}; traffic does not need it")
        output.note(f"until there is room it lies in {places.run}: make room, and apply again")
    if came.refused:
        raise Refused(came.refused)
    return 0


@dataclass(frozen=True, slots=True)
class _Came:
    """What came of it. `plan` is what it started from; `refused` what the kernel said against a service, by name."""

    plan: Plan
    done: list[Operation]
    refused: Mapping[str, KernlbError]


def _on_probation(
    session: Session, reconciler: Reconciler, want: Wanted, *, deadline: float, confirm: float
) -> _Came | None:
    """None where nobody confirmed it: then all is as before. So it is where this was interrupted on the way."""
    before, state = reconciler.ours(want), reconciler.state
    _heed_a_lost_terminal()
    try:
        came = _carry_out(session, reconciler, want, deadline=deadline, turn=_undisturbed)
        if not came.done or _confirmed(confirm):
            return came
    except KeyboardInterrupt:
        pass
    except BaseException:
        _put_back(session, reconciler, before, state)
        raise
    _put_back(session, reconciler, before, state)
    return None


def _carry_out(
    session: Session,
    reconciler: Reconciler,
    want: Wanted,
    *,
    deadline: float,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> _Came:
    """Step until nothing is left, printing each operation as it is done. Services that are refused hold up no other.
    Each step is done within a `turn`."""
    done: list[Operation] = []
    plan: Plan | None = None
    with Progress(quiet=session.as_json) as progress:
        while True:
            count = plan is None and session.as_json
            with turn():
                step = reconciler.step(want, deadline=deadline, now=time.time(), count=count)
            if plan is None:
                plan = step.plan
                for warning in plan.warnings:
                    output.note(warning)
            done += step.done
            if not session.as_json:
                for op in step.done:
                    progress.print(changes.line(op, step.plan.names))
            if not step.waiting:
                return _Came(plan, done, step.refused)
            progress.waiting(step.waiting, reconciler.state, deadline=deadline, now=time.time())
            time.sleep(_POLL)


def _confirmed(seconds: float) -> bool:
    """Whether the user enters yes in time. A lost terminal is a no: that is what --confirm is for."""
    _heed_a_lost_terminal()
    click.echo(f"kernlb: applied; enter 'yes' within {seconds:g} s to keep it: ", err=True, nl=False)
    end = time.monotonic() + seconds
    try:
        while (left := end - time.monotonic()) > 0:
            if not select([sys.stdin], [], [], left)[0]:
                break
            entered = sys.stdin.readline()
            if entered.strip().lower() in ("y", "yes"):
                return True
            if not entered:
                # Standard input is closed: nobody can say yes, but the time to look at the result is still given.
                time.sleep(max(0.0, end - time.monotonic()))
    except (KeyboardInterrupt, OSError):
        pass
    return False


def _heed_a_lost_terminal() -> None:
    for lost in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(lost, signal.default_int_handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Who interrupts has to wait for the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGTERM, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _put_back(session: Session, reconciler: Reconciler, before: Table, state: State) -> None:
    """First done, then told: there may be no terminal any more."""
    with _undisturbed():
        operations = reconciler.restore(before, state)
        with suppress(OSError):
            output.note("not confirmed: what was there before is put back")
            for op in operations if not session.as_json else ():
                output.change(changes.line(op, state.names))
