"""kernlb demo"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from kernlb.cli import load, output
from kernlb.cli.root import verb
from kernlb.cli.session import Session, need_net_admin
from kernlb.demo.director import Director
from kernlb.demo.namespaces import lab
from kernlb.demo.stage import Outcome, Stage
from kernlb.demo.story import play
from kernlb.engines.ipvs import Ipvs

_TOPOLOGY = """\
   client                     director                      real servers
 +-----------+      +--------------------------+      +---> server1 10.0.0.1:80
 | 192.0.2.10|------|192.0.2.1      10.0.0.254 |------+---> server2 10.0.0.2:80
 +-----------+      | kernlb apply haproxy.cfg |      +---> server3 10.0.0.3:80  (comes later)
                    +--------------------------+
"""


@verb("demo")
@click.option(
    "--engine",
    type=click.Choice(["auto", "ipvs"]),
    default="auto",
    show_default=True,
    help="auto: IPVS where this kernel has it, else the eBPF program. ipvs: nothing else.",
)
def command(session: Session, engine: str) -> int:
    """Balance real traffic between network namespaces of this machine.

    Builds a client, a director and three real servers out of namespaces, hands the director a haproxy.cfg, sends
    requests, and changes the pool under load; then the daemon meets a server that dies, one that gets slow and one
    that is drained. Takes everything away again. Nothing outside those namespaces is
    touched. Needs root, iproute2, and a kernel with IPVS (then nftables too) or eBPF.

    Exit status: 0 all as claimed, 1 not.
    """
    need_net_admin("demo")
    started = time.monotonic()
    if engine == "ipvs":
        Ipvs().close()
    if not session.as_json:
        click.echo(_TOPOLOGY)
    with TemporaryDirectory(prefix="kernlb-demo-") as directory, lab() as built:
        stage = Stage(built, Director(built, Path(directory), load()), Path(directory), _say)
        _say("starting three real servers")
        outcomes = []
        for outcome in play(stage):
            outcomes.append(outcome)
            if not session.as_json:
                mark = click.style("ok ", fg="green") if outcomes[-1].held else click.style("NOT", fg="red")
                click.echo(f"{mark} {outcomes[-1].claim}: {outcomes[-1].figures}")
    seconds = time.monotonic() - started
    if session.as_json:
        claims = [{"claim": o.claim, "figures": o.figures, "held": o.held} for o in outcomes]
        output.facts({"held": all(o.held for o in outcomes), "seconds": round(seconds, 1), "claims": claims})
    else:
        _table(outcomes, seconds)
    return 0 if all(outcome.held for outcome in outcomes) else 1


def _say(what: str) -> None:
    prefix = "" if what.startswith(" ") else "... "
    click.secho(f"{prefix}{what}", dim=True, err=True)
    sys.stderr.flush()


def _table(outcomes: list[Outcome], seconds: float) -> None:
    from rich import box
    from rich.table import Table

    held = sum(outcome.held for outcome in outcomes)
    grid = Table(
        title=f"{held} of {len(outcomes)} as claimed, in {seconds:.0f} s", box=box.SIMPLE_HEAD, title_justify="left"
    )
    grid.add_column("claim")
    grid.add_column("measured")
    grid.add_column("")
    for outcome in outcomes:
        grid.add_row(outcome.claim, outcome.figures, "[green]ok[/]" if outcome.held else "[red]NOT[/]")
    output.console().print(grid)
