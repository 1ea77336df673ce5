"""kernlb show"""

from dataclasses import asdict
from typing import Any

import click

from kernlb.cli import output
from kernlb.cli.root import verb
from kernlb.cli.session import Session, need_net_admin
from kernlb.config.values import Config
from kernlb.model import Endpoint, Fwmark, ServerKey, Table
from kernlb.plan import Operation, Verb
from kernlb.reconciler import Consent
from kernlb.showing import services_document
from kernlb.text import operation


@verb("show")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also marks, limits, source NAT, addresses, settings, and services that only checks use.",
)
def command(session: Session, everything: bool) -> int:
    """Show services, servers, weights and connections as in the kernel.

    Services that kernlb did not make are shown as foreign. Weights are the kernel's own. The kernel's totals lag
    behind by up to two seconds.

    Exit status: 0, 1 error.
    """
    need_net_admin("show")
    reconciler = session.reconciler(Config(), Consent())
    table = reconciler.kernel.read()
    state = reconciler.state
    documents = services_document(
        table,
        names=state.names,
        owned=frozenset(state.ownership.claimed),
        counters=reconciler.kernel.counters(),
        everything=everything,
    )
    program = reconciler.kernel.loaded()
    if session.as_json:
        extra = {"settings": [_line(key, table) for key in _others(table)]} if everything else {}
        output.facts({"services": documents, "program": asdict(program) if program else None, **extra})
        return 0
    for document in documents:
        _print(document)
    if not documents:
        click.echo("no virtual services")
    if program is not None:
        click.echo(output.program(asdict(program)))
    if everything:
        for key in _others(table):
            click.echo(_line(key, table))
    return 0


def _others(table: Table) -> list[Any]:
    return [key for key in table if not isinstance(key, Endpoint | Fwmark | ServerKey)]


def _line(key: Any, table: Table) -> str:
    return operation(Operation(Verb.ADD, key, None, table[key]), {}).removeprefix("+ ")


def _print(document: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table as Grid

    name = document["name"] or ("(unnamed)" if document["owned"] else "(foreign)")
    how = document["policy"] or document["scheduler"]
    title = f"[bold]{name}[/]  {document['protocol'] or ''} {document['bind']}  {how}  {document['engine']}"
    grid = Grid(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for column, justify in (
        ("server", "left"),
        ("address", "left"),
        ("forwarding", "left"),
        ("weight", "right"),
        ("active", "right"),
        ("inactive", "right"),
        ("connections", "right"),
        ("bytes in", "right"),
        ("bytes out", "right"),
    ):
        grid.add_column(column, justify=justify)  # type: ignore[arg-type]
    for server in document["servers"]:
        address = f"[{server['address']}]" if ":" in server["address"] else server["address"]
        grid.add_row(
            server["name"] or "-",
            f"{address}:{server['port']}",
            server["forwarding"],
            str(server["weight"]),
            *(
                "-" if server[counter] is None else str(server[counter])
                for counter in ("active_connections", "inactive_connections", "connections", "bytes_in", "bytes_out")
            ),
        )
    output.console().print(grid)
