"""keepalived.conf: virtual servers in and out, VRRP named as what stays, the real keepalived takes what is written."""

import subprocess
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernlb import config as native
from kernlb.checks.spec import (
    Check,
    CommandProbe,
    DnsProbe,
    Exit,
    FileProbe,
    HttpProbe,
    Match,
    PingProbe,
    SmtpProbe,
    Start,
    StatusRange,
    TcpProbe,
    TlsOptions,
    UdpProbe,
)
from kernlb.config.values import AddressBind, Config, MarkBind, OnFailure, Server, Service
from kernlb.errors import ConfigError
from kernlb.formats import haproxy, keepalived
from kernlb.formats.keepalived.written import Names, checkers
from kernlb.formats.report import Line, Verdict
from kernlb.model import (
    Family,
    Forwarding,
    Persistence,
    Protocol,
    Scheduler,
    SchedulerFlag,
    Timers,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
)

SAMPLE = Path(__file__).parents[1] / "data" / "keepalived.conf"
EVERYTHING = SAMPLE.with_name("everything.toml")
ARTICLE = SAMPLE.with_name("haproxy.cfg")


def accepted(text: str, tmp_path: Path) -> str:
    """What the real keepalived has to say against a file; empty where it takes it."""
    file, log = tmp_path / "keepalived.conf", tmp_path / "log"
    file.write_text(text)
    command = ["keepalived", f"--config-test={log}", "-f", file]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    said = (log.read_text() if log.exists() else "") + run.stderr
    return "" if run.returncode == 0 else f"exit {run.returncode}: {said}"


def test_the_sample_says_what_it_means() -> None:
    config = keepalived.read(SAMPLE.read_text(), file="sample").config
    web, dns, mail = config.services
    assert config.timers == Timers(tcp=600, tcp_fin=60, udp=120)
    assert (web.name, dns.name, mail.name) == ("web", "udp-2001:db8::10-53", "fwmark-9")
    assert web.binds == (
        *(AddressBind(IPv4Address(f"192.0.2.{last}"), 80, 80) for last in (10, 20, 21)),
        MarkBind(Family.IPV4, 7),
    )
    assert (web.quorum, web.hysteresis, web.on_failure) == (2, 1, OnFailure.QUIESCE)
    assert web.persistence == Persistence(60, 24)
    assert web.sorry_server is not None
    assert not web.sorry_server.checks
    one, two = web.servers
    ok = (StatusRange(first=200, last=200),)
    assert (str(one.address), one.port, one.weight, one.forwarding) == ("10.1.0.1", 8080, 3, Forwarding.NAT)
    page = HttpProbe(path="/healthz", status=ok, host="www.example.org")
    connect = Check(interval=6, timeout=5, rise=1, fall=2, fast_interval=1, port=9090)
    assert one.checks == (
        Check(probe=page, interval=6, timeout=3, rise=1, fall=3, fast_interval=1),
        connect,
        Check(probe=FileProbe(path="/run/load", adjust=-1), rise=1, fall=1),
    )
    assert two.checks == (connect,)
    assert (dns.protocol, dns.one_packet, dns.flags) == (Protocol.UDP, True, frozenset({SchedulerFlag.PORT}))
    assert [check.probe for server in dns.servers for check in server.checks] == [
        DnsProbe(name="example.org", record_type="A"),
        CommandProbe(argv=("/usr/bin/env", "test", "-e", "/run/a b"), exit=Exit.WEIGHT, user="root"),
        UdpProbe(payload=b"\1\2", require_reply=True, match=Match(text=b"\3")),
    ]
    assert {server.tunnel for server in mail.servers} == {Tunnel(TunnelKind.GUE, 6080, TunnelChecksum.CHECKSUM)}
    assert [check.probe for server in mail.servers for check in server.checks] == [SmtpProbe(helo="lb1"), PingProbe()]


