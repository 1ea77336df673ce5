"""haproxy.cfg, honestly: read() says of every line what the kernel can make of it, write() says what it cannot tell."""

from collections.abc import Mapping

from kernlb.formats.haproxy import sections
from kernlb.formats.haproxy.assemble import assemble
from kernlb.formats.haproxy.pools import Finder
from kernlb.formats.haproxy.writer import write
from kernlb.formats.report import Imported, Ledger, Resolve

__all__ = ["read", "write"]


def read(text: str, *, file: str, environ: Mapping[str, str] | None = None, resolve: Resolve | None = None) -> Imported:
    """Raises ConfigError with every mistake: what HAProxy refuses, and names where `resolve` is None."""
    ledger = Ledger()
    document = sections.read(text, ledger, environ or {})
    config = assemble(document, ledger, Finder(resolve, {}))
    return ledger.imported(file, config)
