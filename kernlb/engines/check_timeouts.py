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
from kernlb.counters import Counters
from kernlb.engines.nftables import nft, refusal
from kernlb.errors import KernlbError
from kernlb.model import CheckTimeouts, CheckTimeoutsKey, Key, Table
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


class Tracking:
    """Whether this namespace tracks connections, so that checks leave something there; None where the kernel has no
    timeouts to give (CONFIG_NF_CONNTRACK_TIMEOUT). Asked again until it does: a firewall may come later than kernlb,
    and what it tracks shows with the first connection."""

    def __init__(self, *, certainly: bool) -> None:
        """`certainly`: what kernlb itself wants may bring conntrack to work."""
        self._certainly = certainly
        self._found: bool | None = False
        self._asked = False

    def __call__(self) -> bool | None:
        if self._found is False:
            self._found = self._look()
        return self._found

    def _look(self) -> bool | None:
        first, self._asked = not self._asked, True
        if first and kept():
            return True
        at_work = _entries() > 0
        # To ask costs a program, and has conntrack at work for a moment: only where the answer may matter.
        if (at_work or (first and self._certainly)) and not supported():
            return None
        return at_work


def kept() -> bool | None:
    """True where the table is there, which itself keeps conntrack at work; else None: without a daemon nobody needs
    it."""
    try:
        return True if ConntrackOfChecks().read() else None
    except KernlbError:
        return None


def supported() -> bool:
    """Whether the kernel has timeouts to give, to us."""
    try:
        return nft("--check", "-f", "-", text=_script(CheckTimeouts(1))).returncode == 0
    except KernlbError:
        return False


def _entries() -> int:
    try:
        return int(_COUNT.read_text())
    except OSError:
        return 0


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
