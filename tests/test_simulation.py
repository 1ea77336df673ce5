"""Scripts in, weights out: the daemon's own pieces in compressed time."""

import pytest

from kernlb.config import load
from kernlb.errors import ConfigError
from kernlb.simulation import parsed, simulate

TEXT = """
[defaults]
check = { type = "tcp", interval = "2s", rise = 2, fall = 3 }
[service.web]
bind = ["192.0.2.1:80"]
%s
[service.web.servers]
a = "10.0.0.1:80"
b = "10.0.0.2:80"
"""


def weights(script: str, more: str = "") -> list[tuple[float, str, float | None]]:
    config = load((TEXT % more).encode(), "kernlb.toml")
    return [(c.at, c.server, c.weight) for c in simulate(config, parsed(script, "script", config))]


def test_a_server_that_dies_and_returns() -> None:
    (_, _, first), (_, _, second), (out, who, gone), (back, again, weight) = weights(
        "10s down web/a\n30s up web/a\n60s end"
    )
    assert (first, second) == (1, 1)
    assert (who, gone) == ("a", None)
    # The third failure takes it out: between two and three intervals after it died.
    assert 14 <= out <= 16
    assert (again, weight) == ("a", 1)
    assert 32 <= back <= 34


def test_a_silent_server_is_found_out_too() -> None:
    assert [each[1:] for each in weights("10s silent web/b\n60s end")][2:] == [("b", None)]


def test_a_drain_waits_for_connections_and_ends_at_its_deadline() -> None:
    script = "10s connections web/a 3\n10s drain web/a 30s\n60s resume web/a\n70s end"
    assert weights(script)[2:] == [(10.0, "a", 0.0), (40.0, "a", None), (60.0, "a", 1.0)]
    assert weights("10s drain web/a 30s\n20s end")[2:] == [(10.0, "a", 0.0), (11.0, "a", None)]


def test_orders_and_response_times() -> None:
    assert weights("5s weight web/b 3\n9s disable web/b\n20s end")[2:] == [(5.0, "b", 3.0), (9.0, "b", 0.0)]
    slow = weights("0s time web/a 5ms\n0s time web/b 50ms\n300s end", 'scheduler = "least-response-time"')
    last = {server: weight for _, server, weight in slow}
    assert last["b"] is not None
    assert last["a"] is not None
    assert last["b"] < last["a"] / 2


def test_every_mistake_of_a_script_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError) as refused:
        weights("5s down web/a\nsoon down web/a\n5s explode web/a\n5s down web/x\n5s drain web/a")
    assert [mistake.line for mistake in refused.value.mistakes] == [2, 3, 4, 5]


def test_the_same_script_gives_the_same_weights() -> None:
    script = "3s down web/a\n4s silent web/b\n20s up web/a\n25s up web/b"
    assert weights(script) == weights(script)
