"""What only the kernel's IPVS does: traffic, drift, refusals by this kernel, other people's programs."""

import asyncio
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise
from pathlib import Path

import pytest

from kernlb.config.values import AddressBind, Server, Service
from kernlb.engines import trial
from kernlb.engines.ipvs import Ipvs, available
from kernlb.engines.proc import Connection, Digest, parse_connection
from kernlb.errors import KernelError, Unsupported
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
    Table,
    TimersKey,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
    VirtualService,
)
from kernlb.plan import Operation, Verb, diff
from tests.engines.namespace import fresh_network
from tests.engines.samples import real, vip

NAT = RealServer(Forwarding.NAT, 1)
RR = VirtualService(Scheduler.RR)
NAMESPACE = Path("/proc/thread-self/ns/net")


@pytest.fixture
def ipvs() -> Iterator[Ipvs]:
    with fresh_network(), Ipvs() as engine:
        yield engine


def make(engine: Ipvs, table: Table) -> None:
    engine.apply(diff(table, {}))


def ipvsadm(*arguments: str) -> str:
    return subprocess.run(["ipvsadm", *arguments], check=True, capture_output=True, text=True, timeout=30).stdout


def until(holds: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.05)


@pytest.mark.ipvs
@pytest.mark.ipvsadm
def test_ipvsadm_lists_what_was_applied(ipvs: Ipvs) -> None:
    web, mark = vip(1), Fwmark(Family.IPV6, 9)
    sip = vip(1, protocol=Protocol.UDP, port=5060)
    six = Endpoint(EngineName.IPVS, Protocol.TCP, IPv6Address("2001:db8::10"), 443)
    make(
        ipvs,
        {
            web: VirtualService(Scheduler.SH, frozenset({SchedulerFlag.PORT})),
            real(web, 1): RealServer(Forwarding.NAT, 5, 100, 50),
            real(web, 2): RealServer(Forwarding.TUNNEL, 1, tunnel=Tunnel(TunnelKind.GUE, 6080, TunnelChecksum.REMOTE)),
            real(web, 3): RealServer(Forwarding.DIRECT, 0),
            sip: VirtualService(Scheduler.RR, persistence=Persistence(60, 24, "sip"), one_packet=True),
            six: VirtualService(Scheduler.WLC, persistence=Persistence(300, 64)),
            real(six, 1, 443): NAT,
            mark: VirtualService(Scheduler.WRR),
        },
    )
    assert sorted(ipvsadm("-Sn").splitlines()) == sorted(
        [
            "-A -t 10.64.0.1:80 -s sh -b sh-port",
            "-a -t 10.64.0.1:80 -r 10.128.0.1:80 -m -w 5",
            "-a -t 10.64.0.1:80 -r 10.128.0.2:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum",
            "-a -t 10.64.0.1:80 -r 10.128.0.3:80 -g -w 0",
            "-A -u 10.64.0.1:5060 -s rr -p 60 -M 255.255.255.0 --pe sip -o",
            "-A -t [2001:db8::10]:443 -s wlc -p 300 -M 64",
            "-a -t [2001:db8::10]:443 -r [2001:db8:1::1]:443 -m -w 1",
            "-A -f 9 -6 -s wrr",
        ]
    )
    # -S leaves the thresholds out.
    assert ["10.128.0.1:80", "100", "50"] in [
        line.split()[1:4] for line in ipvsadm("-Ln", "--thresholds").splitlines() if "->" in line
    ]


@pytest.mark.ipvs
@pytest.mark.ipvsadm
def test_what_ipvsadm_makes_is_read_and_left_alone(ipvs: Ipvs) -> None:
    ipvsadm("-A", "-t", "10.1.1.1:443", "-s", "lblcr", "-p", "77", "-M", "255.255.0.0")
    ipvsadm("-a", "-t", "10.1.1.1:443", "-r", "10.2.2.2:443", "-g", "-w", "3")
    theirs = Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("10.1.1.1"), 443)
    foreign = {
        theirs: VirtualService(Scheduler.LBLCR, persistence=Persistence(77, 16)),
        ServerKey(theirs, IPv4Address("10.2.2.2"), 443): RealServer(Forwarding.DIRECT, 3),
    }
    assert ipvs.read_services() == foreign
    before = ipvsadm("-Sn")
    make(ipvs, {vip(1): RR, real(vip(1), 1): NAT})
    ipvs.apply(diff({}, {vip(1): RR}))
    assert ipvsadm("-Sn") == before


