"""All checkers of a real server of keepalived.conf, in and out, as keepalived's own sources have them."""

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernlb.checks.spec import (
    AgentProbe,
    BfdProbe,
    Check,
    CommandProbe,
    Exit,
    FileProbe,
    HttpProbe,
    PingProbe,
    SmtpProbe,
    Start,
    TcpProbe,
)
from kernlb.config.values import AddressBind, Config, Server, Service
from kernlb.errors import ConfigError
from kernlb.formats import keepalived
from kernlb.formats.keepalived.written import Names, checkers, track_files
from kernlb.formats.report import Line, Verdict
from tests.formats.test_keepalived import accepted, of_server


def text(checkers: str, *, root: str = "", service: str = "") -> str:
    return (
        f"{root}virtual_server 192.0.2.1 25 {{\nlvs_sched wrr\nlvs_method NAT\nprotocol TCP\n{service}"
        f"real_server 10.0.0.1 25 {{\nweight 5\n{checkers}}}\n}}\n"
    )


def read(checkers: str, **around: str) -> tuple[tuple[Check, ...], dict[str, Line]]:
    found = keepalived.read(text(checkers, **around), file="x")
    return found.config.services[0].servers[0].checks, {line.text: line for line in found.lines}


def test_every_checker_of_a_real_server_is_a_check() -> None:
    checks, lines = of_server("PING_CHECK {\n}\nTCP_CHECK {\nconnect_port 9\n}\nTCP_CHECK {\nconnect_port 10\n}\n")
    assert [(check.probe, check.port) for check in checks] == [(PingProbe(), None), (TcpProbe(), 9), (TcpProbe(), 10)]
    assert {line.verdict for line in lines.values()} == {Verdict.EXACT}


def test_each_url_is_a_check_with_the_pace_of_all() -> None:
    urls = "url {\npath /a\n}\nurl {\npath /b\nstatus_code 204\nregex ok\n}\n"
    (one, other), lines = of_server(f"HTTP_GET {{\n{urls}retry 2\ndelay_loop 7\nvirtualhost v\nconnect_port 81\n}}\n")
    assert isinstance(one.probe, HttpProbe)
    assert isinstance(other.probe, HttpProbe)
    assert (one.probe.path, other.probe.path, other.probe.host) == ("/a", "/b", "v")
    assert [(c.interval, c.fall, c.port) for c in (one, other)] == [(7, 3, 81)] * 2
    assert lines["path /b"].verdict is Verdict.EXACT
    assert lines["url {"].verdict is Verdict.APPROXIMATED


HOSTS = (
    "host {\nconnect_ip 10.0.0.9\nconnect_port 2525\nconnect_timeout 2\nretry 3\n}\nhost {\nconnect_ip 10.0.0.10\n}\n"
)


@pytest.mark.parametrize(
    ("own", "targets"),
    [
        ("", [("10.0.0.9", 2525, 2), ("10.0.0.10", None, 9)]),
        ("connect_timeout 4\n", [(None, None, 4), ("10.0.0.9", 2525, 2), ("10.0.0.10", None, 9)]),
        ("connect_port 26\n", [(None, 26, 9), ("10.0.0.9", 2525, 2), ("10.0.0.10", None, 9)]),
    ],
)
def test_each_host_of_a_mail_checker_is_a_check_and_so_is_the_checker_where_it_names_a_target(
    own: str, targets: list[tuple[str | None, int | None, float]]
) -> None:
    """keepalived/check/check_smtp.c, smtp_check_end_handler"""
    checks, lines = read(f"SMTP_CHECK {{\nhelo_name a\nretry 1\n{own}{HOSTS}}}\n", service="connect_timeout 9\n")
    assert [(c.address and str(c.address), c.port, c.timeout) for c in checks] == targets
    assert {(c.probe, c.fall) for c in checks} == {(SmtpProbe(helo="a"), 4)}
    assert lines["connect_ip 10.0.0.10"].verdict is Verdict.EXACT


