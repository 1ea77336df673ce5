"""haproxy.cfg: both readers agree on what is a configuration; every line is accounted for; what is exact returns."""

import random
import subprocess
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernlb.checks.spec import (
    AgentProbe,
    Check,
    Expect,
    FileProbe,
    HttpProbe,
    Match,
    Send,
    SmtpProbe,
    StatusRange,
    TcpProbe,
)
from kernlb.config.values import AddressBind, Addresses, Config, Server, Service
from kernlb.errors import ConfigError
from kernlb.formats import haproxy
from kernlb.formats.haproxy.lexer import words
from kernlb.formats.report import Refused, Verdict
from kernlb.model import Family, Forwarding, IPAddress, Persistence, Scheduler, SchedulerFlag, Timers
from kernlb.ports import PortRange
from tests.formats.haproxy_corpus import ACCEPTED, REFUSED

ARTICLE = Path(__file__).parents[1] / "data" / "haproxy.cfg"


def accepted(text: str, tmp_path: Path) -> tuple[bool, str]:
    """What the real HAProxy says. It wants one proxy at least, so a file without gets one."""
    if not any(word in text for word in ("frontend", "listen")):
        text += "listen filler\n bind :9\n"
    file = tmp_path / "haproxy.cfg"
    file.write_text(text)
    run = subprocess.run(["haproxy", "-c", "-f", file], capture_output=True, text=True, timeout=30, check=False)
    return run.returncode == 0, run.stderr


def read(text: str, **kwargs: object) -> Config:
    return haproxy.read(text, file="test.cfg", environ={}, **kwargs).config  # type: ignore[arg-type]


def verdicts(text: str) -> dict[int, Verdict]:
    return {line.line: line.verdict for line in haproxy.read(text, file="test.cfg").lines}


def mistakes(text: str) -> list[tuple[int | None, str]]:
    with pytest.raises(ConfigError) as caught:
        haproxy.read(text, file="test.cfg")
    return [(mistake.line, mistake.message) for mistake in caught.value.mistakes]


def test_the_articles_file_loses_nothing() -> None:
    imported = haproxy.read(ARTICLE.read_text(), file=str(ARTICLE))
    assert imported.dropped == ()
    assert {line.line for line in imported.lines} == {1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15, 16, 17}
    assert all(line.note for line in imported.lines if line.verdict is not Verdict.EXACT)
    config = imported.config
    assert config.max_connections == 4096
    assert config.timers == Timers(tcp=50, tcp_fin=120, udp=300)
    (service,) = config.services
    assert (service.name, service.pool, service.scheduler) == ("api", "servers", Scheduler.WRR)
    assert service.binds == (AddressBind(Family.IPV4, 80, 80),)
    assert [(server.name, str(server.address), server.port) for server in service.servers] == [
        ("server1", "10.0.0.1", 80),
        ("server2", "10.0.0.2", 80),
    ]
    assert all(server.forwarding is Forwarding.FULLNAT and server.checks == (Check(),) for server in service.servers)


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_haproxy_accepts_is_read(text: str) -> None:
    imported = haproxy.read(text, file="test.cfg", environ={})
    statements = [number for number, line in enumerate(text.split("\n"), 1) if line.split("#")[0].strip()]
    assert [line.line for line in imported.lines] == statements
    assert all(line.note for line in imported.lines if line.verdict is not Verdict.EXACT)


@pytest.mark.parametrize("text", REFUSED)
def test_what_haproxy_refuses_is_a_mistake_with_its_line(text: str) -> None:
    assert all(line for line, _ in mistakes(text))


@pytest.mark.haproxy
@pytest.mark.parametrize(("text", "valid"), [(text, True) for text in ACCEPTED] + [(text, False) for text in REFUSED])
def test_the_real_haproxy_says_the_same(text: str, valid: bool, tmp_path: Path) -> None:
    said, why = accepted(text, tmp_path)
    assert said is valid, why


