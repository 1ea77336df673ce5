"""kernlb schema"""

from kernlb.cli import output
from kernlb.cli.root import verb
from kernlb.cli.session import Session


@verb("schema")
def command(session: Session) -> int:
    """Print the JSON Schema of kernlb.toml, for editors and for checks of your own."""
    from kernlb.config import schema

    output.facts(schema())
    return 0
