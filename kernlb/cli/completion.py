"""kernlb completion"""

import click
from click.shell_completion import get_completion_class

from kernlb.cli.root import root, verb
from kernlb.cli.session import Session


@verb("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(session: Session, shell: str) -> int:
    """Print the completion script of a shell.

    For bash: kernlb completion bash > /etc/bash_completion.d/kernlb
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "kernlb", "_KERNLB_COMPLETE").source())
    return 0
