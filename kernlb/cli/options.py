"""Arguments and options that several verbs share."""

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from kernlb.places import CONFIGURATION
from kernlb.reconciler import Consent


def file_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option(
        "--format",
        type=click.Choice(["toml", "haproxy", "keepalived", "ipvsadm"]),
        help="The file's format.  [default: told by its content]",
    )(function)
    return click.argument("file", default=str(CONFIGURATION), shell_complete=_files)(function)


def _files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def consent_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options by which a user allows what is refused otherwise; `consent` makes them one value."""
    for name, help in (
        ("--force", "Displace somebody else's XDP program on an interface of the eBPF program."),
        ("--take-port", "Take a wildcard's port although a local process listens there."),
        ("--shared-settings", "Set timers of the whole namespace although foreign services share them."),
        ("--adopt", "Take over virtual services that kernlb did not make."),
        ("--accept-loss", "Go on without the lines of a foreign file that cannot be carried out."),
    ):
        function = click.option(name, is_flag=True, help=help)(function)
    return function


def consent(*, adopt: bool, shared_settings: bool, take_port: bool, force: bool) -> Consent:
    return Consent(adopt=adopt, shared_settings=shared_settings, take_port=take_port, force=force)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


class Duration(click.ParamType[float]):
    """30s, 5m, 500ms or plain seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        digits = str(value).rstrip("hms")
        try:
            seconds = float(digits) * _UNITS[str(value)[len(digits) :]]
        except (ValueError, KeyError):
            self.fail(f"{value!r} is no duration: write 30s, 5m, 500ms or seconds", param, ctx)
        if not 0 <= seconds < 1e9:
            self.fail(f"{value!r} is out of range", param, ctx)
        return seconds
