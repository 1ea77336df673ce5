"""kernlb run"""

import resource

import click

from kernlb.cli.options import Duration, consent, consent_options, file_argument
from kernlb.cli.root import verb
from kernlb.cli.session import Session, need_net_admin
from kernlb.config.notation import Wrong, read_listen
from kernlb.config.values import Metrics

DESCRIPTORS = 262144


def _listen(ctx: click.Context, param: click.Parameter, value: str | None) -> Metrics | None:
    if value is None:
        return None
    try:
        address, port = read_listen(value)
    except Wrong as wrong:
        raise click.BadParameter(f"{wrong.message}: {wrong.hint}", ctx, param) from wrong
    return Metrics(address=address, port=port)


def claim_descriptors() -> None:
    """As many as there may be, up to those that the shipped unit gives: each probe under way takes one, and with the
    1,024 that a shell allows they would wait for one another."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@verb("run")
@file_argument
@click.option(
    "--deadline",
    type=Duration(),
    default="30s",
    show_default=True,
    help="How long a server that a reload takes away keeps its live connections.",
)
@click.option("--clear-on-exit", is_flag=True, help="Remove everything when told to end; otherwise traffic flows on.")
@click.option("--no-passive", is_flag=True, help="Do not watch the traffic for refused and repeated connections.")
@click.option(
    "--metrics",
    metavar="ADDRESS:PORT",
    callback=_listen,
    help="Serve Prometheus' metrics here, whatever the file says (GET /metrics).",
)
@click.option("--group", metavar="NAME", help="A group that may use the control socket beside root.")
@consent_options
def command(
    session: Session,
    file: str,
    format: str | None,
    deadline: float,
    clear_on_exit: bool,
    no_passive: bool,
    metrics: Metrics | None,
    group: str | None,
    accept_loss: bool,
    adopt: bool,
    shared_settings: bool,
    take_port: bool,
    force: bool,
) -> int:
    """Keep the kernel as the configuration says, and its pools free of servers that fail their checks.

    Runs in the foreground and logs to stderr. SIGHUP and `kernlb reload` read FILE again; where it cannot be used, the
    old configuration stays. SIGTERM ends the daemon and leaves traffic flowing. Killed and started again, it adopts
    what it finds: weights, health, drains.

    Exit status: 0 after SIGTERM, 1 error.
    """
    from kernlb.cli.changes import obstacles, read_source
    from kernlb.cli.output import note
    from kernlb.daemon.machine import machine, open_signs
    from kernlb.daemon.options import Options
    from kernlb.daemon.running import run
    from kernlb.machine import listening
    from kernlb.reconciler import Reconciler

    source = read_source(file, format, accept_loss=accept_loss)
    need_net_admin("run")
    claim_descriptors()
    places = session.places()
    for obstacle in obstacles(source.config):
        note(obstacle)
    with session.writing("run"):
        store = session.store()
        state = store.load()
        allowed = consent(adopt=adopt, shared_settings=shared_settings, take_port=take_port, force=force)
        signs = open_signs(source.config, state.ownership, consent=allowed)
        run(
            source,
            reconciler=Reconciler(signs.kernel, store, allowed, listening, state=state, lasting=True),
            signs=signs,
            machine=machine(file, format, places=places, consent=allowed),
            places=places,
            options=Options(
                deadline=deadline,
                accept_loss=accept_loss,
                clear_on_exit=clear_on_exit,
                group=group,
                metrics=metrics,
                passive=not no_passive,
            ),
        )
    return 0
