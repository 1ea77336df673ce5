"""Operators' orders: through the daemon, or, where none runs, on the kernel and the state file."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import click
from click.shell_completion import CompletionItem

from kernlb.cli import handover, output
from kernlb.cli.session import Session, need_net_admin
from kernlb.control_client import NoAnswer, NoDaemon
from kernlb.errors import Conflict, Ending, KernlbError

Order = Callable[[Any, tuple[str, str], float], Any]
"""Overrides, the server's name and the time to overrides."""

_POLL = 0.5


def give(
    session: Session, verb: str, service: str, server: str, order: Order, *, check: bool, **body: object
) -> dict[str, Any]:
    """Gives one order, or asks what it would change, and says through what it went. Where a daemon ends over it, it is
    given again."""
    daemon = handover.client(session)
    while True:
        try:
            return daemon.ask("POST", f"/{verb}", service=service, server=server, check=check, **body)
        except NoDaemon:
            need_net_admin(verb)
        except KernlbError as error:
            if error.kind != Ending.kind:
                raise
            time.sleep(_POLL)
            continue
        if check:
            return _foresee(session, (service, server), order)
        try:
            with session.writing(verb):
                return _carry_out(session, (service, server), order)
        except Conflict:
            if not daemon.serves():  # one that starts has the lock before it answers
                raise


def resume(session: Session, verb: str, service: str, server: str, *, check: bool) -> int:
    """By whichever verb: the end of a drain or a disablement."""
    from kernlb import operator

    said = give(
        session, verb, service, server, lambda overrides, name, now: operator.resume(overrides, name), check=check
    )
    out = "gets no connections: the configuration says disabled"
    return report(session, said, out if said["disabled_by_file"] else "takes connections, if it is up", check=check)


def _foresee(session: Session, name: tuple[str, str], order: Order) -> dict[str, Any]:
    from kernlb import applied, operator

    config = applied.recall(session.places()).source.config
    operator.known(config, *name)
    before = session.store().load().overrides
    answer = operator.answer(before, order(before, name, time.time()), name)
    return {"through": "kernel", **answer, "disabled_by_file": operator.disabled(config, name), "unwritten": None}


def _carry_out(session: Session, name: tuple[str, str], order: Order) -> dict[str, Any]:
    """One step on the kernel. The health that a daemon left is heeded: an order must not bring the dead back."""
    from kernlb import applied, operator
    from kernlb.machine import wanted
    from kernlb.ratings import rating
    from kernlb.reconciler import Consent
    from kernlb.record import standing

    now = time.time()
    found = applied.recall(session.places())
    reconciler = session.reconciler(found.source.config, Consent(**found.consent))
    operator.known(found.source.config, *name)
    before = reconciler.state.overrides
    overrides = order(before, name, now)
    ratings = {each: rating(left.together) for each, left in standing(reconciler.state.health).items()}
    names = {key: each for key, each in reconciler.state.names.items() if (each.service, each.server) == name}
    if name in operator.under_way(overrides):
        protocol = next(s.protocol for s in found.source.config.services if s.name == name[0])
        counters = reconciler.kernel.counters()
        live = operator.live_connections(protocol, [counters[key] for key in names if key in counters])
        overrides = operator.ended(overrides, lambda _: live, now=now)
    else:
        live = None
    reconciler.note(overrides=overrides)
    owned = reconciler.state.ownership
    want = wanted(found.source.config, ratings=ratings, overrides=overrides, owned=owned)
    refused = reconciler.step(want, deadline=30.0, now=now).refused.get(name[0])
    if refused is not None:
        raise refused
    unwritten = None if reconciler.unwritten is None else reconciler.unwritten.message
    return {
        "through": "kernel",
        **operator.answer(before, overrides, name),
        "disabled_by_file": operator.disabled(found.source.config, name),
        "unwritten": unwritten,
        "live": live,
    }


def watch(session: Session, said: dict[str, Any]) -> dict[str, Any]:
    """Waits until a drain has ended, and shows how it goes. Interrupted, the drain goes on where a daemon runs."""
    from kernlb.cli.progress import Line

    name = said["service"], said["server"]
    with Line(quiet=session.as_json) as line:
        while said["hold"] == "drain" and not said["drained"]:
            left = max(0.0, said["deadline"] - time.time())
            live = said.get("live")
            counted = "" if live is None else f"{live} connection(s), "
            line.show(f"{'/'.join(name)} is draining: {counted}{left:.0f} s at most")
            time.sleep(_POLL)
            said = _again(session, said) | {key: said[key] for key in ("changed", "before")}
    return said


def _again(session: Session, said: dict[str, Any]) -> dict[str, Any]:
    """Where a drain stands now. A daemon may have ended since, or come."""
    name = said["service"], said["server"]
    try:
        standing = _standing(session, name)
    except NoDaemon:
        with ExitStack() as stack:
            try:
                stack.enter_context(session.writing("drain"))
            except Conflict:  # one that starts has the lock before it answers
                return said
            return _carry_out(session, name, lambda overrides, _, now: overrides)
    for server in standing:
        if server["status"] == "draining":
            return said | {"deadline": server["drain_deadline"], "live": server["drain_connections"]}
        drained = server["status"] == "disabled"
        return said | {"drained": drained, "hold": "drain" if drained else None, "live": 0}
    raise KernlbError(f"{'/'.join(name)} is configured no more")


def _standing(session: Session, name: tuple[str, str]) -> list[dict[str, Any]]:
    daemon = handover.client(session)
    try:
        return daemon.standing(*name)
    except NoAnswer:  # as of one that ends meanwhile: then there is none now
        return daemon.standing(*name)


def report(session: Session, said: dict[str, Any], text: str, *, check: bool) -> int:
    said.pop("live", None)
    if said.get("unwritten"):
        output.note(f"a reboot will forget this: {said['unwritten']}")
    if session.as_json:
        output.facts(said)
    elif check:
        click.echo(f"{said['service']}/{said['server']}: {'would change' if said['changed'] else 'nothing to do'}")
    else:
        click.echo(f"{said['service']}/{said['server']} {text} (through the {said['through']})")
    return 0


# --- names for the shell


def complete_service(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(_names(ctx)) if name.startswith(incomplete)]


def complete_server(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    servers = _names(ctx).get(str(ctx.params.get("service")), [])
    return [CompletionItem(name) for name in servers if name.startswith(incomplete)]


def _names(ctx: click.Context) -> dict[str, list[str]]:
    """By service, of the daemon, else of the state file; none where neither can be read: completion never fails."""
    session = ctx.ensure_object(Session)
    try:
        status = handover.client(session, timeout=1.0).status()
        return {each["name"]: [server["name"] for server in each["servers"]] for each in status["services"]}
    except KernlbError:
        pass
    found: dict[str, list[str]] = {}
    try:
        for name in session.store().load().names.values():
            if name.check:
                continue
            servers = found.setdefault(name.service, [])
            if name.server and name.server not in servers:
                servers.append(name.server)
    except KernlbError:
        return {}
    return found


def server_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    help = "Say whether the order would change anything, and order nothing."
    function = click.option("--check", is_flag=True, help=help)(function)
    function = click.argument("server", shell_complete=complete_server)(function)
    return click.argument("service", shell_complete=complete_service)(function)