@pytest.mark.haproxy
def test_words_are_cut_as_haproxy_cuts_them(tmp_path: Path) -> None:
    """HAProxy names the first word of a line that it does not know: compared on random lines."""
    chance, environ = random.Random(7), {"A": "one", "E": ""}
    file = tmp_path / "words.cfg"
    for _ in range(60):
        line = "zz" + "".join(chance.choice("ab \\'\"$#{}A-x4n_") for _ in range(chance.randint(1, 9)))
        file.write_text(f"global\n {line}\n")
        run = subprocess.run(
            ["/usr/sbin/haproxy", "-c", "-f", file],
            capture_output=True,
            text=True,
            env=environ,
            timeout=30,
            check=False,
        )
        try:
            ours = words(line, environ)[0]
        except Refused:
            assert "unknown keyword" not in run.stderr, line
        else:
            assert f"unknown keyword '{ours}' in 'global' section" in run.stderr, line


def test_defaults_are_handed_down_and_overridden() -> None:
    config = read(
        "defaults base\n timeout client 10s\n balance leastconn\n default-server inter 5s fall 1\n"
        "defaults\n balance source\n"
        "listen a from base\n bind :80\n server s 10.0.0.1:80 check\n server t 10.0.0.2:80 check inter 1s\n"
        "listen b\n bind :81\n server s 10.0.0.1:80 check\n"
    )
    a, b = config.services
    assert (a.scheduler, b.scheduler) == (Scheduler.WLC, Scheduler.SH)
    assert [server.checks for server in a.servers] == [(Check(interval=5, fall=1),), (Check(interval=1, fall=1),)]
    assert b.servers[0].checks == (Check(),)


def test_environment_and_setenv_reach_later_lines() -> None:
    text = 'global\n setenv A 10.0.0.1\nlisten l\n bind ":${PORT-80}"\n server s "$A:${P}"\n'
    config = haproxy.read(text, file="test.cfg", environ={"P": "8080"}).config
    assert config.services[0].binds == (AddressBind(Family.IPV4, 80, 80),)
    assert (config.services[0].servers[0].address, config.services[0].servers[0].port) == (
        IPv4Address("10.0.0.1"),
        8080,
    )


def test_names_are_resolved_by_the_caller_only() -> None:
    def resolve(name: str) -> list[IPAddress]:
        return {"web": [ip_address("10.0.0.1"), ip_address("10.0.0.2")]}[name]

    text = "listen l\n bind :80\n server-template w 3 web:80 check\n"
    assert [(s.name, str(s.address)) for s in read(text, resolve=resolve).services[0].servers] == [
        ("w1", "10.0.0.1"),
        ("w2", "10.0.0.2"),
    ]
    ((line, message),) = set(mistakes(text))
    assert (line, "names are not resolved" in message) == (3, True)


@pytest.mark.parametrize(
    ("line", "scheduler"),
    [
        ("balance roundrobin", Scheduler.WRR),
        ("balance static-rr", Scheduler.WRR),
        ("balance leastconn", Scheduler.WLC),
        ("balance source", Scheduler.SH),
        ("balance source\n hash-type consistent", Scheduler.MH),
        ("balance first", Scheduler.FO),
        ("balance random", Scheduler.WLC),
    ],
)
def test_algorithms_have_their_scheduler(line: str, scheduler: Scheduler) -> None:
    assert read(f"listen l\n bind :80\n {line}\n server s 10.0.0.1:80\n").services[0].scheduler is scheduler


