"""The engine of marks, exemptions, limits and source NAT: one nftables table of kernlb's own, through the program nft.

A batch is one transaction: where the kernel refuses a part of it, all stays as it was.
"""

import errno
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernlb.config.values import MARK_BASE
from kernlb.counters import Counters
from kernlb.engines.nft.listing import Listing, parse
from kernlb.engines.nft.script import Script, script
from kernlb.engines.nft.static import TABLE, ruleset, static
from kernlb.errors import KernelError, KernlbError, Unsupported
from kernlb.model import ExemptKey, Key, LimitKey, MarkKey, RulesetKey, SourceKey, Table
from kernlb.plan import Operation
from kernlb.text import thing

__all__ = ["Nftables", "Tallies", "nft", "program", "refusal", "ruleset"]

# The first use may load a dozen modules, each from a slow disk.
_SECONDS = 240.0
_ERRNO = {os.strerror(number): number for number in errno.errorcode}
_PLACE = re.compile(r"^[^\n]*?:(\d+):\d+-\d+: Error: (.*)$", re.MULTILINE)
_ABSENT = {errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}

# What a line of a script needs of the kernel's configuration; the first that fits is told.
_OPTIONS = (
    ("fib ", "CONFIG_NFT_FIB_INET"),
    ("ct count", "CONFIG_NFT_CONNLIMIT"),
    # nft names the line that a set begins on.
    ("set limits", "CONFIG_NFT_CONNLIMIT"),
    ("reject", "CONFIG_NFT_REJECT_INET"),
    ("jhash", "CONFIG_NFT_HASH"),
    ("snat", "CONFIG_NFT_NAT"),
    ("masquerade", "CONFIG_NFT_MASQ"),
    ("type nat", "CONFIG_NFT_NAT"),
    ("chain postrouting", "CONFIG_NFT_NAT"),
    ("ct ", "CONFIG_NFT_CT"),
    ("table inet", "CONFIG_NF_TABLES_INET"),
)


@dataclass(frozen=True, slots=True)
class Tallies:
    """Since the table was made: packets to this machine that carried somebody else's mark, and connections refused
    by each limit."""

    foreign_marks: int
    refused: Mapping[LimitKey, int]


class Nftables:
    """Of the network namespace that the calling thread is in."""

    handles: tuple[type, ...] = (RulesetKey, MarkKey, ExemptKey, LimitKey, SourceKey)

    def __init__(self, *, mark_base: int = MARK_BASE) -> None:
        self._mark_base = mark_base
        self._static = static(mark_base)
        self._seen: Listing | None = None

    def read(self) -> Table:
        self._seen = self._listing()
        return dict(self._seen.table)

    def apply(self, operations: Sequence[Operation]) -> None:
        """All of them or none: a refusal undoes the whole batch."""
        if not operations:
            return
        # A plan that was made from the last read is written against the same.
        listing, self._seen = self._seen or self._listing(), None
        written = script(operations, listing, static=self._static, mark_base=self._mark_base)
        done = nft("-f", "-", text=str(written))
        if done.returncode:
            raise refusal(done.stderr, written)

    def counters(self) -> Mapping[Key, Counters]:
        """Virtual services and real servers are counted elsewhere."""
        return {}

    def tallies(self) -> Tallies:
        listing = self._listing()
        refused = {LimitKey(None if m == self._mark_base else m): n for m, n in listing.refused.items()}
        return Tallies(listing.foreign_marks, refused)

    def _listing(self) -> Listing:
        done = nft("-j", "-n", "list", "table", "inet", TABLE)
        if done.returncode == 0:
            return parse(json.loads(done.stdout), wanted=self._static, mark_base=self._mark_base)
        if os.strerror(errno.ENOENT) in done.stderr:
            return Listing()
        raise refusal(done.stderr, None)


def program() -> str | None:
    """Where nft is, also for who has no sbin on the path."""
    return shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def nft(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """What the program says. Raises Unsupported where there is none."""
    found = program()
    if found is None:
        raise Unsupported("there is no program nft", hint="install the package nftables (Debian: apt install nftables)")
    try:
        return subprocess.run(
            [found, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"nft did not answer within {_SECONDS:g} s", errno=errno.ETIMEDOUT) from error


def refusal(stderr: str, written: Script | None, *, table: str = TABLE) -> KernlbError:
    """The error for what nft printed."""
    if "Unable to initialize Netlink socket" in stderr or "cache initialization failed: Protocol" in stderr:
        return Unsupported(
            f"kernel {platform.release()} has no nftables (CONFIG_NF_TABLES)",
            hint="boot a kernel with CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET and the modules nft_* "
            "(Debian: linux-image-amd64 or linux-image-cloud-amd64)",
        )
    place = _PLACE.search(stderr)
    said = place[2] if place else " ".join(stderr.split())
    reason = said.removeprefix("Could not process rule: ")
    number = next((n for text, n in _ERRNO.items() if text in said), errno.EINVAL)
    if number == errno.EPERM:
        return KernelError(
            f"nft: {reason}",
            errno=number,
            hint="run as root, or with CAP_NET_ADMIN in the user namespace that owns this network namespace",
        )
    line, owner = "", None
    if place and written and int(place[1]) <= len(written.lines):
        line, owner = written.lines[int(place[1]) - 1].strip(), written.owners[int(place[1]) - 1]
    where = thing(owner.key) if owner else f"table inet {table}"
    option = next((option for text, option in _OPTIONS if text in line), None)
    if number in _ABSENT and option and not line.startswith("delete"):
        return Unsupported(
            f"kernel {platform.release()} cannot do `{line}` ({option})",
            where=where,
            hint=f"load the module, or boot a kernel with {option}",
        )
    verb = owner.verb if owner else "change"
    return KernelError(
        f"cannot {verb} {where}: {reason}; nothing of this batch was applied",
        errno=number,
        where=where,
        hint="read and plan again" if number in (errno.EEXIST, errno.ENOENT, errno.EBUSY) else None,
    )
