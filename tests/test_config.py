"""Laws of reading a kernlb.toml: what is meant by it, and what is said of what is wrong in it."""

import re
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernlb.checks.spec import Check, HttpProbe, TcpProbe
from kernlb.config import advice, load
from kernlb.config.notation import read_bind, read_duration, write_bind, write_duration
from kernlb.config.values import AddressBind, Config, MarkBind, Policy, Server, Service
from kernlb.errors import ConfigError, Mistake
from kernlb.model import Family, Forwarding, Persistence, Tunnel, TunnelKind

DATA = Path(__file__).parent / "data"


def mistakes(text: str | bytes) -> tuple[Mistake, ...]:
    with pytest.raises(ConfigError) as caught:
        load(text, "kernlb.toml")
    return caught.value.mistakes


def service(body: str, servers: str = 'a = "10.0.0.1:80"', *, before: str = "") -> Service:
    text = f"{before}\n[service.s]\n{body}\n[service.s.servers]\n{servers}\n"
    return load(text, "kernlb.toml").services[0]


def refused(body: str, servers: str = 'a = "10.0.0.1:80"', *, before: str = "") -> str:
    """The one mistake of a service, as path: message (hint)."""
    (mistake,) = mistakes(f"{before}\n[service.s]\n{body}\n[service.s.servers]\n{servers}\n")
    return f"{mistake.path.removeprefix('service.s.')}: {mistake.message} ({mistake.hint})"


BIND = 'bind = "192.0.2.1:80"'


def test_every_mistake_of_a_file_is_found_at_once_each_on_its_line() -> None:
    text = (DATA / "broken.toml").read_text()
    marked = {
        (path, number)
        for number, line in enumerate(text.split("\n"), 1)
        for path in re.findall(r"# MISTAKE (.*?)(?= # |$)", line)
    }
    assert {(mistake.path, mistake.line) for mistake in mistakes(text)} == marked


def test_a_bind_has_its_own_index_whatever_is_wrong_before_it() -> None:
    binds = ["bad bad", "fwmark:0", "192.0.2.1:80", "192.0.2.1:80"]
    lines = "".join(f'  "{bind}",\n' for bind in binds)
    found = mistakes(f'[service.s]\nbind = [\n{lines}]\nforwarding = "nat"\nservers = {{ a = "10.0.0.1:80" }}\n')
    assert [(m.path, m.line) for m in found] == [(f"service.s.bind[{at}]", at + 3) for at in (0, 1, 3)]


def test_every_mistake_says_what_would_be_right() -> None:
    assert all(mistake.hint for mistake in mistakes((DATA / "broken.toml").read_text()))


def test_the_tour_is_read_as_it_says() -> None:
    config = load((DATA / "tour.toml").read_bytes(), "tour.toml")
    (api,) = config.services
    assert config.engine.interfaces == ("eth0",)
    assert config.addresses.source == (IPv4Address("10.0.0.254"),)
    assert api.binds == (
        AddressBind(IPv4Address("203.0.113.10"), 80, 80),
        AddressBind(IPv6Address("2001:db8::10"), 80, 80),
    )
    assert api.scheduler is Policy.LEAST_RESPONSE_TIME
    check = Check(probe=HttpProbe(path="/healthz"), timeout=1.0)
    server1 = Server(name="server1", address=IPv4Address("10.0.0.1"), port=80, checks=(check,))
    server2 = Server(
        name="server2", address=IPv4Address("10.0.0.2"), port=80, weight=2, max_connections=500, checks=(check,)
    )
    assert api.servers == (server1, server2)
    assert api.sorry_server == Server(name="sorry", address=IPv4Address("10.0.0.99"), port=80, checks=(check,))


def test_a_bind_without_a_server_of_its_family_is_advised_against_with_its_line() -> None:
    text = (DATA / "tour.toml").read_text()
    assert [(a.path, a.line) for a in advice(load(text, "t"), text)] == [("service.api.bind", 16)]


def test_what_synchronisation_does_not_carry_is_said() -> None:
    sync = '[sync.master]\ninterface = "eth1"\n'
    servers = '[service.s.servers]\na = "10.0.0.1:80"\n'
    for forwarding, said in (("fullnat", ["service.s"]), ("nat", []), ("direct", []), ("tunnel", [])):
        text = f'{sync}[service.s]\nbind = "203.0.113.1:80"\nforwarding = "{forwarding}"\n{servers}'
        assert [a.path for a in advice(load(text, "t"), text)] == said
        assert not list(advice(load(text.removeprefix(sync), "t"), text))


