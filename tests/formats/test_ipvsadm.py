"""Rules of ipvsadm: what is read is written again, and a Table survives the way through text."""

import subprocess
from contextlib import suppress
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernlb.config.values import AddressBind, Config, MarkBind, Server, Service
from kernlb.errors import ConfigError
from kernlb.formats import ipvsadm
from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Forwarding,
    Fwmark,
    Persistence,
    Protocol,
    RealServer,
    Scheduler,
    SchedulerFlag,
    ServerKey,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
    VirtualService,
)

CANONICAL = """\
-A -t 10.0.0.1:80 -s wrr
-a -t 10.0.0.1:80 -r 10.1.0.1:8080 -m -w 1
-a -t 10.0.0.1:80 -r 10.1.0.2:8080 -m -w 0 -x 100 -y 80
-A -u [2001:db8::1]:53 -s mh -p 60 -M 64 -o -b mh-fallback,mh-port
-a -u [2001:db8::1]:53 -r [2001:db8::2]:53 -g -w 3
-A --sctp-service 10.0.0.1:5060 -s rr -p 300 -M 255.255.255.0
-A -f 7 -s sh -b flag-3,sh-port
-a -f 7 -r 10.1.0.1:0 -i -w 1
-a -f 7 -r 10.1.0.2:0 -i --tun-type gue --tun-port 6080 --tun-remcsum -w 1
-a -f 7 -r 10.1.0.3:0 -i --tun-type gre --tun-csum -w 1
-A -f 7 -6 -s wlc
-A -u 10.0.0.1:5060 -s rr -p 300 --pe sip -o
"""


def test_canonical_rules_return_as_they_were() -> None:
    assert ipvsadm.write(ipvsadm.read(CANONICAL, file="rules").config) == CANONICAL
    assert ipvsadm.write_table(ipvsadm.read_table(CANONICAL, file="rules")) == CANONICAL


def test_long_options_and_defaults_are_understood() -> None:
    text = (
        "ipvsadm --add-service --tcp-service 10.0.0.1:80 --persistent\n"
        "--add-server --tcp-service 10.0.0.1:80 --real-server 10.1.0.1 --masquerading\n"
    )
    assert ipvsadm.write_table(ipvsadm.read_table(text, file="rules")) == (
        "-A -t 10.0.0.1:80 -s wlc -p 300\n-a -t 10.0.0.1:80 -r 10.1.0.1:80 -m -w 1\n"
    )


def test_a_service_is_named_after_its_address() -> None:
    names = [service.name for service in ipvsadm.read(CANONICAL, file="rules").config.services]
    assert names == [
        "tcp-10.0.0.1-80",
        "udp-2001:db8::1-53",
        "sctp-10.0.0.1-5060",
        "fwmark-7",
        "fwmark-7-ipv6",
        "udp-10.0.0.1-5060",
    ]


def test_names_need_a_resolver() -> None:
    text = "-A -t web:80 -s rr\n"
    (key,) = ipvsadm.read_table(text, file="rules", resolve=lambda name: [ip_address("10.0.0.1")])
    assert key == Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("10.0.0.1"), 80)
    with pytest.raises(ConfigError):
        ipvsadm.read_table(text, file="rules")