@pytest.mark.parametrize(
    "line",
    [
        "acl a path /x",
        "http-request deny",
        "cookie S insert",
        "compression algo gzip",
        "bind :443 ssl crt /x.pem",
        "bind /run/x.sock",
        "option forwardfor",
        "balance uri",
        "stats enable",
        "use_backend l if TRUE",
        "server t 10.0.0.2:80 send-proxy",
        "server t 10.0.0.2:443 ssl verify none",
        "server t /run/x.sock",
        "http-check disable-on-404",
        "timeout http-request 5s",
        "bind [::]:80",
    ],
)
def test_what_layer_4_cannot_do_is_dropped_with_a_word(line: str) -> None:
    imported = haproxy.read(f"listen l\n bind :80\n server s 10.0.0.1:80\n {line}\n", file="test.cfg")
    assert [(dropped.line, bool(dropped.note)) for dropped in imported.dropped] == [(4, True)]
    assert [server.name for server in imported.config.services[0].servers] == ["s"]
    assert imported.config.services[0].binds == (AddressBind(Family.IPV4, 80, 80),)


def test_the_longest_idle_time_counts_and_a_shorter_one_of_another_service_is_dropped() -> None:
    text = (
        "listen a\n bind :80\n timeout client 10s\n timeout server 20s\n timeout connect 1s\n server s 10.0.0.1:80\n"
        "listen b\n bind :81\n timeout client 1m\n timeout server 1m\n timeout connect 1s\n server s 10.0.0.1:80\n"
    )
    assert read(text).timers == Timers(tcp=60, tcp_fin=120, udp=300)
    assert {line for line, verdict in verdicts(text).items() if verdict is Verdict.DROPPED} == {3, 4}


def test_all_mistakes_come_at_once() -> None:
    lines = [line for line, _ in mistakes("listen l\n bind :99999\n server a\n bogus\n balance nope\n")]
    assert lines == [2, 3, 4, 5]


# --- what is exact returns

NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True)
MILLISECONDS = st.integers(1, 100_000).map(lambda number: number / 1000)
V4 = st.integers(0x0A000001, 0x0AFFFFFE).map(IPv4Address)
V6 = st.integers(1, 2**32).map(lambda number: IPv6Address((0x20010DB8 << 96) + number))
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)
PATHS = st.from_regex(r"/[a-zA-Z0-9/_.$\"'#-]{0,12}", fullmatch=True)
HTTP = st.builds(
    HttpProbe,
    method=st.sampled_from(["GET", "HEAD", "OPTIONS"]),
    path=PATHS,
    host=st.none() | st.just("www.example.org"),
    status=st.sampled_from(
        [HttpProbe().status, (StatusRange(first=200, last=200), StatusRange(first=301, last=302))],
    ),
)
STEPS = st.lists(
    st.builds(Send, data=st.binary(min_size=1, max_size=9))
    | st.builds(Expect, match=st.builds(Match, text=st.binary(min_size=1, max_size=9), negate=st.booleans())),
    min_size=1,
    max_size=4,
).map(lambda steps: TcpProbe(steps=tuple(steps)))
PROBES = st.just(TcpProbe()) | HTTP | STEPS | st.just(SmtpProbe(helo="example.org"))


