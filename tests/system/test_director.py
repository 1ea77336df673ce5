"""The director with real traffic through a kernel with IPVS."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kernlb.demo.namespaces import DIRECTOR_BACK, DIRECTOR_FRONT
from kernlb.model import Scheduler
from tests.system.director import (
    SERVERS6,
    Director,
    answer_directly,
    answer_nobody,
    answer_through_director,
    director,
    until,
)

pytestmark = [pytest.mark.ipvs, pytest.mark.root, pytest.mark.timeout(300)]

HAPROXY = (Path(__file__).parent.parent / "data" / "haproxy.cfg").read_text()
EVEN = {"server1": 10, "server2": 10}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Director]:
    with director(tmp_path_factory.mktemp("director")) as found:
        yield found


@pytest.fixture
def gateway(network: Director) -> Iterator[Director]:
    yield network
    network.call("clear")
    answer_nobody(network.lab)


def service(forwarding: str, *, bind: str = f"{DIRECTOR_FRONT}:80", more: str = "", port: int = 80) -> str:
    return (
        f'[service.web]\nbind = ["{bind}"]\nforwarding = "{forwarding}"\n{more}\n[service.web.servers]\n'
        f'server1 = "10.0.0.1:{port}"\nserver2 = "10.0.0.2:{port}"\n'
    )


def inside(gateway: Director, *command: str) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", gateway.lab.namespace("director"), *command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_haproxy_file_balances_every_local_address_evenly_and_needs_nothing_more(gateway: Director) -> None:
    file = gateway.file(HAPROXY, "haproxy.cfg")
    gateway.call("apply", file)
    for address in (DIRECTOR_FRONT, DIRECTOR_BACK):
        tally = gateway.requests(40, address)
        assert (tally.split, dict(tally.failed)) == ({"server1": 20, "server2": 20}, {})
        # The real servers have no route to the client: only full NAT lets them answer.
        assert tally.peers == {DIRECTOR_BACK}
    assert "nothing to do" in gateway.call("plan", file).out
    assert gateway.call("apply", file, "--json").document == {"changed": False, "operations": []}
    (web,) = gateway.call("show", "--json").document["services"]
    assert (web["name"], web["bind"], web["forwarding"], web["owned"]) == ("api", "*:80", "fullnat", True)
    assert [server["name"] for server in web["servers"]] == ["server1", "server2"]
    shown = inside(gateway, "ipvsadm", "-Ln")
    assert "10.0.0.1:80" in shown
    assert "Masq" in shown


@pytest.mark.parametrize("forwarding", ["fullnat", "nat", "direct", "tunnel"])
def test_every_forwarding_method_carries_http(gateway: Director, forwarding: str) -> None:
    vip = "192.0.2.50"
    if forwarding == "nat":
        answer_through_director(gateway.lab)
    elif forwarding != "fullnat":
        answer_directly(gateway.lab)
        for name in ("server1", "server2"):
            device = "tunl0" if forwarding == "tunnel" else "lo"
            gateway.lab.ip(name, [f"addr replace {vip}/32 dev {device}", f"link set {device} up"])
            rs = gateway.lab.namespace(name)
            for interface in ("all", device):
                subprocess.run(
                    ["ip", "netns", "exec", rs, "sysctl", "-qw", f"net.ipv4.conf.{interface}.rp_filter=0"], check=True
                )
    manage = '[addresses]\nmanage = true\ninterface = "front"\n'
    gateway.apply(manage + service(forwarding, bind=f"{vip}:80"))
    if forwarding in ("direct", "tunnel"):
        # Servers of the demo listen on their own address; for the VIP they need a listener there.
        from kernlb.demo.http import serve

        for name in ("server1", "server2"):
            gateway.lab.start(name, serve, name, vip, 80)
    until(lambda: not gateway.requests(2, vip).failed)
    tally = gateway.requests(20, vip)
    assert (tally.split, dict(tally.failed)) == (EVEN, {})
    seen = {"192.0.2.10"} if forwarding != "fullnat" else {DIRECTOR_BACK}
    assert tally.peers == seen


def test_ipv6_is_balanced_like_ipv4(gateway: Director) -> None:
    gateway.apply(
        '[service.web]\nbind = ["[::]:80"]\nforwarding = "fullnat"\n[service.web.servers]\n'
        f'server1 = "[{SERVERS6["server1"]}]:80"\nserver2 = "[{SERVERS6["server2"]}]:80"\n'
    )
    tally = gateway.requests(20, "fd00:1::1")
    assert (tally.split, dict(tally.failed), tally.peers) == (EVEN, {}, {"fd00:2::254"})


@pytest.mark.bpf
def test_a_service_of_each_engine_side_by_side(gateway: Director, balancer: Path) -> None:
    other = service("fullnat", bind=f"{DIRECTOR_FRONT}:81", more='engine = "xdp"')
    file = gateway.file(service("fullnat") + other.replace("service.web", "service.hashed"))
    gateway.call("apply", file)
    shown = gateway.call("show", "--json").document["services"]
    assert {each["name"]: each["engine"] for each in shown} == {"web": "ipvs", "hashed": "xdp"}
    assert gateway.requests(20, DIRECTOR_FRONT).split == EVEN
    tally = gateway.requests(40, DIRECTOR_FRONT, port=81)
    assert (set(tally.split), tally.answered, dict(tally.failed)) == (set(EVEN), 40, {})
    assert tally.peers == {DIRECTOR_BACK}
    assert "nothing to do" in gateway.call("plan", file).out


def test_udp_is_balanced(gateway: Director) -> None:
    for name, address in (("server1", "10.0.0.1"), ("server2", "10.0.0.2")):
        gateway.lab.start(name, _echo, name, address)
    text = service("fullnat", bind="*:53", more='protocol = "udp"\nscheduler = "rr"', port=53)
    gateway.apply(text)
    until(lambda: len(gateway.lab.ask("client", _ask, 8).value(timeout=30)) == 2)


def test_a_mark_set_by_somebody_else_is_a_bind(gateway: Director) -> None:
    rules = (
        "table inet theirs { chain c { type filter hook prerouting priority -160; "
        "ip daddr 192.0.2.1 tcp dport 8088 meta mark set 7; }; }"
    )
    inside(gateway, "nft", rules)
    answer_through_director(gateway.lab)
    gateway.apply(service("nat", bind="fwmark:7"))
    tally = gateway.requests(20, DIRECTOR_FRONT, port=8088)
    assert (tally.split, dict(tally.failed)) == (EVEN, {})
    inside(gateway, "nft", "delete table inet theirs")


def test_port_ranges_share_one_service(gateway: Director) -> None:
    gateway.apply(service("fullnat", bind=f"{DIRECTOR_FRONT}:8000-8010"))
    for port in (8000, 8005, 8010):
        assert not gateway.requests(4, DIRECTOR_FRONT, port=port).failed
    assert gateway.requests(1, DIRECTOR_FRONT, port=8011).failed
    assert len(gateway.call("show", "--json").document["services"]) == 1


def test_a_limit_refuses_the_connection_beyond_it_and_a_reload_never_doubles_it(gateway: Director) -> None:
    text = HAPROXY.replace("maxconn 4096", "maxconn 4")
    gateway.call("apply", gateway.file(text, "haproxy.cfg"))
    here, there = Pipe()
    held = gateway.lab.ask("client", _hold, there, 4)
    assert here.recv() == "open"
    assert gateway.requests(3, DIRECTOR_FRONT).failed.total() == 3
    other = text + "    server server3 10.0.0.3:80 check\n"
    gateway.call("apply", gateway.file(other, "haproxy.cfg"))
    assert gateway.requests(3, DIRECTOR_FRONT).failed.total() == 3
    here.send("enough")
    assert held.value(timeout=60) == [b"HTTP/1.1 200 OK"] * 4
    until(lambda: not gateway.requests(1, DIRECTOR_FRONT).failed)


def test_what_others_flush_the_plan_says_and_apply_repairs(gateway: Director) -> None:
    file = gateway.file(HAPROXY, "haproxy.cfg")
    gateway.call("apply", file)
    inside(gateway, "nft", "flush", "ruleset")
    planned = gateway.call("plan", file, allowed=(2,)).out
    assert "nftables table" in planned
    assert "mark for tcp *:80" in planned
    gateway.call("apply", file)
    inside(gateway, "ipvsadm", "-C")
    planned = gateway.call("plan", file, allowed=(2,)).out
    assert "api/server1" in planned
    assert "api/server2" in planned
    gateway.call("apply", file)
    assert gateway.requests(20, DIRECTOR_FRONT).split == EVEN


def test_foreign_services_are_reported_never_touched_and_taken_only_when_told(gateway: Director) -> None:
    inside(gateway, "ipvsadm", "-A", "-t", f"{DIRECTOR_FRONT}:80", "-s", "rr")
    inside(gateway, "ipvsadm", "-a", "-t", f"{DIRECTOR_FRONT}:80", "-r", "10.0.0.3:80", "-m")
    refused = gateway.apply(service("nat"), code=1)
    assert f"{DIRECTOR_FRONT}:80" in refused.err
    # A wildcard leaves the foreign destination alone.
    gateway.call("apply", gateway.file(HAPROXY, "haproxy.cfg"))
    answer_through_director(gateway.lab)
    assert gateway.requests(3, DIRECTOR_FRONT).split == {"server3": 3}
    foreign = [s for s in gateway.call("show", "--json").document["services"] if not s["owned"]]
    assert [(s["name"], s["bind"]) for s in foreign] == [(None, f"{DIRECTOR_FRONT}:80")]
    gateway.call("clear")
    assert "10.0.0.3:80" in inside(gateway, "ipvsadm", "-Ln")
    gateway.apply(service("nat"), "--adopt", "--deadline", "0")
    assert gateway.requests(20, DIRECTOR_FRONT).split == EVEN


def test_every_scheduler_round_trips_through_apply_and_plan(gateway: Director) -> None:
    text = "".join(
        f'[service.{scheduler}]\nbind = ["{DIRECTOR_FRONT}:{1000 + number}"]\nscheduler = "{scheduler}"\n'
        f'[service.{scheduler}.servers]\none = "10.0.0.1:80"\n'
        for number, scheduler in enumerate(Scheduler)
        # Not in Debian's kernel: "twos" came with 5.16 and is off there; maglev is the eBPF program's.
        if scheduler not in (Scheduler.TWOS, Scheduler.MAGLEV)
    )
    file = gateway.file(text)
    gateway.call("apply", file)
    gateway.call("plan", file)


def test_killed_in_the_middle_the_next_apply_converges_and_nothing_foreign_is_touched(gateway: Director) -> None:
    inside(gateway, "ipvsadm", "-A", "-t", "192.0.2.99:99", "-s", "rr")
    text = "".join(
        f'[service.s{number}]\nbind = ["10.1.{number // 250}.{number % 250}:80"]\n'
        f'[service.s{number}.servers]\none = "10.0.0.1:80"\ntwo = "10.0.0.2:80"\n'
        for number in range(1000)
    )
    file = gateway.file(text)
    running = gateway.begin("apply", file)
    until(lambda: inside(gateway, "cat", "/proc/net/ip_vs").count("TCP") > 50, patience=200)
    os.kill(running.pid, signal.SIGKILL)
    gateway.call("apply", file, "--deadline", "0")
    gateway.call("plan", file)
    assert inside(gateway, "cat", "/proc/net/ip_vs").count("TCP") == 1001
    gateway.call("clear")
    assert inside(gateway, "cat", "/proc/net/ip_vs").count("TCP") == 1
    inside(gateway, "ipvsadm", "-D", "-t", "192.0.2.99:99")


def test_a_wildcard_on_the_port_of_a_local_process_is_refused_by_name(gateway: Director) -> None:
    listener = gateway.lab.start("director", _listen, 22)
    until(lambda: ":0016" in inside(gateway, "cat", "/proc/net/tcp"))
    refused = gateway.apply(service("fullnat", bind="*:22"), code=1)
    assert str(listener.pid) in refused.err
    assert "--take-port" in refused.err
    assert inside(gateway, "cat", "/proc/net/ip_vs").count("FWM") == 0
    gateway.apply(service("fullnat", bind="*:22"), "--take-port")
    listener.kill()


def test_an_unconfirmed_apply_puts_back_what_was_there(gateway: Director) -> None:
    gateway.apply(service("nat"))
    before = inside(gateway, "ipvsadm", "-Sn")
    gateway.apply(service("nat", bind=f"{DIRECTOR_FRONT}:81"), "--confirm", "1s", "--deadline", "0", code=1)
    assert inside(gateway, "ipvsadm", "-Sn") == before


def test_clear_leaves_the_kernel_as_it_was(gateway: Director) -> None:
    before = [
        inside(gateway, "nft", "list", "ruleset"),
        inside(gateway, "sysctl", "net.ipv4.ip_forward", "net.ipv4.vs"),
    ]
    gateway.call("apply", gateway.file(HAPROXY, "haproxy.cfg"))
    assert [inside(gateway, "nft", "list", "ruleset")] != before[:1]
    gateway.call("clear")
    assert before == [
        inside(gateway, "nft", "list", "ruleset"),
        inside(gateway, "sysctl", "net.ipv4.ip_forward", "net.ipv4.vs"),
    ]


def _listen(port: int) -> None:
    with socket.create_server(("0.0.0.0", port)):
        time.sleep(120)


def _echo(name: str, address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        while True:
            _, peer = server.recvfrom(512)
            server.sendto(name.encode(), peer)


def _ask(result: Connection, count: int) -> None:
    names = set()
    for _ in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            client.sendto(b"?", (DIRECTOR_FRONT, 53))
            try:
                names.add(client.recv(512))
            except OSError:
                continue
    result.send(names)


def _hold(result: Connection, order: Connection, count: int) -> None:
    """Open connections, say so, and hold them until told otherwise."""
    held = [socket.create_connection((DIRECTOR_FRONT, 80), timeout=10) for _ in range(count)]
    order.send("open")
    order.recv()
    for connection in held:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    result.send([connection.recv(512)[:15] for connection in held])