@pytest.mark.ipvs
def test_the_engine_works_from_a_thread_and_inside_an_event_loop(ipvs: Ipvs) -> None:
    found: list[Table] = []

    async def main() -> None:
        make(ipvs, {vip(1): RR})
        found.append(ipvs.read_services())
        found.append(await asyncio.to_thread(ipvs.read_services))

    asyncio.run(main())
    threads = [threading.Thread(target=lambda: found.append(ipvs.read_services())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{vip(1): RR}] * 6


@pytest.mark.ipvs
def test_two_engines_see_one_kernel(ipvs: Ipvs) -> None:
    make(ipvs, {vip(1): RR})
    with Ipvs() as other:
        assert other.read() == ipvs.read()
        assert other.writes == 0
        with pytest.raises(KernelError, match="somebody else has made it meanwhile"):
            make(other, {vip(1): RR})


@pytest.mark.ipvs
def test_the_kernel_tells_its_version_and_table_size(ipvs: Ipvs) -> None:
    info = ipvs.info()
    assert info.version.startswith("1.2.")
    assert info.connection_table_size >= 256
    assert available()


@pytest.mark.ipvs
def test_the_digest_moves_with_the_service_that_changed_and_with_no_other(ipvs: Ipvs) -> None:
    make(ipvs, {vip(1): RR, real(vip(1), 1): NAT, vip(2): RR, real(vip(2), 1): NAT, Fwmark(Family.IPV4, 7): RR})
    before = ipvs.digest()
    assert set(before) == {vip(1), vip(2), Fwmark(Family.IPV4, 7), Fwmark(Family.IPV6, 7)}
    assert ipvs.digest() == before
    ipvs.apply([Operation(Verb.CHANGE, real(vip(2), 1), NAT, RealServer(Forwarding.NAT, 2))])
    after = ipvs.digest()
    assert {key for key in after if after[key] != before[key]} == {vip(2)}
    assert ipvs.read_services({vip(2)}) == {vip(2): RR, real(vip(2), 1): RealServer(Forwarding.NAT, 2)}


@pytest.mark.ipvs
@pytest.mark.parametrize(("local", "address"), [("127.0.0.1", "127.0.0.80"), ("::1", "::1")])
def test_live_connections_are_counted_and_listed_and_zeroed(ipvs: Ipvs, local: str, address: str) -> None:
    """A client and a real server on lo, with the virtual service between them."""
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    service = Endpoint(EngineName.IPVS, Protocol.TCP, ip_address(address), 8080)
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.create_server((local, 0), family=family)))
        port = listener.getsockname()[1]
        server = ServerKey(service, ip_address(local), port)
        make(ipvs, {service: RR, server: NAT})
        client = stack.enter_context(closing(socket.create_connection((address, 8080), timeout=10)))
        accepted = stack.enter_context(closing(listener.accept()[0]))
        accepted.sendall(b"hello")
        assert client.recv(5) == b"hello"
        (connection,) = ipvs.connections(server)
        assert (connection.client_port, connection.state) == (client.getsockname()[1], "ESTABLISHED")
        assert (connection.virtual, connection.virtual_port) == (service.address, 8080)
        assert not ipvs.connections(ServerKey(service, ip_address(local), port ^ 1))
        assert ipvs.counters()[server].active_connections == 1
        # The kernel sums its counters every two seconds.
        until(lambda: ipvs.counters()[server].connections == ipvs.counters()[service].connections == 1)
        counted = ipvs.counters()[service]
        assert counted.live == 1
        assert counted.bytes_in
        assert counted.packets_in
        ipvs.zero(service)
        until(lambda: ipvs.counters()[service].connections == 0)


@pytest.mark.ipvs
@pytest.mark.parametrize(
    ("scheduler", "engine", "module"),
    [(Scheduler.RR, "nonsense", "CONFIG_IP_VS_PE_NONSENSE"), ("nonsense", None, "CONFIG_IP_VS_NONSENSE")],
)
def test_a_missing_module_is_named_with_its_kernel_option(
    ipvs: Ipvs, scheduler: str, engine: str | None, module: str
) -> None:
    persistence = Persistence(60, 32, engine) if engine else None
    with pytest.raises(KernelError, match=module):
        make(ipvs, {vip(1): VirtualService(scheduler, persistence=persistence)})
    assert ipvs.read_services() == {}


@pytest.mark.ipvs
@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (ServerKey(vip(1), IPv6Address("2001:db8::1"), 80), "takes tunnel forwarding"),
        (ServerKey(vip(1), IPv4Address("224.0.0.1"), 80), "not unicast"),
        (ServerKey(vip(2), IPv4Address("10.0.0.1"), 80), "virtual service is not there"),
    ],
    ids=["families", "multicast", "service"],
)
def test_a_refusal_says_what_it_means(ipvs: Ipvs, server: ServerKey, reason: str) -> None:
    make(ipvs, {vip(1): RR})
    with pytest.raises(KernelError, match=reason):
        make(ipvs, {server: NAT})


@pytest.mark.ipvs
def test_without_privilege_the_capability_is_named() -> None:
    code = "from kernlb.engines.ipvs import Ipvs; Ipvs().read()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "cannot read IPVS: Operation not permitted" in done.stderr


def service(**changes: object) -> Service:
    settled: dict[str, object] = {"name": "web", "binds": (bind("10.0.0.1"),), "scheduler": Scheduler.RR}
    return Service(**{**settled, **changes})  # type: ignore[arg-type]


def bind(address: str, port: int = 80) -> AddressBind:
    return AddressBind(ip_address(address), port, port)


