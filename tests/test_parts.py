"""A Table cut along its virtual services, and what a configuration means part by part."""

from ipaddress import IPv4Address
from types import MappingProxyType

from kernlb.config import load
from kernlb.desired import Meaning, desired
from kernlb.model import Endpoint, EngineName, LimitKey, MarkKey, Protocol, Ruleset, ServerKey, SourceKey, VipKey
from kernlb.parts import changed, cut, whole
from kernlb.pool import Rating, pool

TEXT = b"""
[addresses]
manage = true
announce = "quorum"
[service.api]
bind = ["192.0.2.1:80", "*:81"]
forwarding = "fullnat"
max_connections = 9
sorry_server = "10.0.0.9:80"
[service.api.servers]
one = "10.0.0.1:80"
two = { address = "10.0.0.2:80", backup = true }
[service.web]
bind = "192.0.2.2:80"
[service.web.servers]
one = "10.0.0.1:80"
two = "10.0.0.2:80"
"""
CONFIG = load(TEXT, "kernlb.toml")
ENGINES = MappingProxyType({service.name: EngineName.IPVS for service in CONFIG.services})
RULES = Ruleset("x")


def pools(*dead: tuple[str, str]):
    ratings = {name: Rating(up=False) for name in dead}
    return {service.name: pool(service, ratings=ratings) for service in CONFIG.services}


def test_the_parts_of_a_table_are_the_table() -> None:
    table = desired(CONFIG, pools(), engines=ENGINES, ruleset=RULES).table
    assert whole(cut(table)) == table
    assert None in cut(table)


def test_asked_again_a_meaning_says_what_a_new_one_would() -> None:
    meaning = Meaning(CONFIG, engines=ENGINES, ruleset=RULES)
    foreign = [Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("192.0.2.77"), 81)]
    for given, others in (
        (pools(), []),
        (pools(("web", "one")), []),
        (pools(("api", "one")), foreign),
        (pools(("api", "one"), ("api", "two"), ("web", "two")), []),
        (pools(), []),
    ):
        new = desired(CONFIG, given, engines=ENGINES, ruleset=RULES, foreign=others)
        again = meaning.desired(given, others)
        assert again.table == new.table
        assert whole(again.parts or {}) == again.table
        assert (again.names, again.absent) == (new.names, new.absent)


def test_what_did_not_change_is_the_same_object() -> None:
    meaning, before = Meaning(CONFIG, engines=ENGINES, ruleset=RULES), pools()
    first = meaning.desired(before)
    second = meaning.desired(before | {"web": pools(("web", "one"))["web"]})
    assert first.parts is not None
    assert second.parts is not None
    assert second.names is first.names
    (touched,) = changed(second.parts, first.parts)
    assert str(getattr(touched, "address", None)) == "192.0.2.2"
    assert changed(first.parts, first.parts) == set()
    assert changed({}, first.parts) == set(first.parts)


def test_a_verdict_writes_servers_and_nothing_around_them() -> None:
    around = (MarkKey, SourceKey, LimitKey)
    all_well = desired(CONFIG, pools(), engines=ENGINES, ruleset=RULES)
    dead = desired(CONFIG, pools(("api", "one"), ("web", "one")), engines=ENGINES, ruleset=RULES)
    assert any(isinstance(key, SourceKey) for key in dead.table)
    assert [k for k in dead.table if isinstance(k, around)] == [k for k in all_well.table if isinstance(k, around)]
    gone = {key.address for key in all_well.table.keys() - dead.table.keys() if isinstance(key, ServerKey)}
    assert gone == {IPv4Address("10.0.0.1")}


def test_an_address_goes_with_the_quorum_of_all_its_services() -> None:
    lost = desired(CONFIG, pools(("web", "one"), ("web", "two")), engines=ENGINES, ruleset=RULES).table
    assert [str(key.address) for key in lost if isinstance(key, VipKey)] == ["192.0.2.1"]
