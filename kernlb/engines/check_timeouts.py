"""The engine that has conntrack forget the checks' own connections when they close: one small nftables table.

A connection that ends by reset stays for ten seconds in CLOSE, so ten thousand targets that are asked every two seconds
would hold fifty thousand entries. While a probe lives it is tracked like any other, for firewalls that ask.
"""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from kernlb.checks.spec import PRIORITY
from kernlb.engines.nftables import nft, refusal
from kernlb.errors import KernlbError
from kernlb.model import CheckTimeouts, CheckTimeoutsKey, Counters, Key, Table
from kernlb.plan import Operation

TABLE = "kernlb_checks"
"""A table of its own: where a gateway needs nothing else of nftables, its traffic meets no other rule of kernlb's."""

INCOMPLETE = CheckTimeouts(0)
"""The table is there, but not all that belongs in it."""

_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_RULE = "probes of kernlb"

# One policy is for both families. Its chain comes after conntrack (-200), and before IPVS takes what it carries (-99).
_SCRIPT = """\
add table inet {table}
delete table inet {table}
table inet {table} {{
	ct timeout probes {{
		protocol tcp;
		l3proto ip;
		policy = {{ syn_sent : {syn_sent}, close : 0 }};
	}}
	chain output {{
		type filter hook output priority -150; policy accept;
		meta priority {major:x}:{minor:x} meta l4proto tcp ct timeout set "probes" comment "{rule}"
	}}
}}
"""


class ConntrackOfChecks:
    """Of the network namespace that the calling thread is in."""

    handles: tuple[type, ...] = (CheckTimeoutsKey,)

    def read(self) -> Table:
        done = nft("-j", "-n", "list", "table", "inet", TABLE)
        if done.returncode == 0:
            return {CheckTimeoutsKey(): _parsed(json.loads(done.stdout))}
        if os.strerror(errno.ENOENT) in done.stderr:
            return {}
        raise refusal(done.stderr, None, table=TABLE)

    def apply(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            after = operation.after
            text = _script(after) if isinstance(after, CheckTimeouts) else f"delete table inet {TABLE}\n"
            done = nft("-f", "-", text=text)
            if done.returncode:
                raise refusal(done.stderr, None, table=TABLE)

    def counters(self) -> Mapping[Key, Counters]:
        return {}


def conntrack_at_work() -> bool:
    """Whether this namespace tracks connections, so that checks leave something there."""
    try:
        return int(_COUNT.read_text()) > 0 or bool(ConntrackOfChecks().read())
    except (OSError, KernlbError):
        return False


def supported() -> bool:
    """Whether the kernel has timeouts to give (CONFIG_NF_CONNTRACK_TIMEOUT), to us."""
    try:
        return nft("--check", "-f", "-", text=_script(CheckTimeouts(1))).returncode == 0
    except KernlbError:
        return False


def _script(wanted: CheckTimeouts) -> str:
    major, minor = divmod(PRIORITY, 1 << 16)
    return _SCRIPT.format(table=TABLE, syn_sent=wanted.syn_sent, major=major, minor=minor, rule=_RULE)


def _parsed(document: Mapping[str, list[dict[str, dict[str, object]]]]) -> CheckTimeouts:
    items = [next(iter(item.items())) for item in document["nftables"]]
    policy = next((body["policy"] for kind, body in items if kind == "ct timeout"), None)
    rules = [body for kind, body in items if kind == "rule"]
    match policy:
        case {"syn_sent": int(syn_sent), "close": 0} if [rule.get("comment") for rule in rules] == [_RULE]:
            return CheckTimeouts(syn_sent)
    return INCOMPLETE