def test_what_several_scripts_set_is_said_to_count_otherwise() -> None:
    script = "MISC_CHECK {\nmisc_path /bin/true\nmisc_dynamic\n}\n"
    (check,), lines = of_server(script, users=("keepalived_script",))
    assert check.probe == CommandProbe(argv=("/bin/true",), exit=Exit.WEIGHT, user="keepalived_script")
    assert lines["misc_dynamic"].verdict is Verdict.EXACT
    checks, lines = of_server(script * 2)
    assert len(checks) == 2
    assert "smallest counts" in lines["misc_dynamic"].note


# --- track files


@pytest.mark.parametrize(
    ("block", "own", "adjust"),
    [
        ("", "", 1),
        ("weight 3\n", "", 3),
        ("weight 3 reverse\n", "", -3),
        ("weight 3 reverse\n", "weight 7\n", 7),
        ("", "weight -7 reverse\n", 7),
        ("", "weight -2147483647 noreverse\n", -2147483647),
        ("weight 0\n", "", 0),
    ],
)
def test_a_file_check_adds_the_number_in_its_file_to_the_weight(block: str, own: str, adjust: int) -> None:
    """keepalived/trackers/track_file.c, keepalived/check/check_file.c"""
    root = f'track_file f {{\nfile "/run/a b"\ninit_file\n{block}}}\n'
    checks, lines = read(f"PING_CHECK {{\n}}\nFILE_CHECK {{\ntrack_file f\n{own}}}\n", root=root)
    assert [check.probe for check in checks] == [PingProbe(), FileProbe(path="/run/a b", adjust=adjust)]
    assert (checks[1].rise, checks[1].fall) == (1, 1)
    assert lines["FILE_CHECK {"].verdict is Verdict.APPROXIMATED
    assert "every 2 s" in lines["FILE_CHECK {"].note
    assert {lines[each].verdict for each in ("track_file f", 'file "/run/a b"', "init_file")} == {Verdict.EXACT}


def test_what_a_track_file_asks_that_no_check_can_do_is_dropped_with_a_word() -> None:
    check = "FILE_CHECK {\ntrack_file f\n}\n"
    checks, lines = read(check, root="track_file f {\nfile /run/f\ninit_file 5 overwrite\n}\n")
    assert len(checks) == 1
    assert lines["init_file 5 overwrite"].verdict is Verdict.DROPPED
    checks, lines = read(check, root="track_file f {\nfile /run/f\nweight 0 reverse\n}\n")
    assert checks == ()
    assert {lines[each].verdict for each in ("FILE_CHECK {", "track_file f")} == {Verdict.DROPPED}
    assert "always count as up" in lines["FILE_CHECK {"].note


def test_a_track_file_of_vrrp_alone_stays_with_vrrp() -> None:
    _, lines = read("", root="vrrp_track_file f {\nfile /run/f\n}\n")
    assert lines["file /run/f"].verdict is Verdict.DROPPED
    assert "VRRP" in lines["file /run/f"].note


@pytest.mark.parametrize(
    ("checkers", "said"),
    [
        ("FILE_CHECK {\ntrack_file g\n}\n", "no track_file 'g'"),
        ("FILE_CHECK {\n}\n", "expects track_file"),
        ("FILE_CHECK {\ntrack_file f\nweight 1 up\n}\n", "unknown word 'up'"),
        ("FILE_CHECK {\ntrack_file f\nweight 2147483648\n}\n", "takes a number"),
        ("FILE_CHECK {\ntrack_file f\ndynamic\n}\n", "unknown keyword 'dynamic'"),
        ("SMTP_CHECK {\nhost {\nhelo_name a\n}\n}\n", "unknown keyword 'helo_name'"),
        ("HTTP_GET {\nurl {\npath /\n}\nurl {\nbogus 1\n}\n}\n", "unknown keyword 'bogus'"),
        ("BFD_CHECK {\n}\n", "expects name"),
        ("BFD_CHECK {\nname c\n}\n", "no bfd_instance 'c'"),
        ("BFD_CHECK {\nname b\ndelay_loop 3\n}\n", "unknown keyword 'delay_loop'"),
        ("BFD_CHECK {\nname b\n}\n" * 2, "stands above already"),
        ("BFD_CHECK {\nname v\n}\n", "for VRRP alone"),
    ],
)
@pytest.mark.keepalived
def test_what_keepalived_refuses_in_a_checker_is_a_mistake(checkers: str, said: str, tmp_path: Path) -> None:
    root = f"track_file f {{\nfile {tmp_path}/f\n}}\n{instance()}{instance('vrrp', name='v', neighbour='10.0.0.2')}"
    with pytest.raises(ConfigError, match="mistake") as caught:
        read(checkers, root=root)
    assert any(said in mistake.message for mistake in caught.value.mistakes)
    assert accepted(text(checkers, root=root), tmp_path) != ""