def of_server(
    block: str, *, globals: str = "", users: tuple[str, ...] = ()
) -> tuple[tuple[Check, ...], dict[str, Line]]:
    """The checks that checkers of one real server make, and what became of each line, by its text."""
    service = f"virtual_server 192.0.2.1 25 {{\nprotocol TCP\nreal_server 10.0.0.1 25 {{\n{block}}}\n}}\n"
    found = keepalived.read(f"global_defs {{\n{globals}}}\n{service}", file="x", known=users.__contains__)
    return found.config.services[0].servers[0].checks, {line.text: line for line in found.lines}


@pytest.mark.parametrize(
    ("globals", "own", "users", "user"),
    [
        ("script_user nobody\n", "", (), "nobody"),
        ("script_user nobody\n", "", ("keepalived_script",), "nobody"),
        ("script_user nobody\n", "user daemon\n", (), "daemon"),
        ("", "", ("keepalived_script",), "keepalived_script"),
        ("", "", (), None),
    ],
)
def test_a_script_runs_as_the_user_that_keepalived_runs_it_as(
    globals: str, own: str, users: tuple[str, ...], user: str | None
) -> None:
    (check,), lines = of_server(f"MISC_CHECK {{\nmisc_path /bin/true\n{own}}}\n", globals=globals, users=users)
    assert check.probe == CommandProbe(argv=("/bin/true",), user=user)
    assert ("runs as" in lines["misc_path /bin/true"].note) == (not globals and not own)


def test_a_group_of_its_own_for_scripts_is_said_to_be_another() -> None:
    _, lines = of_server("MISC_CHECK {\nmisc_path /bin/true\nuser nobody adm\n}\n", globals="script_user root adm\n")
    assert {lines[text].verdict for text in ("script_user root adm", "user nobody adm")} == {Verdict.APPROXIMATED}


def test_a_byte_that_keepalived_does_not_read_is_told_and_not_written() -> None:
    check = Check(probe=UdpProbe(payload=b"\x0a\xff", match=Match(text=b"\xff")))
    written = list(checkers([check], IPv4Address("10.0.0.1"), Names({}, {})))
    assert any("not said: what is sent" in line for line in written)
    assert not any(line.strip().startswith("payload") for line in written)
    assert "require_reply" in [line.strip() for line in written]


def test_what_global_defs_ask_of_keepalived_and_kernlb_does_not_do_is_not_exact() -> None:
    said = {
        "smtp_alert": Verdict.DROPPED,
        "smtp_alert_checker on": Verdict.DROPPED,
        "smtp_alert_checker off": Verdict.EXACT,
        "smtp_alert_vrrp on": Verdict.EXACT,
        "smtp_server 127.0.0.1": Verdict.APPROXIMATED,
        "notification_email_from a@example.org": Verdict.APPROXIMATED,
        "lvs_notify_fifo /run/f": Verdict.DROPPED,
        "enable_script_security": Verdict.APPROXIMATED,
        "router_id a": Verdict.EXACT,
        "checker_priority 1": Verdict.EXACT,
    }
    _, lines = of_server("", globals="\n".join([*said, ""]))
    assert {text: lines[text].verdict for text in said} == said


def test_vrrp_is_dropped_with_the_companion_to_use() -> None:
    lines = keepalived.read(SAMPLE.read_text(), file="sample").lines
    dropped = {line.text.split()[0]: line.note for line in lines if line.verdict is Verdict.DROPPED}
    assert set(dropped) == {
        "vrrp_instance",
        "state",
        "interface",
        "virtual_router_id",
        "priority",
        "virtual_ipaddress",
        "192.0.2.10",
        "notify_down",
    }
    assert "render keepalived.conf" in dropped["vrrp_instance"]


def test_a_virtual_server_without_a_protocol_is_of_udp_as_the_real_keepalived_says() -> None:
    found = keepalived.read("virtual_server 192.0.2.1 53 {\n}\nvirtual_server fwmark 7 {\n}\n", file="x")
    assert [(each.name, each.protocol) for each in found.config.services] == [
        ("udp-192.0.2.1-53", Protocol.UDP),
        ("fwmark-7", Protocol.TCP),
    ]
    assert "UDP" in found.lines[0].note