def test_a_hash_that_refuses_the_clients_of_a_draining_server_is_advised_against() -> None:
    for lines, said in (
        ('scheduler = "sh"', ["service.s.scheduler"]),
        ('scheduler = "sh"\nflags = ["fallback"]', []),
        ('scheduler = "sh"\nengine = "xdp"\nforwarding = "fullnat"', []),
        ('scheduler = "dh"', ["service.s.scheduler"]),
        ('scheduler = "mh"', []),
    ):
        text = f'[service.s]\nbind = "203.0.113.1:80"\n{lines}\n[service.s.servers]\na = "10.0.0.1:80"\n'
        assert [a.path for a in advice(load(text, "t"), text)] == said


def test_nothing_but_a_bind_and_a_server_is_needed() -> None:
    assert service('bind = "*:80"') == Service(
        name="s",
        binds=(AddressBind(Family.IPV4, 80, 80),),
        servers=(Server(name="a", address=IPv4Address("10.0.0.1"), port=80),),
    )
    assert load("", "empty") == Config()


def test_server_over_service_over_defaults() -> None:
    found = service(
        f'{BIND}\nforwarding = "fullnat"',
        'a = "10.0.0.1:80"\nb = { address = "10.0.0.2:80", forwarding = "nat" }',
        before='[defaults]\nforwarding = "direct"\nslow_start = "10s"',
    )
    assert [server.forwarding for server in found.servers] == [Forwarding.FULLNAT, Forwarding.NAT]
    assert [server.slow_start for server in found.servers] == [10, 10]


def test_a_check_inherits_its_timing_always_and_its_questions_from_the_same_kind_only() -> None:
    found = service(
        f'{BIND}\ncheck = {{ path = "/a" }}',
        'a = "10.0.0.1:80"\nb = { address = "10.0.0.2:80", check = { type = "tcp", rise = 5 } }\n'
        'c = { address = "10.0.0.3:80", check = false }\nd = { address = "10.0.0.4:80", check = { host = "d" } }',
        before='[defaults]\ncheck = { type = "http", interval = "1s", method = "HEAD" }',
    )
    assert [server.checks for server in found.servers] == [
        (Check(probe=HttpProbe(path="/a", method="HEAD"), interval=1.0),),
        (Check(probe=TcpProbe(), interval=1.0, rise=5),),
        (),
        (Check(probe=HttpProbe(path="/a", method="HEAD", host="d"), interval=1.0),),
    ]


def test_a_server_without_a_port_has_the_port_of_its_service_where_that_is_one() -> None:
    assert service(BIND, 'a = "10.0.0.1"').servers[0].port == 80
    assert service('bind = ["192.0.2.1:80", "192.0.2.1:443"]', 'a = "10.0.0.1"').servers[0].port == 0
    assert service('bind = "192.0.2.1:80-81"', 'a = "10.0.0.1"').servers[0].port == 0


def test_a_mark_takes_the_family_of_its_servers_unless_told() -> None:
    assert service('bind = "fwmark:7"').binds == (MarkBind(Family.IPV4, 7),)
    assert service('bind = "fwmark:0x7"', 'a = "[2001:db8::1]:80"').binds == (MarkBind(Family.IPV6, 7),)
    told = service('bind = "fwmark:7/ipv6"\nforwarding = "tunnel"')
    assert told.binds == (MarkBind(Family.IPV6, 7),)


def test_persistence_is_of_whole_addresses_unless_told() -> None:
    assert service(f"{BIND}\npersistence = true").persistence == Persistence(360, 32)
    ipv6 = service('bind = "[2001:db8::10]:80"\npersistence = "1h"', 'a = "[2001:db8::1]:80"')
    assert ipv6.persistence == Persistence(3600, 128)
    masked = service(f'{BIND}\npersistence = {{ timeout = 60, mask = "255.255.0.0" }}')
    assert masked.persistence == Persistence(60, 16)


def test_tunnels_are_ipip_unless_told_and_belong_to_forwarding_tunnel_only() -> None:
    found = service(
        f'{BIND}\nforwarding = "tunnel"\ntunnel = "gue:6080"',
        'a = "10.0.0.1"\nb = { address = "10.0.0.2", tunnel = "ipip" }\n'
        'c = { address = "10.0.0.3", forwarding = "nat" }',
    )
    assert [s.tunnel for s in found.servers] == [Tunnel(TunnelKind.GUE, 6080), Tunnel(), None]


