"""Source ports of full NAT: which are left of a gateway's share, and how the share is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernlb.config import load
from kernlb.errors import ConfigError
from kernlb.ports import ANY, PortRange, left
from tests.strategies import port_ranges


def numbers(ranges: list[PortRange]) -> set[int]:
    return {port for each in ranges for port in range(each.first, each.last + 1)}


@given(local=port_ranges, kept=st.lists(port_ranges, max_size=3), within=st.none() | port_ranges)
def test_the_longest_row_that_is_free_within_the_range_is_left(
    local: PortRange, kept: list[PortRange], within: PortRange | None
) -> None:
    row = left(f"{local.first}\t{local.last}\n", ",".join(map(str, kept)), within=within)
    free = (numbers([ANY]) - numbers([local]) | numbers(kept)) & numbers([within or ANY])
    assert set(row) <= free
    longest, length = 0, 0
    for port in range(1024, 65537):
        length = length + 1 if port in free else 0
        longest = max(longest, length)
    assert len(row) == longest


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('"80-2000"', '"80" is not a port (write a number from 1024 to 65535)'),
        ('"2000-1024"', "the range of ports runs backwards (write 1024-2000)"),
        ('"1024-65536"', '"65536" is not a port'),
        ('"1024-"', '"" is not a port'),
        ("1024", '1024 is not a range of ports (write "1024-16383")'),
    ],
)
def test_source_ports_that_are_no_range_are_refused_with_what_would_be_one(written: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(f"[addresses]\nmanage = false\nsource_ports = {written}\n", "test")
    (mistake,) = refused.value.mistakes
    assert (mistake.path, mistake.line) == ("addresses.source_ports", 3)
    assert said in f"{mistake.message} ({mistake.hint})"
