"""The agent's line, as HAProxy's manual gives it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernlb.checks.orders import parsed
from kernlb.checks.verdict import Administration, Orders


@pytest.mark.parametrize(
    ("line", "orders", "reason"),
    [
        ("75%", Orders(share=0.75), ""),
        ("0%", Orders(share=0.0), ""),
        ("200%", Orders(share=2.0), ""),
        ("up", Orders(up=True), ""),
        ("down", Orders(up=False), ""),
        ("failed #disk full", Orders(up=False), "disk full"),
        ("stopped", Orders(up=False), ""),
        ("FAIL", Orders(up=False), ""),
        ("drain", Orders(administration=Administration.DRAIN), ""),
        ("maint", Orders(administration=Administration.MAINT), ""),
        ("ready", Orders(administration=Administration.READY), ""),
        ("maxconn:30", Orders(max_connections=30), ""),
        (
            "ready,up\t50% maxconn:9 # back",
            Orders(share=0.5, administration=Administration.READY, up=True, max_connections=9),
            "back",
        ),
        ("banana up", Orders(up=True), ""),
        ("maxconn:many 12x% %", Orders(), ""),
        ("# up", Orders(), "up"),
        ("", Orders(), ""),
    ],
)
def test_a_line_gives_these_orders(line, orders, reason):
    assert parsed(line) == (orders, reason)


@given(st.text())
def test_any_text_gives_orders(line):
    orders, _ = parsed(line)
    assert orders.share is None or 0 <= orders.share <= 256
