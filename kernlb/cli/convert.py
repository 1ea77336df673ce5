"""kernlb convert"""

import click

from kernlb.cli import changes, output
from kernlb.cli.options import file_argument
from kernlb.cli.root import verb
from kernlb.cli.session import Session
from kernlb.config.values import Config
from kernlb.formats.detect import Format


@verb("convert")
@file_argument
@click.option("--to", "target", required=True, type=click.Choice([str(kind) for kind in Format]), help="What to write.")
@click.option("--accept-loss", is_flag=True, help="Go on without the lines that cannot be carried out.")
def command(session: Session, file: str, format: str | None, target: str, accept_loss: bool) -> int:
    """Turn a configuration into another program's, or into kernlb's own, on stdout.

    What the other program cannot say stands in the result as comments; for ipvsadm, which takes none, on stderr.

    Exit status: 0, 1 error.
    """
    source = changes.read_source(file, format, accept_loss=accept_loss)
    text = _written(source.config, Format(target))
    if session.as_json:
        output.facts({"format": target, "text": text})
    else:
        click.echo(text, nl=False)
    return 0


def _written(config: Config, target: Format) -> str:
    match target:
        case Format.TOML:
            from kernlb.config import write

            return write(config)
        case Format.HAPROXY:
            from kernlb.formats import haproxy

            return haproxy.write(config)
        case Format.KEEPALIVED:
            from kernlb.formats import keepalived

            return keepalived.write(config)
        case Format.IPVSADM:
            from kernlb.formats import ipvsadm

            for unsaid in ipvsadm.unsaid(config):
                output.note(f"not said: {unsaid}")
            return ipvsadm.write(config)
