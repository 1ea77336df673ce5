"""Laws of checks through the VIP: what leads them there, who sees it, what cannot be asked that way."""

from ipaddress import ip_address

import pytest

from kernlb.config import load
from kernlb.config.values import Config
from kernlb.daemon.watched import watched
from kernlb.desired import Desired, desired
from kernlb.errors import ConfigError, Unsupported
from kernlb.marks import assign, is_ours
from kernlb.model import EngineName, Fwmark, RealServer, Ruleset, ServerKey, Sysctl, SysctlKey
from kernlb.pool import pool
from kernlb.showing import services_document

SERVICES = """
[service.web]
bind = ["203.0.113.1:80", "203.0.113.2:80", "[2001:db8::1]:80"]
forwarding = "{forwarding}"
check = {{ type = "http", via_vip = true }}
[service.web.servers]
server1 = "10.0.0.1"
server2 = "10.0.0.2"
server6 = "2001:db8:2::1"
"""
CONFIG = SERVICES.format(forwarding="direct")


def wanted(config: Config, engine: EngineName = EngineName.IPVS) -> Desired:
    pools = {service.name: pool(service) for service in config.services}
    return desired(config, pools, engines=dict.fromkeys(pools, engine), ruleset=Ruleset("x"))


def config(text: str = CONFIG) -> Config:
    return load(text, "kernlb.toml")


def test_each_server_has_an_internal_service_of_a_mark_of_its_own() -> None:
    found = wanted(config())
    ways = {key: name for key, name in found.names.items() if name.check and isinstance(key, Fwmark)}
    assert sorted(map(str, ways.values())) == [
        "check of web/server1", "check of web/server2", "check of web/server6",
    ]  # fmt: skip
    base = config().engine.mark_base
    marks = {key.mark for key in ways}
    assert len(marks) == 3
    assert all(is_ours(mark, base=base) for mark in marks)
    assert not marks & set(assign(["web"], base=base).values())
    servers = [key for key in found.table if isinstance(key, ServerKey) and key.service in ways]
    assert {str(key.address) for key in servers} == {"10.0.0.1", "10.0.0.2", "2001:db8:2::1"}
    assert all(isinstance(value := found.table[key], RealServer) and value.weight == 1 for key in servers)
    assert found.table[SysctlKey("net.ipv4.conf.all.accept_local")] == Sysctl("1")


def test_a_server_that_is_out_keeps_the_way_of_its_check() -> None:
    everything, text = wanted(config()), CONFIG.replace('"10.0.0.1"', '{ address = "10.0.0.1", disabled = true }')
    without = wanted(config(text))
    assert {k for k, n in without.names.items() if n.check} == {k for k, n in everything.names.items() if n.check}


def test_probes_ask_every_vip_of_the_servers_family_with_its_mark_and_come_from_its_route() -> None:
    (web,) = config().services
    by_name = {each.key[1]: each for each in watched(config())}
    assert len(by_name) == len(web.servers)
    checks = by_name["server1"].checks
    assert [(str(c.address), c.port) for c in checks] == [("203.0.113.1", 80), ("203.0.113.2", 80)]
    assert {c.toward for c in checks} == {ip_address("10.0.0.1")}
    assert len({c.mark for c in checks}) == 1
    assert [str(c.address) for c in by_name["server6"].checks] == ["2001:db8::1"]
    marks = {c.mark for each in by_name.values() for c in each.checks}
    assert marks == {key.mark for key, name in wanted(config()).names.items() if name.check and isinstance(key, Fwmark)}


def test_of_several_checks_each_goes_its_own_way_with_its_own_port() -> None:
    checks = '["ping", { type = "http", via_vip = true, port = 8080 }, { type = "tcp", via_vip = true }, "tcp"]'
    several = config(CONFIG.replace('{ type = "http", via_vip = true }', checks))
    found = {each.key[1]: each.checks for each in watched(several)}["server6"]
    assert [(str(c.address), c.port, c.mark is not None) for c in found] == [
        ("None", None, False),
        ("2001:db8::1", 8080, True),
        ("2001:db8::1", 80, True),
        ("None", None, False),
    ]
    assert wanted(several).table.keys() == wanted(config()).table.keys()


def test_internal_services_are_shown_only_where_everything_is() -> None:
    found = wanted(config())
    owned = frozenset(key for key in found.table if key in found.names)
    shown = services_document(found.table, names=found.names, owned=owned, counters={})
    assert {each["name"] for each in shown} == {"web"}
    everything = services_document(found.table, names=found.names, owned=owned, counters={}, everything=True)
    assert len(everything) == len(shown) + 3


def test_without_such_checks_nothing_of_it_is_wanted() -> None:
    plain = wanted(config(CONFIG.replace(", via_vip = true", "")))
    assert not any(name.check for name in plain.names.values())
    assert SysctlKey("net.ipv4.conf.all.accept_local") not in plain.table


def test_the_ebpf_program_cannot_carry_them_and_says_so() -> None:
    with pytest.raises(Unsupported, match="needs IPVS"):
        wanted(config(), EngineName.XDP)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CONFIG.replace('"direct"', '"nat"'), "forwarding nat gives the server its own address"),
        (CONFIG.replace('type = "http"', 'type = "ping"'), "cannot go the way of the traffic"),
        (CONFIG.replace("via_vip", "mark = 7, via_vip"), "chooses its mark itself"),
        (CONFIG.replace("[service.web.servers]", 'engine = "xdp"\n[service.web.servers]'), "engine xdp does not see"),
        (CONFIG.replace('"203.0.113.1:80", "203.0.113.2:80"', '"*:80"'), "bound to no address of the server's family"),
        (CONFIG.replace('"10.0.0.1"', '{ address = "10.0.0.1", agent = { port = 1, via_vip = true } }'), "an agent"),
    ],
)
def test_what_cannot_be_asked_that_way_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(text)
    assert any(said in mistake.message for mistake in refused.value.mistakes)
