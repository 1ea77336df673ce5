"""When conntrack is to forget the connections of checks, and after how long the silent ones. Pure."""

import pytest

from kernlb.config import load
from kernlb.desired import Meaning
from kernlb.model import CheckTimeouts, CheckTimeoutsKey, EngineName, Ruleset
from kernlb.pool import pool


def wanted(check: str, *, tracked: bool | None, forwarding: str = "nat", more: str = "") -> CheckTimeouts | None:
    text = (
        f'[service.web]\nbind = ["192.0.2.1:80"]\nforwarding = "{forwarding}"\ncheck = {check}\n'
        f'[service.web.servers]\none = {{ address = "10.0.0.1:80"{more} }}\ntwo = "10.0.0.2:80"\n'
    )
    config = load(text.encode(), "kernlb.toml")
    engines = {"web": EngineName.IPVS}
    meaning = Meaning(config, engines=engines, ruleset=Ruleset("x"), tracked=lambda: tracked)
    found = meaning.desired({each.name: pool(each) for each in config.services}).table
    return found.get(CheckTimeoutsKey())


def test_only_where_conntrack_is_at_work_or_kernlb_has_it_so() -> None:
    assert wanted('"tcp"', tracked=True) == CheckTimeouts(2)
    assert wanted('"tcp"', tracked=False) is None
    assert wanted('"tcp"', tracked=False, forwarding="fullnat") == CheckTimeouts(2)
    assert wanted('"tcp"', tracked=None, forwarding="fullnat") is None


def test_a_silent_connection_is_kept_as_long_as_the_most_patient_check_waits_in_whole_seconds() -> None:
    assert wanted('{ timeout = "300ms" }', tracked=True) == CheckTimeouts(1)
    assert wanted('"tcp"', tracked=True, more=', check = { timeout = "2500ms" }') == CheckTimeouts(3)
    assert wanted('"tcp"', tracked=True, more=", agent = 9999") == CheckTimeouts(2)


@pytest.mark.parametrize("check", ["false", '"ping"', '{ type = "file", path = "/run/x" }'])
def test_checks_without_a_tcp_connection_want_nothing(check: str) -> None:
    assert wanted(check, tracked=True, forwarding="fullnat") is None


def test_what_begins_to_track_later_is_heeded_then() -> None:
    text = b'[service.web]\nbind = "192.0.2.1:80"\ncheck = "tcp"\n[service.web.servers]\none = "10.0.0.1:80"\n'
    config = load(text, "kernlb.toml")
    at_work = iter([False, True])
    meaning = Meaning(config, engines={"web": EngineName.IPVS}, ruleset=Ruleset("x"), tracked=lambda: next(at_work))
    pools = {each.name: pool(each) for each in config.services}
    assert [CheckTimeoutsKey() in meaning.desired(pools).table for _ in range(2)] == [False, True]