@pytest.mark.parametrize(
    "rule",
    [
        "-A",
        "-D -t 10.0.0.1:80",
        "-A -t 10.0.0.1:80 -u 10.0.0.1:80",
        "-A -t 10.0.0.1:80 -s bogus",
        "-A -t 10.0.0.1:99999 -s rr",
        "-A -t 10.0.0.1:http -s rr",
        "-A -t 10.0.0.1:80 -s rr -b sh-port",
        "-A -t 10.0.0.1:80 -s rr --bogus",
        "-A -f 0 -s rr",
        "-A -t 10.0.0.1:80 -p 60 -M 255.0.255.0",
        "-a -t 10.0.0.1:81 -r 10.1.0.1:80 -m",
        "-a -t 10.0.0.1:80 -m",
        "-a -t 10.0.0.1:80 -r 10.1.0.1:80 -m -g",
        "-a -t 10.0.0.1:80 -r 10.1.0.1:80 -m --tun-type gre",
        "-a -t 10.0.0.1:80 -r 10.1.0.1:80 -i --tun-type gue",
        "-a -t 10.0.0.1:80 -r 10.1.0.1:80 -m -w x",
        "-A -t 10.0.0.1:80 -s rr",
    ],
)
def test_what_is_no_rule_is_a_mistake_with_its_line(rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ipvsadm.read(f"-A -t 10.0.0.1:80 -s rr\n{rule}\n", file="rules")
    assert [mistake.line for mistake in caught.value.mistakes] == [2]


ADDRESSES = {
    Family.IPV4: st.integers(1, 2**32 - 2).map(IPv4Address),
    Family.IPV6: st.ip_addresses(v=6),
}
TUNNELS = st.sampled_from(
    [
        Tunnel(),
        Tunnel(TunnelKind.GUE, 6080),
        Tunnel(TunnelKind.GUE, 1, TunnelChecksum.REMOTE),
        Tunnel(TunnelKind.GRE, 0, TunnelChecksum.CHECKSUM),
    ]
)
LIMITS = st.integers(0, 65535)
REALS = st.one_of(
    st.builds(
        RealServer, st.sampled_from([Forwarding.NAT, Forwarding.DIRECT]), st.integers(0, 2**31 - 1), LIMITS, LIMITS
    ),
    st.builds(RealServer, st.just(Forwarding.TUNNEL), st.integers(0, 2**31 - 1), LIMITS, LIMITS, TUNNELS),
)


@st.composite
def tables(draw: st.DrawFn) -> dict[object, object]:
    table: dict[object, object] = {}
    for _ in range(draw(st.integers(0, 4))):
        family = draw(st.sampled_from(list(Family)))
        key = draw(
            st.builds(Fwmark, st.just(family), st.integers(1, 2**32 - 1))
            | st.builds(
                Endpoint, st.just(EngineName.IPVS), st.sampled_from(Protocol), ADDRESSES[family], st.integers(0, 65535)
            )
        )
        scheduler = draw(st.sampled_from([name for name in Scheduler if name is not Scheduler.MAGLEV]))
        widest = 32 if family is Family.IPV4 else 128
        table[key] = draw(
            st.builds(
                VirtualService,
                st.just(scheduler),
                st.frozensets(st.sampled_from(SchedulerFlag)),
                st.none()
                | st.builds(Persistence, st.integers(1, 86400), st.integers(1, widest), st.none() | st.just("sip")),
                st.booleans(),
            )
        )
        for address in draw(st.lists(ADDRESSES[family], max_size=3, unique=True)):
            table[ServerKey(key, address, draw(st.integers(0, 65535)))] = draw(REALS)
    return table


@settings(max_examples=100, deadline=None)
@given(tables())
def test_a_table_survives_the_way_through_text(table: dict[object, object]) -> None:
    text = ipvsadm.write_table(table)  # type: ignore[arg-type]
    assert ipvsadm.read_table(text, file="rules") == table
    assert ipvsadm.write(ipvsadm.read(text, file="rules").config) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*CANONICAL.replace("\n", " \n ").split(" "), "\n", "'", "#"]) | st.text(max_size=6)))
def test_scraps_of_rules_are_read_or_refused(scraps: list[str]) -> None:
    with suppress(ConfigError):
        ipvsadm.read(" ".join(scraps), file="rules")


def test_what_no_rule_tells_is_named() -> None:
    server = Server(name="a", address=IPv4Address("10.1.0.1"), port=80, forwarding=Forwarding.FULLNAT)
    config = Config(
        services=(
            Service(name="wild", binds=(AddressBind(Family.IPV4, 80, 80),), servers=(server,)),
            Service(name="ranged", binds=(AddressBind(IPv4Address("10.0.0.1"), 80, 82), MarkBind(Family.IPV4, 9))),
        ),
        max_connections=5,
    )
    assert ipvsadm.write(config) == "".join(
        f"-A {where} -s wrr\n" for where in ("-t 10.0.0.1:80", "-t 10.0.0.1:81", "-t 10.0.0.1:82", "-f 9")
    )
    assert [line.split(":")[0] for line in ipvsadm.unsaid(config)] == [
        "max_connections 5 of all services",
        "service wild",
        "service wild",
    ]


@pytest.mark.ipvs
@pytest.mark.ipvsadm
@pytest.mark.root
def test_the_real_ipvsadm_takes_and_gives_the_same_rules() -> None:
    """The parts that `ipvsadm -Sn` saves: it leaves thresholds out."""
    text = (
        "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 198.51.100.1:8080 -m -w 1\n"
        "-a -t 192.0.2.1:80 -r 198.51.100.2:8080 -m -w 0\n"
        "-A -t [2001:db8::1]:80 -s rr -p 60 -M 64\n-a -t [2001:db8::1]:80 -r [2001:db8::2]:80 -g -w 3\n"
        "-A -f 7 -s wlc\n-a -f 7 -r 198.51.100.1:0 -i --tun-type gue --tun-port 6080 --tun-nocsum -w 1\n"
    )
    wanted = ipvsadm.read_table(text, file="rules")
    subprocess.run(["ipvsadm", "-C"], check=True, timeout=30)
    try:
        subprocess.run(["ipvsadm", "-R"], input=text, text=True, check=True, timeout=30)
        saved = subprocess.run(["ipvsadm", "-Sn"], capture_output=True, text=True, check=True, timeout=30).stdout
    finally:
        subprocess.run(["ipvsadm", "-C"], check=True, timeout=30)
    assert ipvsadm.read_table(saved, file="saved") == wanted, saved
