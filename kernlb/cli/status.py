"""kernlb status"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from kernlb.cli import handover, output
from kernlb.cli.root import verb
from kernlb.cli.session import Session
from kernlb.control_client import NoDaemon

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

NO_QUORUM = 3
_COLOURS = {"up": "green", "down": "red", "unknown": "yellow", "draining": "magenta", "disabled": "bright_black"}


@verb("status")
@click.option("--watch", is_flag=True, help="Go on: live on a terminal, one document a change in a pipe.")
def command(session: Session, watch: bool) -> int:
    """Show the health of pools and servers, as the daemon knows it.

    Weights are in the configuration's units; 1→3 where the eBPF program balances by 3 what is new, while connections of
    before stay where 1 has put them. A server is up, down, unknown (not checked yet, or without a check), draining
    or disabled.

    Exit status: 0 all pools have quorum, 3 some lack it, 1 error.
    """
    daemon = handover.client(session)
    if watch:
        return _watch(daemon.watch(), live=sys.stdout.isatty() and not session.as_json)
    status = daemon.status()
    if session.as_json:
        output.facts(status)
    else:
        output.console().print(rendered(status))
    return code(status)


def _watch(documents: Iterable[dict[str, Any]], *, live: bool) -> int:
    last = 0
    try:
        for status in _live(documents) if live else documents:
            last = code(status)
            if not live:
                click.echo(json.dumps(status, ensure_ascii=False))
                sys.stdout.flush()
    except KeyboardInterrupt:
        return last
    raise NoDaemon("the daemon has ended", hint="kernlb run FILE starts it again")


def code(status: dict[str, Any]) -> int:
    return 0 if all(service["quorum"] for service in status["services"]) else NO_QUORUM


def rendered(status: dict[str, Any]) -> "Group":
    """The status as tables, one below the other."""
    from rich.console import Group
    from rich.markup import escape

    shown: list[RenderableType] = [_daemon(status["daemon"]), *map(_service, status["services"])]
    if status["program"]:
        shown.append(escape(output.program(status["program"])))
    return Group(*shown) if status["services"] else Group(*shown, "no services")


def _live(documents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as live:
        for status in documents:
            live.update(rendered(status), refresh=True)
            yield status


def _daemon(daemon: dict[str, Any]) -> str:
    lines = [f"daemon {daemon['pid']}, {daemon['file']}, since {_ago(daemon['since'])}"]
    if daemon["temporary"]:
        lines.append(f"[yellow]until the next reload: {daemon['temporary']}[/]")
    if daemon["error"]:
        lines.append(f"[red]the kernel is not as wanted: {daemon['error']['message']}[/]")
    if daemon.get("unwritten"):
        lines.append(f"[red]a reboot will forget orders: {daemon['unwritten']['message']}[/]")
    if (checks := daemon["checks"])["saved"]:
        said = f"{checks['probed']} targets are probed for {checks['asked']} checks"
        lines.append(f"{said}: sharing saves {checks['saved']}")
    return "\n".join(lines)


def _service(service: dict[str, Any]) -> "RenderableType":
    from rich import box
    from rich.table import Table as Grid

    flags = "" if service["quorum"] else "  [red]no quorum[/]"
    flags += "  [red]panic: serving all[/]" if service["panic"] else ""
    flags += "  [yellow]sorry server[/]" if service["sorry"] else ""
    flags += f"  [yellow]{_transition(service['transition'])}[/]" if service["transition"] else ""
    how = service["policy"] or service["scheduler"]
    title = f"[bold]{service['name']}[/]  {service['protocol'] or ''} {service['bind']}  {how}{flags}"
    grid = Grid(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("server", "address", "status", "since", "weight", "of", "active", "ms", "reason"):
        grid.add_column(column, justify="right" if column in ("weight", "of", "active", "ms") else "left")
    for server in service["servers"]:
        address = f"[{server['address']}]" if ":" in server["address"] else server["address"]
        grid.add_row(
            server["name"],
            f"{address}:{server['port']}",
            f"[{_COLOURS[server['status']]}]{server['status']}[/]",
            "-" if server["since"] is None else _ago(server["since"]),
            _weight(server),
            f"{server['configured_weight']:g}",
            "-" if server["active_connections"] is None else str(server["active_connections"]),
            "-" if server["response_time_ms"] is None else f"{server['response_time_ms']:.1f}",
            _reason(server),
        )
    return grid


def _transition(transition: dict[str, Any]) -> str:
    part = transition["slots"] / transition["of"]
    return f"in transition: {part:.1%}, ≥ {_lasting(transition['seconds'])}"


def _weight(server: dict[str, Any]) -> str:
    """Connections from before a transition still go by the weight of before."""
    weight, before = f"{server['effective_weight']:g}", server["previous_weight"]
    return weight if before in (None, server["effective_weight"]) else f"{before:g}→{weight}"


def _reason(server: dict[str, Any]) -> str:
    from rich.markup import escape

    reason = escape(str(server["reason"]))
    if server["drain_deadline"] is None:
        return reason
    return f"{reason}, {max(0.0, server['drain_deadline'] - time.time()):.0f} s left"


def _ago(when: float) -> str:
    return _lasting(max(0.0, time.time() - when))


def _lasting(seconds: float) -> str:
    """1d 02h, 3h 04m, 5m 06s or 7s."""
    seconds = int(seconds)
    for unit, length, below, lower in (("d", 86400, 3600, "h"), ("h", 3600, 60, "m"), ("m", 60, 1, "s")):
        if seconds >= length:
            return f"{seconds // length}{unit} {seconds % length // below:02}{lower}"
    return f"{seconds}s"