@pytest.mark.parametrize(
    ("body", "servers", "said"),
    [
        ('bind = "192.0.2.1"', "", "names no port"),
        ('bind = "2001:db8::1:80"', "", r"names no port .*\[2001:db8::1:80\]:80"),
        ('bind = "192.0.2.1:90-80"', "", "runs backwards .*80-90"),
        ('bind = "fwmark:0"', "", "not a firewall mark"),
        ('bind = "224.0.0.1:80"', "", "not the address of one host"),
        ('bind = "[fe80::1%eth0]:80"', "", "bound to an interface"),
        ('bind = "*:80"\nprotocol = "icmp"', "", "not one of tcp, udp, sctp"),
        (f'{BIND}\nscheduler = "roundrobin"', "", 'did you mean "wrr"'),
        (f'{BIND}\nmode = "dsr"', "", 'unknown key "mode" .*did you mean "forwarding"'),
        (f'{BIND}\nmax-connections = 4', "", 'did you mean "max_connections"'),
        (f"{BIND}\nquorum = true", "", "true is not a whole number"),
        (f'{BIND}\npanic = "150%"', "", "not a fraction"),
        (f'{BIND}\nforwarding = "tunnel"\ntunnel = "gue"', "", "needs the UDP port"),
        (f'{BIND}\nforwarding = "tunnel"\ntunnel = "gre:7"', "", "gre has no port"),
        (f'{BIND}\nforwarding = "tunnel"\ntunnel.checksum = "checksum"', "", "ipip has no checksum"),
        (f'{BIND}\npersistence = {{ prefix = 64 }}', "", "no prefix of 64 bits"),
        (f'{BIND}\npersistence = {{ engine = "sip" }}', "", "sip reads UDP"),
        (f"{BIND}\nhysteresis = 1", "", "never let a quorum"),
        (f'{BIND}\nscheduler = "least-response-time"', "", "learns from checks"),
        (f'{BIND}\nforwarding = "tunnel"\nmax_connections = 5', "", "cannot be counted .*at each server"),
        (BIND, 'a = "0.0.0.0:80"', "not the address of one host"),
        (BIND, 'a = { address = "10.0.0.1:80", port = 81 }', "already names a port"),
        (BIND, "a = 80", 'not a table .*"10.0.0.1:80"'),
        (BIND, 'a = { address = "10.0.0.1:80", weight = -1 }', "at least 0"),
        (BIND, 'a = { address = "10.0.0.1:80", check = { type = "command" } }', "needs argv"),
        (BIND, 'a = { address = "10.0.0.1:80", check = { type = "http", match.pattern = "(" } }', "regular expression"),
        (BIND, 'a = { address = "10.0.0.1:80", check = { steps = [{ }] } }', "either sends or expects"),
        (BIND, 'a = { address = "10.0.0.1:80", agent = { send = "x" } }', "port of its own"),
        ('bind = "fwmark:7"', 'a = { address = "10.0.0.1", check = "tcp" }', "its check needs one"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_way_out(body: str, servers: str, said: str) -> None:
    assert re.search(said, refused(body, servers or 'a = "10.0.0.1:80"'))


def test_specific_binds_go_with_wildcards_and_any_port_with_single_ports() -> None:
    load(
        """
        [service.a]
        bind = ["*:80", "203.0.113.1:80", "[::]:80", "203.0.113.1:443"]
        [service.b]
        bind = "203.0.113.1:0"
        persistence = true
        [service.c]
        bind = "203.0.113.1:80"
        protocol = "udp"
        """,
        "kernlb.toml",
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("203.0.113.1:80", "203.0.113.1:80"),
        ("203.0.113.1:70-90", "203.0.113.1:80"),
        ("203.0.113.1:70-90", "203.0.113.1:90-95"),
        ("*:80", "0.0.0.0:80"),
        ("*:0", "*:80"),
        ("[::]:1-90", "[::]:80"),
        ("fwmark:7", "fwmark:7/ipv4"),
    ],
)
def test_what_is_bound_twice_is_refused_where_it_is_bound_again(one: str, other: str) -> None:
    for first, second in ((one, other), (other, one)):
        text = f'[service.a]\nbind = "{first}"\n[service.b]\nbind = "{second}"\n'
        assert [(m.path, m.line) for m in mistakes(text)] == [("service.b.bind[0]", 4)]


@given(st.one_of(st.floats(0, 1e7), st.integers(0, 10**7).map(float), st.integers(0, 10**9).map(lambda n: n / 1000)))
def test_durations_read_back_as_written(seconds: float) -> None:
    assert read_duration(write_duration(seconds)) == seconds


def test_durations_are_units_or_seconds() -> None:
    assert [read_duration(text) for text in ("500ms", "2s", "5m", "1m30s", "1h", "1d", 2, 0.5)] == [
        0.5, 2, 300, 90, 3600, 86400, 2, 0.5,
    ]  # fmt: skip


@given(
    st.one_of(
        st.builds(
            lambda address, ports: AddressBind(address, *sorted(ports)),
            st.ip_addresses(v=4).filter(lambda a: not a.is_multicast and not a.is_unspecified and int(a) != 2**32 - 1)
            | st.ip_addresses(v=6).filter(lambda a: not a.is_multicast and not a.is_unspecified)
            | st.sampled_from(Family),
            st.just((0, 0)) | st.tuples(st.integers(1, 65535), st.integers(1, 65535)),
        ),
        st.builds(MarkBind, st.just(Family.IPV6), st.integers(1, 2**32 - 1)),
    )
)
def test_binds_read_back_as_written(bind: AddressBind | MarkBind) -> None:
    assert read_bind(write_bind(bind)) == bind


# --- robustness


GARBAGE = {
    "binary": bytes(range(256)) * 40_000,
    "elf": b"\x7fELF\x02\x01\x01" + b"\0" * 1000,
    "utf16": "a = 1".encode("utf-16"),
    "latin1": b'[service.a]\nbind = "\xe9"\n',
    "nul": b"a = 1\0",
    "10 MB of letters": b"a" * (10 << 20),
    "8 MB of letters": b"a" * (8 << 20),
    "8 MB of brackets": b"[" * (8 << 20),
    "deep array": b"a = " + b"[" * 100_000 + b"]" * 100_000,
    "deep table": b"a = " + b"{ a = " * 50_000,
    "deep key": b".".join([b"a"] * 100_000) + b" = 1",
    "deep header": b"[" + b" . ".join([b"a"] * 100_000) + b"]",
    "digits": b"a = " + b"9" * 100_000,
    "open string": b'a = """' + b"x" * 1_000_000,
    "carriage return": b"a = 1\rb = 2\r",
    "haproxy": b"global\n  maxconn 4096\n",
    "many unknown": b"".join(b"k%d = 1\n" % n for n in range(100_000)),
    "many broken": b"".join(b"[service.s%d]\nbind = 1\n" % n for n in range(5_000)),
    "wrong shapes": b"service = [1]\nengine = 1979-05-27\naddresses = inf\ntimers = ''\nsync = []\ndefaults = true\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_a_mistake_and_never_a_traceback(name: str) -> None:
    begun = time.process_time()
    assert all(mistake.message for mistake in mistakes(GARBAGE[name]))
    assert time.process_time() - begun < 20, "a hang, not a slow machine"


def test_a_file_may_begin_with_a_byte_order_mark_and_end_its_lines_as_windows_does() -> None:
    text = '[service.a]\nbind = "*:80"\nservers = { x = "10.0.0.1:80" }\n'
    expected = load(text, "unix")
    assert load(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), "windows") == expected
    assert load("\ufeff" + text, "text") == expected
    assert [m.line for m in mistakes("a = 1\r\n\r\n[engine]\r\nb = 1\r\n")] == [1, 4]


@given(st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_a_truncated_file_is_read_or_refused(length: int) -> None:
    text = (DATA / "everything.toml").read_text()
    with suppress(ConfigError):
        load(text[: length % len(text)], "kernlb.toml")


fuzz = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=5),
        st.sampled_from(["10.0.0.1:80", "*:80", "fwmark:1", "2s", "tcp", "http", "[::]:1-9", "gue:1", "50%", "direct"]),
    ),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=3), items, max_size=3),
    max_leaves=5,
)  # fmt: skip