@pytest.mark.keepalived
def test_the_real_keepalived_takes_udp_where_no_protocol_is_said(tmp_path: Path) -> None:
    text = "virtual_server 192.0.2.1 53 {\nlvs_sched rr\nlvs_method NAT\nreal_server 10.0.0.1 53 {\n}\n}\n"
    assert "defaulting to UDP" in accepted(text, tmp_path)


def test_lines_of_another_config_id_do_not_count() -> None:
    text = "virtual_server 192.0.2.1 80 {\n@a lvs_sched rr\n@^a lvs_sched sh\n}\n"
    assert keepalived.read(text, file="x", config_id="a").config.services[0].scheduler is Scheduler.RR
    assert keepalived.read(text, file="x").config.services[0].scheduler is Scheduler.SH


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("bogus 1\n", 1),
        ("virtual_server 192.0.2.1 80 {\n", 1),
        ("}\n", 1),
        ("virtual_server 192.0.2.1 80 {\n bogus\n}\n", 2),
        ("virtual_server 192.0.2.1 99999 {\n}\n", 1),
        ("virtual_server group nope {\n}\n", 1),
        ("virtual_server 192.0.2.1 80 {\n lvs_sched nope\n}\n", 2),
        ("virtual_server 192.0.2.1 80 {\n real_server nope 80 {\n }\n}\n", 2),
        ("virtual_server 192.0.2.1 80 {\n real_server 10.0.0.1 80 {\n TCP_CHECK {\n bogus 1\n }\n }\n}\n", 4),
    ],
)
def test_what_cannot_be_read_is_a_mistake_with_its_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        keepalived.read(text, file="x")
    assert line in [mistake.line for mistake in caught.value.mistakes]


@pytest.mark.keepalived
def test_the_real_keepalived_takes_the_sample_and_the_articles_file(tmp_path: Path) -> None:
    assert accepted(SAMPLE.read_text(), tmp_path) == ""
    sample = keepalived.read(SAMPLE.read_text(), file="sample").config
    assert accepted(keepalived.write(sample), tmp_path) == ""
    article = haproxy.read(ARTICLE.read_text(), file="article").config
    assert "wildcard" in keepalived.write(article)
    assert accepted(keepalived.write(article) + "global_defs {\n}\n", tmp_path) == ""


def test_a_quorum_of_both_families_is_within_reach_of_each_that_is_written() -> None:
    """Its servers become those of two virtual servers."""
    text = keepalived.write(native.load(EVERYTHING.read_text(), "everything.toml"))
    assert text.count("# not said: a quorum of 2 of all its servers, and its hysteresis of 1") == 2
    assert native.mistakes(keepalived.read(text, file="written").config) == ()


# --- what is exact returns

SECONDS = st.integers(1, 60_000).map(lambda number: number / 1000)
V4 = st.integers(0x0A000001, 0x0AFFFFFE).map(IPv4Address)
V6 = st.integers(1, 2**32).map(lambda number: IPv6Address((0x20010DB8 << 96) + number))
PATHS = st.from_regex(r"/[a-z0-9/_.?=&-]{0,12}", fullmatch=True)
RANGES = st.just((StatusRange(first=200, last=299),)) | st.just((StatusRange(first=200, last=200),))
HOSTS = st.none() | st.just("www.example.org")
PROBES = st.one_of(
    st.just(TcpProbe()),
    st.just(PingProbe()),
    st.just(SmtpProbe(helo="example.org")),
    st.builds(DnsProbe, name=st.just("example.org"), record_type=st.sampled_from(["A", "SOA"])),
    st.builds(HttpProbe, path=PATHS, status=RANGES, host=HOSTS, match=st.none() | st.just(Match(pattern="^ok$"))),
    st.builds(HttpProbe, path=PATHS, status=RANGES, host=HOSTS, tls=st.just(TlsOptions(verify=False))),
    st.builds(FileProbe, path=st.just("/run/load") | st.just("/run/a b"), adjust=st.integers(-9, 9)),
    st.builds(UdpProbe, payload=st.lists(st.integers(0, 254), max_size=4).map(bytes), require_reply=st.booleans()),
)
METHODS = st.sampled_from(
    [
        (Forwarding.NAT, None),
        (Forwarding.DIRECT, None),
        (Forwarding.TUNNEL, Tunnel()),
        (Forwarding.TUNNEL, Tunnel(TunnelKind.GUE, 6080, TunnelChecksum.REMOTE)),
        (Forwarding.TUNNEL, Tunnel(TunnelKind.GRE, 0, TunnelChecksum.CHECKSUM)),
    ]
)