# --- BFD


def instance(*lines: str, name: str = "b", neighbour: str = "10.0.0.1") -> str:
    return "\n".join((f"bfd_instance {name} {{", f"neighbor_ip {neighbour}", *lines, "}", ""))


def session(*lines: str, check: str = "alpha\n", **named: str) -> tuple[Check, dict[str, Line]]:
    (found,), said = read(f"BFD_CHECK {{\nname b\n{check}}}\n", root=instance(*lines, **named))
    return found, said


def test_a_bfd_check_is_a_session_as_its_instance_has_it() -> None:
    own = ("source_ip 10.0.0.254", "min_rx 50", "min_tx 33.125", "idle_tx 1000", "multiplier 7", "passive", "ttl 255")
    check, lines = session(*own, "max_hops 5", "multihop", "weight 10 reverse", "checker")
    probe = BfdProbe(min_rx=0.05, min_tx=0.033125, multiplier=7, passive=True, multihop=True, min_ttl=250)
    source = IPv4Address("10.0.0.254")
    assert check == Check(probe=probe, rise=1, fall=1, start=Start.DOWN, bind_address=source)
    assert {line.verdict for line in lines.values()} == {Verdict.EXACT}
    assert "VRRP" in lines["weight 10 reverse"].note


@pytest.mark.parametrize(
    ("neighbour", "lines", "lowest"),
    [
        ("10.0.0.1", (), 255),
        ("2001:db8::1", (), 64),
        ("2001:db8::1", ("hoplimit 255",), 255),
        ("10.0.0.1", ("ttl 9", "max_hops 4"), 5),
        ("10.0.0.1", ("max_hops 255",), 1),
        ("10.0.0.1", ("max_hops -1",), 1),
    ],
)
def test_who_may_be_how_far_away_is_as_in_keepalived(neighbour: str, lines: tuple[str, ...], lowest: int) -> None:
    """keepalived/bfd/bfd.c, bfd_check_packet_ttl; bfd_parser.c, bfd_end_handler"""
    check, said = session(*lines, neighbour=neighbour)
    assert check.probe == BfdProbe(min_rx=0.01, min_tx=0.01, multiplier=5, min_ttl=None if lowest == 255 else lowest)
    assert (check.address is None) == (neighbour == "10.0.0.1")
    # kernlb sends 255 whatever stands there.
    other = "ttl 9" if "ttl 9" in lines else "bfd_instance b {"
    sent = 9 if "ttl 9" in lines else 255 if ":" not in neighbour or lines else 64
    assert (said[other].verdict is Verdict.APPROXIMATED) == (sent != 255)


def test_what_kernlb_does_otherwise_than_bfd_of_keepalived_is_said() -> None:
    check, lines = session("idle_tx 2000", check="")
    assert check.start is Start.LAST
    assert lines["BFD_CHECK {"].verdict is lines["idle_tx 2000"].verdict is Verdict.APPROXIMATED
    assert "no session comes up" in lines["BFD_CHECK {"].note


def test_a_bfd_instance_of_vrrp_alone_stays_with_vrrp() -> None:
    _, lines = read("", root=instance("weight 10"))
    assert lines["weight 10"].verdict is Verdict.DROPPED
    assert "VRRP" in lines["weight 10"].note