def _keys(table: object) -> set[str]:
    match table:
        case dict():
            return set(table).union(*map(_keys, table.values()))
        case list():
            return set().union(*map(_keys, table))
    return set()


KEYS = sorted(_keys(tomllib.loads((DATA / "everything.toml").read_text())))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_document_with_our_keys_is_read_or_refused(data: st.DataObject) -> None:
    from kernlb.config.writer import _toml

    document = tomllib.loads((DATA / "everything.toml").read_text())
    for _ in range(data.draw(st.integers(1, 4))):
        place = document
        while isinstance(place, dict) and place and data.draw(st.booleans()):
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict):
                break
            place = place[key]
        value = data.draw(fuzz.filter(lambda value: "None" not in repr(value)))
        place[data.draw(st.sampled_from(sorted({*place, *KEYS})))] = value
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in document.items())
    found: tuple[Mistake, ...] = ()
    try:
        load(text, "kernlb.toml")
    except ConfigError as error:
        found = error.mistakes
    assert all(mistake.message and mistake.line for mistake in found)


def test_importing_the_configuration_does_not_import_pydantic() -> None:
    code = "import sys, kernlb.config; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_thousand_services_of_ten_servers_are_read_in_time_that_grows_with_the_file_only() -> None:
    def seconds(count: int) -> float:
        text = "".join(
            f'[service.s{n}]\nbind = "10.{n // 250}.{n % 250}.1:80"\ncheck = "tcp"\n[service.s{n}.servers]\n'
            + "".join(f'w{k} = {{ address = "10.1{k}.{n // 250}.{n % 250}:80", weight = {k} }}\n' for k in range(10))
            for n in range(count)
        )
        begun = time.process_time()
        load(text, "kernlb.toml")
        return time.process_time() - begun

    seconds(10)
    assert seconds(1000) < 40 * max(seconds(100), 0.01)