def said(check: Check) -> Check:
    """As keepalived says it: it is told of each change of a file, which has no pace."""
    if isinstance(check.probe, FileProbe):
        return Check(probe=check.probe, rise=1, fall=1)
    return replace(check, fast_interval=None) if check.fast_interval == check.interval else check


@st.composite
def services(draw: st.DrawFn, number: int) -> Service:
    v6 = draw(st.booleans())
    addresses = V6 if v6 else V4
    check = st.builds(
        Check,
        probe=PROBES,
        interval=SECONDS,
        timeout=SECONDS,
        rise=st.just(1),
        fall=st.integers(1, 9),
        fast_interval=st.none() | SECONDS,
        start=st.sampled_from([Start.LAST, Start.DOWN]),
        port=st.none() | st.integers(1, 65535),
        mark=st.none() | st.integers(1, 9),
    )
    port, quorum = draw(st.integers(1, 65535)), draw(st.integers(1, 3))
    vip = IPv6Address((0x20010DB9 << 96) + number) if v6 else IPv4Address((192 << 24) + number)

    def canonical(server: Server, method: tuple[Forwarding, Tunnel | None]) -> Server:
        checks = tuple(map(said, server.checks))
        name = f"{server.address}-{server.port}"
        return replace(server, name=name, forwarding=method[0], tunnel=method[1], checks=checks)

    servers = st.builds(
        Server,
        name=st.just(""),
        address=addresses,
        port=st.just(port),
        weight=st.integers(5, 65535),  # any quorum, with its hysteresis, is within reach
        max_connections=st.integers(0, 65535),
        checks=st.lists(check, max_size=3).map(tuple),
    )
    pool = draw(
        st.lists(
            st.builds(canonical, servers, METHODS), min_size=1, max_size=3, unique_by=lambda server: server.address
        )
    )
    return Service(
        name=f"{Protocol.TCP}-{vip}-{port}",
        binds=(AddressBind(vip, port, port),),
        scheduler=draw(st.sampled_from([Scheduler.WRR, Scheduler.WLC, Scheduler.SH, Scheduler.MH])),
        flags=frozenset({SchedulerFlag.FALLBACK}) if draw(st.booleans()) else frozenset(),
        persistence=draw(st.none() | st.builds(Persistence, st.integers(1, 9999), st.integers(8, 128 if v6 else 32))),
        servers=tuple(pool),
        quorum=quorum,
        hysteresis=draw(st.integers(0, quorum - 1)),
        on_failure=draw(st.sampled_from(OnFailure)),
    )


@st.composite
def configs(draw: st.DrawFn) -> Config:
    return Config(services=tuple(draw(services(number)) for number in range(1, draw(st.integers(1, 3)) + 1)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs())
def test_what_keepalived_can_say_returns_as_it_was(config: Config) -> None:
    text = keepalived.write(config)
    returned = keepalived.read(text, file="written").config
    assert returned == config, text


@pytest.mark.keepalived
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs())
def test_the_real_keepalived_takes_what_is_written(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    text = keepalived.write(config)
    assert accepted(text, tmp_path_factory.mktemp("written")) == "", text


SCRAPS = sorted(set(SAMPLE.read_text().replace("\n", " \n ").split(" ")))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*SCRAPS, "{", "}", "\n"]) | st.text(max_size=6), max_size=60))
def test_scraps_of_configuration_are_read_or_refused(scraps: list[str]) -> None:
    with suppress(ConfigError):
        keepalived.read(" ".join(scraps), file="scraps")
