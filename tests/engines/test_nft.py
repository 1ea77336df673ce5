"""The nftables table as text, without a kernel."""

from errno import EEXIST
from ipaddress import ip_address

import pytest

from kernlb.config.values import MARK_BASE
from kernlb.engines.nft.listing import Listing
from kernlb.engines.nft.script import Script, script
from kernlb.engines.nft.static import ruleset, static
from kernlb.engines.nftables import refusal
from kernlb.errors import KernelError, KernlbError, Unsupported
from kernlb.model import Exempt, ExemptKey, Limit, LimitKey, Protocol, RulesetKey
from kernlb.plan import Operation, Verb

ONE = MARK_BASE + 1


def written(listing: Listing, *operations: Operation) -> Script:
    return script(operations, listing, static=static(), mark_base=MARK_BASE)


def numbers(*wanted: int) -> list[dict[int, int]]:
    """What each set of limits holds after the limit of one mark was set to these numbers in turn."""
    listing, before = Listing(), None
    for number in wanted:
        verb = Verb.CHANGE if before else Verb.ADD
        after = Limit(number)
        written(listing, Operation(verb, LimitKey(ONE), before, after))
        before = after
    return list(listing.limits.values())


def test_every_static_rule_has_a_tag_and_the_digest_follows_the_base_of_the_marks() -> None:
    rules = [tag for tags in static().tags.values() for tag in tags]
    assert rules == [f"{static().digest}/{number}" for number in range(1, len(rules) + 1)]
    assert ruleset() == ruleset(mark_base=MARK_BASE) != ruleset(mark_base=0x10000)


def test_the_list_that_knows_most_connections_is_kept_while_its_number_is_not_below_the_wanted() -> None:
    assert numbers(4) == [{ONE: 4}, {}]
    assert numbers(4, 2) == [{ONE: 4}, {ONE: 2}]
    assert numbers(4, 2, 3) == [{ONE: 4}, {ONE: 3}]
    assert numbers(4, 2, 4) == [{ONE: 4}, {}]
    assert numbers(4, 2, 9) == [{ONE: 9}, {}]


def test_removing_the_ruleset_is_one_command() -> None:
    exempt = Operation(Verb.REMOVE, ExemptKey(ip_address("192.0.2.1"), Protocol.TCP, 80), Exempt(), None)
    lines = written(Listing(), exempt, Operation(Verb.REMOVE, RulesetKey(), ruleset(), None)).lines
    assert lines == ["delete table inet kernlb"]


def told(reason: str, *, line_with: str) -> KernlbError:
    """The error where nft says this of the first line of the static part that has that text."""
    text = written(Listing(), Operation(Verb.ADD, RulesetKey(), None, ruleset()))
    number = next(number for number, line in enumerate(text.lines, 1) if line_with in line)
    return refusal(f"/dev/stdin:{number}:3-20: Error: Could not process rule: {reason}\n", text)


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("fib daddr", "CONFIG_NFT_FIB_INET"),
        ("set limits {", "CONFIG_NFT_CONNLIMIT"),
        ("tcp reset", "CONFIG_NFT_REJECT_INET"),
        ("masquerade comment", "CONFIG_NFT_MASQ"),
        ("type nat", "CONFIG_NFT_NAT"),
        ("ct direction", "CONFIG_NFT_CT"),
        ("table inet", "CONFIG_NF_TABLES_INET"),
    ],
)
def test_what_the_kernel_lacks_is_named_by_its_option(text: str, option: str) -> None:
    error = told("No such file or directory", line_with=text)
    assert isinstance(error, Unsupported)
    assert option in error.message


def test_a_kernel_without_nftables_is_unsupported() -> None:
    error = refusal("netlink.c: Unable to initialize Netlink socket: Protocol not supported\n", None)
    assert isinstance(error, Unsupported)
    assert "CONFIG_NF_TABLES" in error.message


def test_other_refusals_carry_their_errno() -> None:
    error = told("File exists", line_with="map marks_ipv4")
    assert isinstance(error, KernelError)
    assert error.errno == EEXIST
