"""kernlb explain"""

from typing import Any

import click

from kernlb.cli import output
from kernlb.cli.root import verb
from kernlb.cli.session import Session, need_net_admin
from kernlb.config.notation import Wrong, read_socket
from kernlb.config.values import Config
from kernlb.explaining import Answer, Flow, ask_ipvs, ask_program
from kernlb.model import EngineName, IPAddress, Key, Protocol
from kernlb.reconciler import Consent
from kernlb.text import thing

_SAMPLE_PORT = 40000


class Socket(click.ParamType[Any]):
    """ADDRESS:PORT, or ADDRESS alone."""

    name = "socket"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return read_socket(value)
        except Wrong as wrong:
            self.fail(wrong.message + (f": {wrong.hint}" if wrong.hint else ""), param, ctx)


@verb("explain")
@click.argument("client", type=Socket(), metavar="CLIENT[:PORT]")
@click.argument("vip", type=Socket(), metavar="VIP:PORT")
@click.option("--udp", is_flag=True, help="A flow of UDP instead of TCP.")
@click.option("--established", is_flag=True, help="Ask as a packet in the middle of a connection, not as its first.")
def command(
    session: Session,
    client: tuple[IPAddress, int | None],
    vip: tuple[IPAddress, int | None],
    udp: bool,
    established: bool,
) -> int:
    """Say which service, rule, slot and server a flow meets, and why.

    The eBPF program itself is asked, with a packet built for it; nothing is sent and nothing changes. IPVS tells only
    of connections that it has. Without a client's port, 40000 stands for any.

    Exit status: 0, 1 error.
    """
    if vip[1] is None:
        raise click.UsageError("the virtual service needs a port: VIP:PORT")
    if client[0].version != vip[0].version:
        raise click.UsageError("client and virtual service are of different address families")
    need_net_admin("explain")
    flow = Flow(
        client=client[0],
        client_port=_SAMPLE_PORT if client[1] is None else client[1],
        vip=vip[0],
        vip_port=vip[1],
        protocol=Protocol.UDP if udp else Protocol.TCP,
        begins=not established,
    )
    reconciler = session.reconciler(Config(), Consent())
    answer = _ask(reconciler.kernel, flow)
    names = reconciler.state.names

    def named(key: Key | None) -> str | None:
        return thing(key, names) if key is not None else None

    document = {
        "engine": answer.engine,
        "service": named(answer.service),
        "rule": answer.rule,
        "slot": answer.slot,
        "server": named(answer.server),
        "current": named(answer.current),
        "previous": named(answer.previous),
        "why": answer.why,
    }
    if session.as_json:
        output.facts(document)
        return 0
    for label in ("engine", "service", "rule", "slot", "server", "why"):
        if document[label] is not None:
            click.echo(f"{label:8} {document[label]}")
    return 0


def _ask(kernel: Any, flow: Flow) -> Answer:
    """The program sees packets before IPVS does; what it leaves, IPVS may take."""
    from kernlb.engines.xdp import Xdp

    table = kernel.read()
    program = kernel.balancers.get(EngineName.XDP)
    told = None
    if isinstance(program, Xdp) and any(getattr(key, "engine", None) is EngineName.XDP for key in table):
        told = ask_program(program, flow)
        if told.service is not None:
            return told
    scheduled = ask_ipvs({k: v for k, v in table.items() if getattr(k, "engine", None) is not EngineName.XDP}, flow)
    return scheduled or told or Answer(engine=None, why="no virtual service of this machine takes it")
