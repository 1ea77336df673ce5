"""The text of `ipvsadm -S` and `-R`: rules to a Table or a Config and back. Opens nothing, resolves no name itself.

Rules: ipvsadm(8), the commands -A and -a with their options. Comments are no part of the format: ipvsadm refuses them.
"""

from kernlb.config.values import Config
from kernlb.errors import ConfigError
from kernlb.formats.ipvsadm.named import as_service, entries, service_name, unsaid
from kernlb.formats.ipvsadm.reader import table_of
from kernlb.formats.ipvsadm.writer import write_table
from kernlb.formats.report import Imported, Ledger, Resolve
from kernlb.model import Table, servers_by_service, services

__all__ = ["read", "read_table", "service_name", "unsaid", "write", "write_table"]


def read_table(text: str, *, file: str, resolve: Resolve | None = None) -> Table:
    """Raises ConfigError with every rule that cannot be read."""
    ledger = Ledger()
    table = table_of(text, ledger, resolve)
    if ledger.mistakes:
        raise ConfigError(file, ledger.mistakes)
    return table


def read(text: str, *, file: str, resolve: Resolve | None = None) -> Imported:
    """The rules as a Config: a service for each virtual service, named after its address, its servers after theirs."""
    ledger = Ledger()
    table = table_of(text, ledger, resolve)
    pools = servers_by_service(table)
    found = tuple(as_service(key, value, pools[key]) for key, value in services(table))
    return ledger.imported(file, Config(services=found))


def write(config: Config) -> str:
    """The rules that carry a Config; `unsaid` names what they cannot tell."""
    return write_table(dict(entries(config)))