def server(
    address: str, port: int = 80, forwarding: Forwarding = Forwarding.NAT, tunnel: Tunnel | None = None
) -> Server:
    return Server(name="s1", address=ip_address(address), port=port, forwarding=forwarding, tunnel=tunnel)


GRE = Tunnel(TunnelKind.GRE, 0, TunnelChecksum.CHECKSUM)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (service(scheduler=Scheduler.MAGLEV), "no scheduler maglev"),
        (service(one_packet=True), "for udp, not tcp"),
        (service(binds=(bind("10.0.0.1", 0),)), "only with persistence"),
        (service(servers=(server("2001:db8::1"),)), "only with tunnels"),
        (service(servers=(server("10.0.0.2", 8080, Forwarding.DIRECT),)), "cannot change the port"),
        (service(sorry_server=server("10.0.0.2", 8080, Forwarding.TUNNEL)), "cannot change the port"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_ipvs_can_do_is_refused_before_any_kernel_is_asked(asked: Service, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason) as refusal:
        trial.admit(asked)
    assert refusal.value.where == "service.web"
    assert refusal.value.hint


@pytest.mark.ipvs
def test_what_this_kernel_can_do_is_admitted_and_leaves_no_trace(ipvs: Ipvs) -> None:
    here = NAMESPACE.readlink()
    ipvs.admit(
        service(
            binds=(bind("10.0.0.1"), bind("2001:db8::1")),
            scheduler=Scheduler.MH,
            persistence=Persistence(60, 32, "sip"),
            servers=(server("10.0.0.2", 80, Forwarding.TUNNEL, GRE), server("10.0.0.3", 80, Forwarding.TUNNEL)),
        )
    )
    assert set(ipvs.read()) == {TimersKey()}
    assert NAMESPACE.readlink() == here


@pytest.mark.ipvs
def test_a_persistence_engine_that_this_kernel_lacks_is_refused(ipvs: Ipvs) -> None:
    with pytest.raises(Unsupported, match="CONFIG_IP_VS_PE_NONSENSE"):
        ipvs.admit(service(persistence=Persistence(60, 32, "nonsense")))


PROC_TABLE = b"".join(
    (
        b"IP Virtual Server version 1.2.1 (size=4096)\n",
        b"Prot LocalAddress:Port Scheduler Flags\n",
        b"  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n",
        b"TCP  [2001:0db8:0000:0000:0000:0000:0000:0001]:01BB mh persistent 75000 40000000\n",
        b"TCP  0A000001:0050 sh  \n",
        b"  -> 0A010003:0050      Route   1      0          0         \n",
        b"  -> 0A010001:0050      Masq    7      0          0         \n",
        b"FWM  00000008 wlc \n",
    )
)


def test_a_digest_ignores_connections_and_nothing_else() -> None:
    web = Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("10.0.0.1"), 80)
    before = Digest().of([PROC_TABLE])
    six = Endpoint(EngineName.IPVS, Protocol.TCP, IPv6Address("2001:db8::1"), 443)
    assert set(before) == {six, web, Fwmark(Family.IPV4, 8), Fwmark(Family.IPV6, 8)}
    busy = PROC_TABLE.replace(b"7      0          0         ", b"7      123        4567      ")
    assert busy != PROC_TABLE
    assert Digest().of([busy]) == before
    for old, new in (
        (b"Masq    7 ", b"Masq    8 "),
        (b"Route", b"Masq "),
        (b"0A010003", b"0A010004"),
        (b"sh  ", b"rr  "),
    ):
        changed = Digest().of([PROC_TABLE.replace(old, new)])
        assert {key for key in changed if changed[key] != before.get(key)} == {web}


def test_a_digest_is_the_same_however_the_kernel_cuts_the_table_and_however_it_came_about() -> None:
    digest = Digest()
    whole = digest.of([PROC_TABLE])
    starts = [found.start() for found in re.finditer(rb"^[A-Z]", PROC_TABLE, re.MULTILINE)]
    blocks = [PROC_TABLE[a:b] for a, b in pairwise([*starts, len(PROC_TABLE)])]
    assert len(blocks) > 3
    assert digest.of(blocks) == whole
    busy = [block.replace(b"7      0          0         ", b"7      123        4567      ") for block in blocks]
    assert digest.of(busy) is digest.of(blocks)
    assert digest.of(busy[:-1]) != whole
    assert digest.of(blocks) == whole
    assert digest.of([]) == {}


def test_a_line_of_the_connection_table_is_read_and_a_template_is_not() -> None:
    line = "TCP 0A000002 C350 0A000001 0050 0A010001 1F90 ESTABLISHED     899"
    client, virtual, real_server = (IPv4Address(text) for text in ("10.0.0.2", "10.0.0.1", "10.1.0.1"))
    expected = Connection(Protocol.TCP, client, 50000, virtual, 80, real_server, 8080, "ESTABLISHED", 899)
    assert parse_connection(line) == expected
    assert parse_connection("IP  0A000002 0000 0A000001 0050 0A010001 1F90 NONE        59") is None
