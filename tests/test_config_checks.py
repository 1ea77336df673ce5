"""Laws of several checks in a kernlb.toml: what an array of them inherits, hands on and is told when it is wrong."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernlb.checks.spec import BfdProbe, Check, HttpProbe, TcpProbe, TlsOptions
from kernlb.config import advice, load, write
from tests.test_config import BIND, mistakes, refused, service

BOTH = f'{BIND}\ncheck = ["tcp", {{ type = "http", path = "/a" }}]'
OUTER = '[defaults]\ncheck = { type = "http", interval = "5s", path = "/d" }\n'
TCP, HTTP = Check(), Check(probe=HttpProbe(path="/a"))


def test_an_array_is_all_the_checks_of_a_server() -> None:
    (server,) = service(BOTH).servers
    assert server.checks == (TCP, HTTP)
    tables = '[[service.s.check]]\ntype = "tcp"\n[[service.s.check]]\ntype = "http"\npath = "/a"\n'
    assert service(f"{BIND}\n{tables}").servers[0].checks == (TCP, HTTP)


def test_an_array_of_one_is_as_the_one() -> None:
    assert service(f'{BIND}\ncheck = ["tcp"]') == service(f'{BIND}\ncheck = "tcp"')


def test_each_check_of_an_array_inherits_as_if_it_stood_alone() -> None:
    each = ['"tcp"', '{ type = "https", rise = 1 }', '{ path = "/x" }', '{ type = "http", interval = "1s" }']
    together = service(f"{BIND}\ncheck = [{', '.join(each)}]", before=OUTER).servers[0].checks
    alone = [service(f"{BIND}\ncheck = {one}", before=OUTER).servers[0].checks for one in each]
    assert [(check,) for check in together] == alone
    assert together[1] == Check(probe=HttpProbe(path="/d", tls=TlsOptions()), interval=5.0, rise=1)


def test_an_array_takes_the_place_of_what_is_said_further_out_and_hands_nothing_on() -> None:
    found = service(
        f'{BIND}\ncheck = [{{ type = "http", path = "/a", fall = 9 }}, {{ type = "tcp", rise = 9 }}]',
        'a = "10.0.0.1:80"\nb = { address = "10.0.0.2:80", check = ["tcp", { type = "http", path = "/b" }] }\n'
        'c = { address = "10.0.0.3:80", check = "tcp" }\nd = { address = "10.0.0.4:80", check = false }\n'
        'e = { address = "10.0.0.5:80", check = true }',
        before='[defaults]\ncheck = { interval = "5s" }',
    )
    a = (Check(probe=HttpProbe(path="/a"), interval=5.0, fall=9), Check(interval=5.0, rise=9))
    b = (Check(interval=5.0), Check(probe=HttpProbe(path="/b"), interval=5.0))
    assert [server.checks for server in found.servers] == [a, b, (Check(probe=TcpProbe(), interval=5.0),), (), a]


def test_a_table_that_does_not_say_which_of_several_checks_it_means_is_refused() -> None:
    said = refused(BOTH, 'a = { address = "10.0.0.1:80", check = { interval = "1s" } }')
    assert said.startswith("servers.a.check: 2 checks further out")
    assert "type = " in said


@pytest.mark.parametrize(
    ("wrong", "path", "said"),
    [
        ('["tcp", { type = "http", interval = "x" }]', "check[1].interval", "not a duration"),
        ('["tcp", { type = "http", pth = "/" }]', "check[1].pth", 'did you mean "path"'),
        ('["tcp", { path = "/" }]', "check[1].path", "means nothing to a check of type tcp"),
        ('["tcp", "htpp"]', "check[1]", 'did you mean "http"'),
        ('["tcp", { type = "command" }]', "check[1]", "needs argv"),
        ('["tcp", { type = "tcp", via_vip = true }]', "servers.a.check[1].via_vip", "forwarding nat gives"),
        ('["tcp", true]', "check[1]", "true is not a table"),
        ('["tcp", ["tcp"]]', "check[1]", "an array is not a table"),
        ("[]", "check", "is empty"),
    ],
)
def test_a_mistake_names_the_check_by_its_index(wrong: str, path: str, said: str) -> None:
    found = refused(f"{BIND}\ncheck = {wrong}")
    assert found.startswith(f"{path}: ")
    assert said in found


def test_a_mistake_of_an_array_has_its_line() -> None:
    text = f'[service.s]\n{BIND}\ncheck = [\n  "tcp",\n  {{ type = "http", rise = 0 }},\n]\n'
    assert [(m.path, m.line) for m in mistakes(text)] == [("service.s.check[1].rise", 5)]
    tables = f'[service.s]\n{BIND}\n[[service.s.check]]\ntype = "tcp"\n[[service.s.check]]\nrise = 0\n'
    assert [(m.path, m.line) for m in mistakes(tables)] == [("service.s.check[1].rise", 6)]


def test_mistakes_of_all_kinds_in_the_checks_of_one_server_are_told_at_once() -> None:
    checks = '[5, { type = "file" }, { type = "tcp", path = "/" }, { rise = 0 }]'
    servers = f'a = {{ address = "10.0.0.1:80", check = {checks} }}\nb = {{ address = "10.0.0.2:80", check = [] }}\n'
    found = mistakes(f"[service.s]\n{BIND}\n[service.s.servers]\n{servers}")
    of_a = [f"servers.a.check{end}" for end in ("[0]", "[1]", "[2].path", "[3].rise")]
    assert sorted(m.path for m in found) == [f"service.s.{path}" for path in (*of_a, "servers.b.check")]


def test_what_all_servers_say_in_an_array_is_written_once() -> None:
    config = load(f'[service.s]\n{BOTH}\nservers = {{ a = "10.0.0.1:80", b = "10.0.0.2:80" }}\n', "kernlb.toml")
    assert write(config).count("/a") == 1
    assert load(write(config), "written") == config


def test_every_check_of_a_server_without_a_port_needs_one() -> None:
    checks = 'check = [{ type = "ping" }, { type = "tcp", port = 80 }, "tcp"]'
    assert "its check needs one" in refused('bind = "fwmark:7"', f'a = {{ address = "10.0.0.1", {checks} }}')


def test_the_first_check_that_measures_is_the_one_that_weights_learn_from() -> None:
    learning = f'[service.s]\n{BIND}\nscheduler = "least-response-time"\nservers = {{ a = "10.0.0.1:80" }}\ncheck = '
    file = '{ type = "file", path = "/run/w" }'
    (said,) = mistakes(f"{learning}{file}\n")
    assert "learns from checks" in said.message
    assert advice(load(f'{learning}[{file}, "tcp", "http"]\n', "kernlb.toml"))
    assert not advice(load(f'{learning}[{file}, "http", "tcp"]\n', "kernlb.toml"))


# --- BFD


def test_a_session_has_counts_of_its_own_where_its_kind_says_nothing_of_them() -> None:
    outer = '[defaults]\ncheck = { type = "tcp", interval = "5s", rise = 4, fall = 5 }\n'
    servers = (
        'a = { address = "10.0.0.1:80", check = "bfd" }\n'
        'b = { address = "10.0.0.2:80", check = { type = "bfd", fall = 2 } }\n'
        'c = { address = "10.0.0.3:80", check = "http" }'
    )
    a, b, c = (server.checks[0] for server in service(BIND, servers, before=outer).servers)
    assert [(check.rise, check.fall, check.interval) for check in (a, b, c)] == [(1, 1, 5), (1, 2, 5), (4, 5, 5)]
    sessions = f'{BIND}\ncheck = {{ type = "bfd", rise = 3 }}'
    (within,) = service(sessions, 'a = { address = "10.0.0.1:80", check = { min_tx = "1s" } }').servers
    assert within.checks[0] == Check(probe=BfdProbe(min_tx=1.0), rise=3, fall=1)


@given(
    st.builds(
        BfdProbe,
        min_tx=st.floats(0.001, 4294),
        min_rx=st.floats(0.001, 4294),
        multiplier=st.integers(1, 255),
        passive=st.booleans(),
        multihop=st.booleans(),
        min_ttl=st.none() | st.integers(1, 255),
    ),
    st.integers(1, 3),
)
def test_a_session_is_read_as_it_was_written(probe: BfdProbe, count: int) -> None:
    config = load(f'[service.s]\n{BIND}\nservers = {{ a = "10.0.0.1" }}\n', "kernlb.toml")
    (only,) = config.services
    check = Check(probe=probe, rise=count, fall=count, address=IPv4Address("10.0.0.9"))
    config = replace(config, services=(replace(only, servers=(replace(only.servers[0], checks=(check,)),)),))
    assert load(write(config), "written") == config


BFD = '[service.s]\nbind = "*:80"\ncheck = "bfd"\n[service.s.servers]\n'


@pytest.mark.parametrize(
    ("servers", "path", "line"),
    [
        ('a = { address = "10.0.0.1:80", check = { min_tx = "0.1ms" } }', "servers.a.check.min_tx", 5),
        ('a = { address = "10.0.0.1:80", check = { multiplier = 256 } }', "servers.a.check.multiplier", 5),
        ('a = { address = "10.0.0.1:80", check = { min_ttl = 0 } }', "servers.a.check.min_ttl", 5),
        ('a = { address = "10.0.0.1:80", check = { path = "/" } }', "servers.a.check.path", 5),
        ('a = { address = "10.0.0.1:80", check = { type = "tcp", min_tx = "1s" } }', "servers.a.check.min_tx", 5),
        ('a = "10.0.0.1:80"\nb = { address = "10.0.0.1:81", check = { passive = true } }', "servers.b.check", 6),
        (
            'a = "10.0.0.1:80"\nb = { address = "10.0.0.2:80", check = ["tcp", { type = "bfd", address = "10.0.0.1", '
            "mark = 7 }] }",
            "servers.b.check[1]",
            6,
        ),
        (
            'a = { address = "10.0.0.1:80", forwarding = "direct", check = { via_vip = true } }',
            "servers.a.check.via_vip",
            5,
        ),
    ],
)
def test_what_no_session_can_be_is_a_mistake_with_its_line(servers: str, path: str, line: int) -> None:
    assert [(m.path, m.line) for m in mistakes(BFD + servers)] == [(f"service.s.{path}", line)]


def test_servers_at_one_address_share_a_session_and_need_no_port_for_it() -> None:
    over_routers = 'd = { address = "10.0.0.1:82", check = { multihop = true } }\n'
    (found,) = load(
        f'{BFD}a = "10.0.0.1:80"\nb = "10.0.0.1:81"\nc = "10.0.0.2"\n{over_routers}', "kernlb.toml"
    ).services
    assert len({check.probe for server in found.servers for check in server.checks}) == 2


def test_a_session_that_no_busy_director_could_hold_is_advised_against() -> None:
    fast = 'a = { address = "10.0.0.1:80", check = { min_tx = "10ms" } }\n'
    (said,) = advice(load(BFD + fast, "kernlb.toml"))
    assert "busy" in said.message
    assert not advice(load(f'{BFD}a = "10.0.0.1:80"\n', "kernlb.toml"))
    assert "measure time" in refused(f'{BIND}\nscheduler = "least-response-time"\ncheck = "bfd"')
