"""kernlb top"""

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kernlb.cli import handover, output
from kernlb.cli.options import Duration
from kernlb.cli.root import verb
from kernlb.cli.session import Session, need_net_admin
from kernlb.control_client import NoDaemon

if TYPE_CHECKING:
    from rich.console import RenderableType

_RATES = ("connections", "packets_in", "packets_out", "bytes_in", "bytes_out")
Row = dict[str, Any]


@verb("top")
@click.option("--interval", type=Duration(), default="2s", show_default=True, help="Between two readings.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many.")
def command(session: Session, interval: float, count: int | None) -> int:
    """Show live traffic by name, the busiest first: connections, packets and bits a second.

    The kernel updates its totals every two seconds: a shorter interval shows nothing and then twice as much. Without a
    daemon the kernel is asked directly.

    Exit status: 0, 1 error.
    """
    interval = max(interval, 0.1)
    try:
        if sys.stdout.isatty() and not session.as_json:
            _live(_measured(session, interval, count))
        else:
            for rows in _measured(session, interval, count):
                if session.as_json:
                    click.echo(json.dumps({"servers": rows}, ensure_ascii=False))
                else:
                    output.console().print(_table(rows))
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    return 0


def _live(measured: Iterator[list[Row]]) -> None:
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as live:
        for rows in measured:
            live.update(_table(rows), refresh=True)


def _measured(session: Session, interval: float, count: int | None) -> Iterator[list[Row]]:
    before, began = _reading(session), time.monotonic()
    while count is None or count > 0:
        time.sleep(interval)
        after, now = _reading(session), time.monotonic()
        rows = [_rates(after[key], before.get(key), now - began) for key in after]
        yield sorted(rows, key=lambda row: (-(row["bytes_in"] or 0) - (row["bytes_out"] or 0), row["service"]))
        before, began = after, now
        count = None if count is None else count - 1


def _rates(after: Row, before: Row | None, seconds: float) -> Row:
    row = {key: after[key] for key in ("service", "bind", "server", "active_connections", "inactive_connections")}
    for key in _RATES:
        old, new = (before or {}).get(key), after[key]
        # A server that came back counts from nothing.
        row[key] = None if old is None or new is None else round(max(0, new - old) / seconds, 1)
    return row


def _reading(session: Session) -> dict[tuple[str, str, str], Row]:
    """By service, bind and server; services that are not kernlb's have no name and are left out."""
    found = {}
    for service in _services(session):
        for server in service["servers"]:
            if service["name"] and server["name"]:
                key = (service["name"], service["bind"], server["name"])
                found[key] = {**server, "service": key[0], "bind": key[1], "server": key[2]}
    return found


def _services(session: Session) -> list[dict[str, Any]]:
    try:
        services: list[dict[str, Any]] = handover.client(session).status()["services"]
        return services
    except NoDaemon:
        need_net_admin("top")
    from kernlb.config.values import Config
    from kernlb.reconciler import Consent
    from kernlb.showing import services_document

    reconciler = session.reconciler(Config(), Consent())
    state = reconciler.state
    return services_document(
        reconciler.kernel.read(),
        names=state.names,
        owned=frozenset(state.ownership.claimed),
        counters=reconciler.kernel.counters(),
    )


def _table(rows: list[Row]) -> "RenderableType":
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("service", "bind", "server"):
        grid.add_column(column)
    for column in ("active", "conn/s", "packets in/s", "out/s", "bits in/s", "out/s"):
        grid.add_column(column, justify="right")
    for row in rows:
        grid.add_row(
            row["service"],
            row["bind"],
            row["server"],
            _number(row["active_connections"]),
            _number(row["connections"]),
            _number(row["packets_in"]),
            _number(row["packets_out"]),
            _number(row["bytes_in"], times=8),
            _number(row["bytes_out"], times=8),
        )
    return grid


def _number(value: float | None, *, times: int = 1) -> str:
    """12, 3.4k, 5.6M or 7.8G; - where it is unknown."""
    if value is None:
        return "-"
    value *= times
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"
