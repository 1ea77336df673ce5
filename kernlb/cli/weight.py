"""kernlb weight"""

from typing import Any

import click

from kernlb import operator
from kernlb.cli import orders
from kernlb.cli.root import verb
from kernlb.cli.session import Session

_CONFIGURED = "configured"
_MOST = 65535


class _Weight(click.ParamType[int | None]):
    name = "weight"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == _CONFIGURED:
            return None
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MOST)) and int(text) <= _MOST):
            self.fail(f"{value!r} is no weight: write 0 to {_MOST}, or {_CONFIGURED!r}", param, ctx)
        return int(text)


@verb("weight")
@orders.server_arguments
@click.argument("n", type=_Weight(), metavar="N")
def command(session: Session, service: str, server: str, n: int | None, check: bool) -> int:
    """Give a real server another weight, in the units of the configuration.

    N is 0 to 65535, or the word 'configured' for what the file says. The order outlives restarts and reloads. Weight 0
    gives the server no new connections.

    Exit status: 0, 1 error.
    """
    said = orders.give(
        session,
        "weight",
        service,
        server,
        lambda overrides, name, now: operator.weigh(overrides, name, n),
        check=check,
        weight=n,
    )
    return orders.report(session, said, "has its configured weight" if n is None else f"has weight {n}", check=check)