@st.composite
def services(draw: st.DrawFn, number: int) -> Service:
    v6, probe, forwarding = (
        draw(st.booleans()),
        draw(PROBES),
        draw(st.sampled_from([Forwarding.NAT, Forwarding.FULLNAT])),
    )
    check = st.builds(
        Check,
        probe=st.just(probe),
        interval=MILLISECONDS,
        rise=st.integers(1, 9),
        fall=st.integers(1, 9),
        fast_interval=st.none() | MILLISECONDS,
        down_interval=st.none() | MILLISECONDS,
        port=st.none() | st.integers(1, 65535),
        address=st.none() | V4,
    )
    agents = st.none() | st.builds(
        Check,
        probe=st.builds(AgentProbe, send=st.sampled_from([b"", b"how are you\n"])),
        interval=MILLISECONDS,
        rise=st.just(1),
        fall=st.just(1),
        port=st.integers(1, 65535),
    )
    servers = st.builds(
        Server,
        name=NAMES,
        address=V6 if v6 else V4,
        port=st.integers(1, 65535),
        weight=st.integers(0, 256),
        forwarding=st.just(forwarding),
        max_connections=st.integers(0, 9000),
        backup=st.booleans(),
        disabled=st.booleans(),
        slow_start=st.integers(0, 90).map(float),
        checks=st.lists(check, max_size=1).map(tuple),
        agent=agents,
    )
    scheduler = draw(st.sampled_from([Scheduler.WRR, Scheduler.WLC, Scheduler.SH, Scheduler.MH]))
    hashed = scheduler in (Scheduler.SH, Scheduler.MH)
    return Service(
        name=f"s{number}.{draw(NAMES)}",
        pool=draw(st.none() | st.just(f"pool{number}")),
        binds=(
            AddressBind(
                Family.IPV6 if v6 else Family.IPV4, 1000 + number * 10, 1000 + number * 10 + draw(st.integers(0, 9))
            ),
        ),
        scheduler=scheduler,
        flags=frozenset({SchedulerFlag.FALLBACK}) if hashed else frozenset(),
        persistence=draw(
            st.none() | st.builds(Persistence, timeout=st.integers(1, 9999), prefix=st.just(128 if v6 else 32))
        ),
        max_connections=draw(st.none() | st.integers(1, 9999)),
        servers=tuple(draw(st.lists(servers, min_size=1, max_size=4, unique_by=lambda server: server.name))),
        all_backups=draw(st.booleans()),
    )


@st.composite
def configs(draw: st.DrawFn) -> Config:
    return Config(
        services=tuple(draw(services(number)) for number in range(draw(st.integers(1, 3)))),
        max_connections=draw(st.none() | st.integers(1, 99999)),
        timers=draw(
            st.none() | st.builds(Timers, tcp=st.integers(1, 9999), tcp_fin=st.integers(1, 999), udp=st.just(300))
        ),
        addresses=Addresses(),
    )


@settings(max_examples=60, deadline=None)
@given(configs())
def test_what_haproxy_can_say_returns_as_it_was(config: Config) -> None:
    text = haproxy.write(config)
    assert read(text) == config, text


@pytest.mark.haproxy
@settings(max_examples=15, deadline=None)
@given(configs())
def test_the_real_haproxy_accepts_what_is_written(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    text = haproxy.write(config)
    said, why = accepted(text, tmp_path_factory.mktemp("written"))
    assert said, why + text


SEVERAL = (Check(probe=FileProbe(path="/run/w")), Check(probe=HttpProbe(path="/a")), Check(port=9090))


def checked_by(checks: tuple[Check, ...]) -> str:
    server = Server(name="s", address=IPv4Address("10.0.0.1"), port=80, checks=checks)
    service = Service(name="web", binds=(AddressBind(IPv4Address("192.0.2.1"), 80, 80),), servers=(server,))
    return haproxy.write(Config(services=(service,)))


@pytest.mark.haproxy
def test_of_several_checks_the_first_that_haproxy_has_is_written_and_the_others_are_named(tmp_path: Path) -> None:
    text = checked_by(SEVERAL)
    assert "# not said of web: HAProxy makes one check of a server, and not file /run/w, tcp port 9090\n" in text
    without = [line for line in text.splitlines() if "makes one check" not in line]
    assert without == checked_by(SEVERAL[1:2]).splitlines()
    said, why = accepted(text, tmp_path)
    assert said, why


def test_source_ports_are_named_as_what_haproxy_has_only_server_by_server() -> None:
    text = haproxy.write(Config(addresses=Addresses(source_ports=PortRange(1024, 16383))))
    assert "# not said: source ports 1024-16383\n" in text


# --- no input is a traceback

SCRAPS = sorted({word for text in (*ACCEPTED, *REFUSED) for word in text.replace("\n", " \n ").split(" ")})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*SCRAPS, "\n", "\n", "listen l\n"]) | TEXT, max_size=40))
def test_scraps_of_configuration_are_read_or_refused(scraps: list[str]) -> None:
    with suppress(ConfigError):
        read(" ".join(scraps))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ConfigError):
        read(text)
