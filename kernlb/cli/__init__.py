"""The command line: facts on stdout, messages on stderr, one exit code. Only here does kernlb print and exit."""

import errno
import os
import sys
from collections.abc import Callable
from importlib import import_module

import click

from kernlb.errors import KernlbError

USAGE = 64
"""Usage errors on every verb: click's own 2 would read as "changes"."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Of whatever else cannot be written, an error of ours tells."""

VERBS = {
    "validate": "Check a configuration and say every mistake in it.",
    "plan": "Say what apply would do. Exit 2 where there is something to do.",
    "apply": "Make the kernel what the configuration says, once.",
    "run": "Be the daemon: apply, check, reconcile, serve.",
    "status": "Health and traffic by name; exit 3 where a pool lacks quorum.",
    "top": "Live traffic rates by name.",
    "drain": "Empty a real server: no new connections, then out of the kernel.",
    "resume": "End a drain or a disablement.",
    "disable": "Give a real server no new connections until it is enabled.",
    "enable": "End a disablement or a drain.",
    "weight": "Give a real server another weight.",
    "reload": "Have the daemon read its file again.",
    "simulate": "Weights over time under scripted failures, no kernel touched.",
    "show": "Show services, servers, weights and connections as in the kernel.",
    "explain": "Say which service, slot and server a flow meets, and why.",
    "doctor": "Say what stands in the way on this machine, and what mends it.",
    "clear": "Remove from the kernel what kernlb owns, and nothing else.",
    "convert": "Turn a configuration into another program's, or into kernlb's own.",
    "render": "Print units, real servers' set-up, VRRP and BGP companions.",
    "schema": "Print the JSON Schema of kernlb.toml.",
    "demo": "Balance real traffic between namespaces of this machine.",
    "completion": "Print the completion script of a shell.",
}


class Verbs(click.Group):
    """Loads a verb's module when it is called: `kernlb --help` needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"kernlb.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], VERBS, n=1)
            if not close:
                raise
            raise click.UsageError(f"{error.message.rstrip('.')}. Did you mean {close[0]!r}?", ctx) from error


def main() -> None:
    """The console script. Exits 64 on wrong usage, 1 on errors, 130 when interrupted, and as the verb says."""
    _open_streams()
    from kernlb.cli.root import root

    try:
        code = root.main(standalone_mode=False, prog_name="kernlb", color=coloured())
    except click.ClickException as error:
        code = USAGE if isinstance(error, click.UsageError) else 1
        if "--json" in sys.argv[1:]:
            from kernlb.cli.output import complain
            from kernlb.errors import UsageError

            complain(UsageError(error.format_message()))
        else:
            error.show()
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nkernlb: interrupted; what was done stays done, and running the same again finishes it", err=True)
        code = 130
    except BrokenPipeError:
        # The reader of a pipe has seen enough (`kernlb show | head`).
        _close_output()
        code = 141
    except KernlbError as error:
        from kernlb.cli.output import complain

        complain(error)
        code = 1
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _close_output()
        click.echo(f"kernlb: cannot write what is to be said: {error.strerror}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def coloured() -> bool | None:
    """None: as the stream is (no-color.org)."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def _open_streams() -> None:
    """A standard stream that is closed would be the place of the first file or socket that is opened. From such a
    standard input nothing can be read, which is not the same as an empty file."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            place = os.open(os.devnull, os.O_WRONLY)
            os.set_inheritable(place, True)
            setattr(sys, name, os.fdopen(place, mode))
    # Names of files need not be text.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _close_output() -> None:
    """Nothing may complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def load() -> Callable[[], None]:
    """The console script with every verb loaded, for a process that will fork its calls."""
    for name in VERBS:
        import_module(f"kernlb.cli.{name}")
    return main