@pytest.mark.parametrize(
    "line",
    ["min_rx 0", "min_tx x", "min_tx 4294968", "multiplier 256", "ttl 0", "max_hops -2", "source_ip 2001:db8::2"],
)
@pytest.mark.keepalived
def test_what_keepalived_refuses_in_a_bfd_instance_is_a_mistake(line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mistake"):
        session(line)
    assert accepted(text("BFD_CHECK {\nname b\n}\n", root=instance(line)), tmp_path) != ""


SESSIONS = st.builds(
    Check,
    probe=st.builds(
        BfdProbe,
        min_tx=st.integers(1000, 4294967000).map(lambda microseconds: microseconds / 1e6),
        min_rx=st.integers(1000, 4294967000).map(lambda microseconds: microseconds / 1e6),
        multiplier=st.integers(1, 255),
        passive=st.booleans(),
        min_ttl=st.none() | st.integers(1, 254),
    ),
    rise=st.just(1),
    fall=st.just(1),
    start=st.sampled_from([Start.LAST, Start.DOWN]),
    address=st.none() | st.just(IPv4Address("10.0.0.99")),
    bind_address=st.none() | st.just(IPv4Address("10.0.0.254")),
)


def sessions(checks: list[Check]) -> Config:
    """Servers with one session each."""
    servers = [
        Server(name=f"10.0.0.{last}-80", address=IPv4Address(f"10.0.0.{last}"), port=80, checks=(check,))
        for last, check in enumerate(checks, 1)
    ]
    bind = AddressBind(IPv4Address("192.0.2.1"), 80, 80)
    return Config(services=(Service(name="tcp-192.0.2.1-80", binds=(bind,), servers=tuple(servers)),))


@given(st.lists(SESSIONS, min_size=1, max_size=4))
def test_sessions_return_as_they_were(checks: list[Check]) -> None:
    config = sessions(checks)
    assert keepalived.read(keepalived.write(config), file="written").config == config


@pytest.mark.keepalived
@settings(max_examples=8)
@given(st.lists(SESSIONS.map(lambda check: replace(check, address=None)), min_size=1, max_size=3))
def test_the_real_keepalived_takes_sessions(tmp_path_factory: pytest.TempPathFactory, checks: list[Check]) -> None:
    written = keepalived.write(sessions(checks))
    assert accepted(written, tmp_path_factory.mktemp("written")) == "", written


def test_what_a_session_says_beyond_keepalived_is_told() -> None:
    config = sessions([Check(probe=BfdProbe(multihop=True), mark=7)])
    written = [line.strip() for line in keepalived.write(config).splitlines()]
    assert {"multihop", "max_hops 254", "# not said: the interface or mark of its packets"} <= set(written)
    assert any(line.startswith("# not said: fall 3 and rise 2") for line in written)


def test_what_keepalived_has_no_checker_for_is_told_and_so_is_who_is_left_unchecked() -> None:
    def written(*checks: Check) -> list[str]:
        names = Names(track_files(checks), {})
        return [line.strip() for line in checkers(checks, IPv4Address("10.0.0.1"), names)]

    weight, agent = Check(probe=FileProbe(path="/run/w")), Check(probe=AgentProbe(), port=9)
    assert written(weight, agent)[2:] == ["# the server is unchecked here"]
    assert written(weight, Check())[:2] == ["# not said: a check of type file", "TCP_CHECK {"]
    assert "# the server is unchecked here" not in written(weight, Check())
    assert written(Check(probe=FileProbe(path='/run/a"b', adjust=1)))[0] == "# not said: a check of type file"
    assert any("one is believed" in line for line in written(Check(probe=FileProbe(path="/w", adjust=1))))


@pytest.mark.keepalived
def test_the_real_keepalived_takes_several_checkers_urls_hosts_and_track_files(tmp_path: Path) -> None:
    root = f"track_file f {{\nfile {tmp_path}/f\ninit_file 0\nweight 3 reverse\n}}\n"
    urls = "url {\npath /a\n}\nurl {\npath /b\n}\n"
    checkers = (
        f"TCP_CHECK {{\n}}\nHTTP_GET {{\n{urls}}}\nSSL_GET {{\n{urls}}}\nSMTP_CHECK {{\n{HOSTS}}}\n"
        "FILE_CHECK {\ntrack_file f\nweight -2147483647 reverse\n}\nFILE_CHECK {\ntrack_file f\n}\n"
    )
    assert accepted(text(checkers, root=root), tmp_path) == ""
    checks, _ = read(checkers, root=root)
    assert len(checks) == 9
    assert [str(check.address) for check in checks[5:7]] == ["10.0.0.9", "10.0.0.10"]
    assert checks[5].address == IPv4Address("10.0.0.9")
