"""The group of verbs and the options that every verb takes, before its name or after it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from kernlb import __version__
from kernlb.cli import Verbs
from kernlb.cli.session import Session


def _set(ctx: click.Context, param: click.Parameter, value: object) -> None:
    session = ctx.ensure_object(Session)
    if value == "":  # of a variable that is not set: what it stands for would be somewhere else
        raise click.BadParameter("must not be empty", ctx, param)
    if value not in (None, False) and param.name:
        setattr(session, param.name, value)


def _common(*names: str, help: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, help=help, callback=_set, expose_value=False, **options)


_OPTIONS = (
    _common("--netns", metavar="NAME", help="Work in this network namespace (ip netns)."),
    _common("--json", "as_json", is_flag=True, help="One JSON document on stdout; errors as JSON on stderr."),
    _common("--debug", is_flag=True, help="Show the traceback of an error."),
    _common("--run-dir", metavar="DIR", help="Lock and control socket.  [default: /run/kernlb]"),
    _common("--state-dir", metavar="DIR", help="Where kernlb remembers.  [default: /var/lib/kernlb]"),
    _common(
        "--wait", type=click.FloatRange(min=0), metavar="SECONDS", help="Patience with another kernlb.  [default: 30]"
    ),
)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options that the group has too."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def verb(name: str, **options: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A verb: a click command with the common options, called with the Session first."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @wraps(function)
        def handle(**parameters: Any) -> Any:
            return function(click.get_current_context().ensure_object(Session), **parameters)

        command: click.Command = click.command(name, cls=click.Command, **options)(common(handle))
        return command

    return decorate


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="FILE is /etc/kernlb/kernlb.toml unless given; '-' is standard input. kernlb VERB --help says more.",
)
@click.version_option(__version__, prog_name="kernlb")
@common
@click.pass_context
def root(ctx: click.Context) -> None:
    """One file in, kernel load balancing out.

    kernlb reads its own TOML or the haproxy.cfg you already have, and lets the kernel balance: IPVS virtual services
    over netlink, nftables for wildcards, source NAT and limits. No packet passes through it.
    """
    ctx.ensure_object(Session)
