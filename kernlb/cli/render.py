"""kernlb render"""

import shutil
import sys
from dataclasses import fields
from ipaddress import IPv4Address, ip_address, ip_interface
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kernlb.cli import changes, output
from kernlb.cli.options import consent_options, file_argument
from kernlb.cli.root import verb
from kernlb.cli.session import Session
from kernlb.config.values import Config
from kernlb.places import CONFIGURATION, Places
from kernlb.render import TAKES, Options, Template, render
from kernlb.render.options import Floating, Neighbour, NotRendered

_CONSENT = ("accept_loss", "adopt", "shared_settings", "take_port")
_UNITS = (Template.SERVICE, Template.APPLY_SERVICE)
_HIDDEN = (Path("/root"), Path("/home"), Path("/run/user"))
"""What ProtectHome= takes out of a unit's sight."""


def _reading(reader: Any, example: str) -> Any:
    """A callback that turns one or many texts into values."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            return tuple(map(reader, value)) if isinstance(value, tuple) else None if value is None else reader(value)
        except ValueError as error:
            raise click.BadParameter(f"{error}; write it as {example}", ctx, param) from error

    return callback


def _floating(text: str) -> Floating:
    address, at, interface = text.partition("@")
    if not at or not interface or "/" not in address:
        raise ValueError(f"{text!r} is no address with its length and interface")
    return Floating(address=ip_interface(address), interface=interface)


def _neighbour(text: str) -> Neighbour:
    address, _, number = text.rpartition("@")
    if not number.isdecimal() or not 1 <= int(number) < 1 << 32:
        raise ValueError(f"{text!r} is no neighbour with its autonomous system")
    return Neighbour(address=ip_address(address), autonomous_system=int(number))


@verb("render")
@click.argument("template", type=click.Choice([str(template) for template in Template]), metavar="TEMPLATE")
@file_argument
@click.option("--server", metavar="NAME", help="realserver*: only the services of this server, by name or address.")
@click.option(
    "--vip",
    "vips",
    multiple=True,
    metavar="ADDRESS",
    callback=_reading(ip_address, "203.0.113.10"),
    help="realserver*, keepalived.conf: a VIP that no bind names (wildcards, marks). Repeatable.",
)
@click.option("--undo", is_flag=True, help="realserver.sh: a script that undoes unless told otherwise.")
@click.option("--program", metavar="PATH", help="Units: the program they start.")
@click.option("--interface", metavar="NAME", help="keepalived.conf: where VRRP speaks and the VIPs live.")
@click.option("--virtual-router", type=click.IntRange(1, 255), help="keepalived.conf: VRRP's number.  [default: 51]")
@click.option(
    "--priority",
    type=click.IntRange(1, 254),
    help="keepalived.conf: of this director. The same on both: a director that returns takes nothing back. Less than 20"
    " apart: the higher one does. More: quorum moves nothing.  [default: 100]",
)
@click.option(
    "--floating",
    multiple=True,
    metavar="ADDRESS/LENGTH@INTERFACE",
    callback=_reading(_floating, "10.0.0.254/24@eth1"),
    help="keepalived.conf: moves with the VIPs, as the gateway of nat's real servers does. Repeatable.",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="ADDRESS",
    callback=_reading(ip_address, "192.0.2.2"),
    help="keepalived.conf: the other director, where multicast does not reach it. Repeatable.",
)
@click.option("--local-as", type=click.IntRange(1, 2**32 - 1), help="bird.conf, frr.conf: our autonomous system.")
@click.option(
    "--neighbour",
    "--neighbor",
    "neighbours",
    multiple=True,
    metavar="ADDRESS@AS",
    callback=_reading(_neighbour, "192.0.2.1@64512"),
    help="bird.conf, frr.conf: whom to tell. Repeatable.",
)
@click.option(
    "--router-id",
    metavar="ADDRESS",
    callback=_reading(IPv4Address, "192.0.2.1"),
    help="bird.conf, frr.conf: BGP's identifier.  [default: the program's choice]",
)
@consent_options
def command(session: Session, template: str, file: str, format: str | None, **given: Any) -> int:
    """Print a file for another program, as the configuration needs it.

    \b
    kernlb.service, kernlb-apply.service   units of the daemon and of the one shot at boot
    modules-load.d, sysctl.d               kernel modules and sysctls of a director
    nftables                               kernlb's table, as `nft -c` takes it
    realserver.sh, realserver.service      set-up of a direct or tunnel real server, with --undo; and its unit
    realserver-sysctl.d, realserver-modules-load.d, realserver.network,
    realserver-tunnel.network, realserver.interfaces
                                           the same for systemd-networkd and ifupdown
    keepalived.conf                        VRRP for the VIPs, where kernlb does not manage them
    bird.conf, frr.conf                    BGP for the VIPs that kernlb manages (announce = "quorum")

    Nothing is written anywhere: `kernlb render sysctl.d > /etc/sysctl.d/50-kernlb.conf`.

    Exit status: 0, 1 error.
    """
    ctx = click.get_current_context()
    wanted = Template(template)
    default_file = ctx.get_parameter_source("file") is not ParameterSource.COMMANDLINE
    _refuse_meaningless(ctx, wanted)
    known = {field.name for field in fields(Options)}
    options = {name: value for name, value in given.items() if name in known and value not in (None, ())}
    if wanted in _UNITS:
        options = _program() | options
        if not default_file:
            _refuse_hidden(file, "keep it in /etc/kernlb")
    if "program" in options:
        _refuse_hidden(options["program"], "install it in /opt or /usr/local, or name another by --program")
    if default_file and wanted in _UNITS and not CONFIGURATION.exists():
        # A unit may come before its configuration.
        config = Config()
    else:
        config = changes.read_source(file, format, accept_loss=given["accept_loss"]).config
    arguments = [f"--{name.replace('_', '-')}" for name in _CONSENT if given.pop(name)]
    if format is not None and not default_file:
        arguments += ["--format", format]
    if not default_file:
        arguments.append(str(Path(file).absolute()))
    places = Places(namespace=session.netns or "default", run=Path(session.run_dir))
    text = render(
        wanted,
        config,
        Options(
            arguments=tuple(arguments),
            namespace=places.namespace,
            track_file=str(places.track),
            **options,
        ),
    )
    if session.as_json:
        output.facts({"template": template, "text": text})
    else:
        click.echo(text, nl=False)
    return 0


def _refuse_meaningless(ctx: click.Context, template: Template) -> None:
    """An option that the template does not heed is a misunderstanding."""
    for param in ctx.command.params:
        name = param.name or ""
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE or name not in {
            field.name for field in fields(Options)
        }:
            continue
        if name not in TAKES[template]:
            takers = ", ".join(sorted(str(each) for each, taken in TAKES.items() if name in taken))
            raise click.UsageError(f"{param.opts[-1]} means nothing to {template}; it is for {takers}", ctx)


def _refuse_hidden(path: str, hint: str) -> None:
    """A unit would not start what it does not see, nor read it; a link is no way around."""
    for place in (Path(path).absolute(), Path(path).resolve()):
        if hidden := next(filter(place.is_relative_to, _HIDDEN), None):
            raise NotRendered(f"the unit sees nothing of {hidden} (ProtectHome=)", where=str(place), hint=hint)


def _program() -> dict[str, str]:
    """This very program, where it was started by its name."""
    started = Path(sys.argv[0])
    if started.name != "kernlb":
        return {}
    found = started if started.is_absolute() else shutil.which("kernlb")
    return {"program": str(found)} if found else {}
