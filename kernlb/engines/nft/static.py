"""The static part of kernlb's nftables table: its text, and how to tell that all of it is in the kernel."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count

from jinja2 import Environment, StrictUndefined

from kernlb.config.values import MARK_BASE
from kernlb.marks import SPAN
from kernlb.model import Ruleset
from kernlb.resources import shipped

TABLE = "kernlb"
BASE_CHAINS = ("prerouting", "input", "postrouting")

_OBJECT = re.compile(r"^\t(counter|set|map|chain) (\w+) \{")
_TAG = re.compile(r' comment "([^"]+)"$')


@dataclass(frozen=True, slots=True)
class Static:
    """`tags` are the comments of the rules of each chain, in order; `objects` the names of counters, sets and maps."""

    text: str
    digest: str
    tags: Mapping[str, Sequence[str]]
    objects: frozenset[str]


@cache
def static(mark_base: int = MARK_BASE) -> Static:
    draft = _render(mark_base, "")
    digest = hashlib.sha256(draft.encode()).hexdigest()[:12]
    text = _render(mark_base, digest)
    tags: dict[str, list[str]] = defaultdict(list)
    objects: set[str] = set()
    chain = ""
    for line in text.splitlines():
        if found := _OBJECT.match(line):
            kind, name = found.groups()
            if kind == "chain":
                chain = name
            else:
                objects.add(name)
        elif found := _TAG.search(line):
            tags[chain].append(found[1])
    return Static(text, digest, dict(tags), frozenset(objects))


def ruleset(*, mark_base: int = MARK_BASE) -> Ruleset:
    """The static part as a Table wants it."""
    return Ruleset(static(mark_base).digest)


def _render(mark_base: int, digest: str) -> str:
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)
    template = environment.from_string(shipped("templates").joinpath("nftables.j2").read_text())
    numbers = count(1)
    return template.render(
        base=f"{mark_base:#010x}",
        mask=f"{0xFFFFFFFF & ~(SPAN - 1):#010x}",
        tag=lambda: f"{digest}/{next(numbers)}",
    )
