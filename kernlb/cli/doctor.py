"""kernlb doctor"""

from typing import TYPE_CHECKING

import click

from kernlb.cli import changes, output
from kernlb.cli.options import file_argument
from kernlb.cli.root import verb
from kernlb.cli.session import Session, need_net_admin
from kernlb.config.values import Config
from kernlb.errors import KernlbError
from kernlb.places import CONFIGURATION

if TYPE_CHECKING:
    from kernlb.doctor.finding import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@verb("doctor")
@file_argument
@click.option("--all", "everything", is_flag=True, help="Also what is as it should be.")
def command(session: Session, file: str, format: str | None, everything: bool) -> int:
    """Say what stands in the way of a configuration on this machine: the cause, and what mends it.

    Looked at: modules and schedulers of IPVS, the eBPF program and drivers, nftables, sysctls, conntrack, VIPs, the way
    to the real servers and back, ARP, MTU of tunnels, reverse path filtering. Without a file, the machine alone.
    The real servers' own set-up is seen only as far as packets tell. Nothing is changed.

    Exit status: 0 nothing stands in the way, 1 something does, or an error.
    """
    from kernlb.doctor.finding import Verdict, healthy

    there = file != str(CONFIGURATION) or CONFIGURATION.exists()
    config = changes.read_source(file, format, accept_loss=True).config if there else Config()
    need_net_admin("doctor")
    findings = _examine(session, config)
    if session.as_json:
        document = [_document(finding) for finding in findings]
        output.facts({"healthy": healthy(findings), "findings": document})
        return 0 if healthy(findings) else 1
    for finding in findings:
        if everything or finding.verdict is not Verdict.OK:
            _print(finding)
    counts = {each: sum(finding.verdict is each for finding in findings) for each in Verdict}
    click.echo(f"{counts[Verdict.PROBLEM]} problem(s), {counts[Verdict.WARNING]} warning(s), {counts[Verdict.OK]} ok")
    return 0 if healthy(findings) else 1


def _examine(session: Session, config: Config) -> "list[Finding]":
    from kernlb.doctor.examination import examine
    from kernlb.machine import chosen, meaning
    from kernlb.pool import pool
    from kernlb.reconciler import Consent

    reconciler = session.reconciler(config, Consent())
    reconciler.kernel.read()
    try:
        table = meaning(config).desired({each.name: pool(each) for each in config.services}).table
    except KernlbError:
        # A service that cannot be carried here at all is a finding of its own.
        table = {}
    return examine(
        config,
        chosen=chosen(config),
        table=table,
        names={k: (n.service, n.server) for k, n in reconciler.state.names.items() if n.server is not None},
        counted=reconciler.kernel.counters(),
    )


def _print(finding: "Finding") -> None:
    verdict = click.style(f"{finding.verdict:<8}", fg=_COLOURS[finding.verdict])
    click.echo(f"{verdict} {finding.topic:<12} {finding.about}: {finding.cause}")
    if finding.fix:
        click.echo(f"{'':21} {finding.fix}")


def _document(finding: "Finding") -> dict[str, str | None]:
    return {
        "topic": finding.topic,
        "about": finding.about,
        "verdict": str(finding.verdict),
        "cause": finding.cause,
        "fix": finding.fix or None,
    }
