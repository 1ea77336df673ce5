"""The bytes of netlink requests and answers. Golden bytes are what ipvsadm 1.31 sent to Linux 6.1, and its answers.

ipvsadm repeats an empty service specification in every request on a server; the kernel reads none of it, and we name
the service only. So services and servers are compared a nested attribute at a time.
"""

import sys
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernlb.engines.wire import header, netlink, requests, servers, services, settings, statistics
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
    SyncDaemon,
    SyncKey,
    SyncRole,
    Timers,
    TimersKey,
    Tunnel,
    TunnelChecksum,
    TunnelKind,
    VirtualService,
)
from kernlb.plan import Operation, Verb
from tests.engines import samples

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes were captured on x86-64")

WEB = Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("10.0.0.1"), 80)
WEB_NAMED = "30000180060001000200000006000200060000001400030" + "00a0000010000000000000000000000000600040000500000"


def endpoint(protocol: str, address: str, port: int) -> Endpoint:
    return Endpoint(EngineName.IPVS, Protocol(protocol), ip_address(address), port)


SERVICES = [
    pytest.param(
        WEB,
        VirtualService(Scheduler.WRR),
        "5400018006000100020000000600020006000000140003000a0000010000000000000000000000000600040000500000"
        "08000600777272000c00070000000000ffffffff080008000000000008000900ffffffff",
        id="-A -t 10.0.0.1:80 -s wrr",
    ),
    pytest.param(
        WEB,
        VirtualService(Scheduler.SH, frozenset({SchedulerFlag.FALLBACK, SchedulerFlag.PORT})),
        "5400018006000100020000000600020006000000140003000a0000010000000000000000000000000600040000500000"
        "07000600736800000c00070018000000ffffffff080008000000000008000900ffffffff",
        id="-E -t 10.0.0.1:80 -s sh -b sh-fallback,sh-port",
    ),
    pytest.param(
        endpoint("tcp", "2001:db8::1", 443),
        VirtualService(Scheduler.MH, persistence=Persistence(300, 64)),
        "54000180060001000a00000006000200060000001400030020010db80000000000000000000000010600040001bb0000"
        "070006006d6800000c00070001000000ffffffff080008002c0100000800090040000000",
        id="-A -t [2001:db8::1]:443 -s mh -p 300 -M 64",
    ),
    pytest.param(
        endpoint("udp", "10.0.0.1", 5060),
        VirtualService(Scheduler.RR, one_packet=True),
        "5400018006000100020000000600020011000000140003000a0000010000000000000000000000000600040013c40000"
        "07000600727200000c00070004000000ffffffff080008000000000008000900ffffffff",
        id="-A -u 10.0.0.1:5060 -s rr -o",
    ),
    pytest.param(
        endpoint("udp", "10.0.0.1", 5061),
        VirtualService(Scheduler.RR, persistence=Persistence(60, 24, "sip")),
        "5c00018006000100020000000600020011000000140003000a0000010000000000000000000000000600040013c50000"
        "070006007272000008000b00736970000c00070001000000ffffffff080008003c00000008000900ffffff00",
        id="-A -u 10.0.0.1:5061 -s rr --pe sip -p 60 -M 255.255.255.0",
    ),
    pytest.param(
        endpoint("sctp", "10.0.0.1", 99),
        VirtualService(Scheduler.RR),
        "5400018006000100020000000600020084000000140003000a0000010000000000000000000000000600040000630000"
        "07000600727200000c00070000000000ffffffff080008000000000008000900ffffffff",
        id="-A --sctp-service 10.0.0.1:99 -s rr",
    ),
    pytest.param(
        Fwmark(Family.IPV4, 7),
        VirtualService(Scheduler.WLC),
        "38000180060001000200000008000500070000000800060"
        "0776c63000c00070000000000ffffffff080008000000000008000900ffffffff",
        id="-A -f 7 -s wlc",
    ),
    pytest.param(
        Fwmark(Family.IPV6, 8),
        VirtualService(Scheduler.WLC),
        "38000180060001000a00000008000500080000000800060"
        "0776c63000c00070000000000ffffffff08000800000000000800090080000000",
        id="-A -f 8 -6 -s wlc",
    ),
]
SERVERS = [
    pytest.param(
        ServerKey(WEB, IPv4Address("10.1.0.1"), 80),
        RealServer(Forwarding.NAT, 5, 100, 50),
        "6000028006000b0002000000140001000a01000100000000000000000000000006000200005000000800030000000000"
        "080004000500000005000d000000000006000e000000000006000f000000000008000500640000000800060032000000",
        id="-r 10.1.0.1:80 -m -w 5 -x 100 -y 50",
    ),
    pytest.param(
        ServerKey(WEB, IPv4Address("10.1.0.2"), 80),
        RealServer(Forwarding.TUNNEL, 1, tunnel=Tunnel(TunnelKind.GUE, 6080, TunnelChecksum.REMOTE)),
        "6000028006000b0002000000140001000a01000200000000000000000000000006000200005000000800030002000000"
        "080004000100000005000d000100000006000e0017c0000006000f000200000008000500000000000800060000000000",
        id="-r 10.1.0.2 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum",
    ),
    pytest.param(
        ServerKey(WEB, IPv4Address("10.1.0.3"), 80),
        RealServer(Forwarding.DIRECT, 1),
        "6000028006000b0002000000140001000a01000300000000000000000000000006000200005000000800030003000000"
        "080004000100000005000d000000000006000e000000000006000f000000000008000500000000000800060000000000",
        id="-r 10.1.0.3 -g -w 1",
    ),
]


@pytest.mark.parametrize(("key", "service", "golden"), SERVICES)
def test_a_service_is_written_as_ipvsadm_writes_it(
    key: Endpoint | Fwmark, service: VirtualService, golden: str
) -> None:
    assert services.service_bytes(key, service).hex() == golden


@pytest.mark.parametrize(("key", "server", "golden"), SERVERS)
def test_a_server_is_written_as_ipvsadm_writes_it(key: ServerKey, server: RealServer, golden: str) -> None:
    assert servers.server_bytes(key, server).hex() == golden


def test_a_service_is_named_as_ipvsadm_names_it_to_list_its_servers() -> None:
    assert requests.list_servers(WEB).hex() == "08010000" + WEB_NAMED
    assert requests.list_servers(Fwmark(Family.IPV6, 8)).hex() == "0801000014000180060001000a0000000800050008000000"


def test_a_removed_server_is_named_by_family_address_and_port() -> None:
    key = ServerKey(WEB, IPv4Address("10.1.0.9"), 8080)
    body = body_of(Operation(Verb.REMOVE, key, RealServer(Forwarding.NAT, 1), None))
    golden = "6000028006000b0002000000140001000a010009000000000000000000000000060002001f900000"
    assert body.hex() == "07010000" + WEB_NAMED + "2800" + golden[4:]


@pytest.mark.parametrize(
    ("operation", "command"),
    [
        (Operation(Verb.ADD, WEB, None, VirtualService(Scheduler.RR)), header.Command.NEW_SERVICE),
        (
            Operation(Verb.CHANGE, WEB, VirtualService(Scheduler.LC), VirtualService(Scheduler.RR)),
            header.Command.SET_SERVICE,
        ),
        (Operation(Verb.REMOVE, WEB, VirtualService(Scheduler.LC), None), header.Command.DEL_SERVICE),
    ],
)
def test_each_verb_has_its_command(operation: Operation, command: header.Command) -> None:
    assert body_of(operation)[:4] == bytes((command, 1, 0, 0))


def test_a_quiesced_server_is_set_never_added_or_deleted() -> None:
    key, server = ServerKey(WEB, IPv4Address("10.1.0.9"), 80), RealServer(Forwarding.NAT, 0)
    assert body_of(Operation(Verb.QUIESCE, key, RealServer(Forwarding.NAT, 3), server))[0] == header.Command.SET_DEST


def test_timers_are_set_as_ipvsadm_sets_them() -> None:
    operation = Operation(Verb.CHANGE, TimersKey(), Timers(900, 120, 300), Timers(100, 20, 30))
    assert body_of(operation).hex() == "0c01000008000400640000000800050014000000080006001e000000"


def test_a_sync_daemon_is_started_and_stopped_as_ipvsadm_does() -> None:
    master = SyncDaemon("lo", 3, IPv4Address("224.0.0.82"), 8849, 4, 1400)
    key = SyncKey(SyncRole.MASTER)
    assert body_of(Operation(Verb.ADD, key, None, master)).hex() == (
        "090100003c0003800800010001000000070002006c6f0000080003000300000006000400780500000600070091220000"
        "050008000400000008000500e0000052"
    )
    # ipvsadm adds an empty interface and number, which the kernel does not read.
    assert body_of(Operation(Verb.REMOVE, key, master, None)).hex() == "0a0100000c0003800800010001000000"


def test_a_changed_sync_daemon_is_stopped_and_started() -> None:
    change = Operation(Verb.CHANGE, SyncKey(SyncRole.BACKUP), SyncDaemon("lo", 3), SyncDaemon("lo", 4))
    assert [body[0] for _, body in requests.encode([change])] == [header.Command.DEL_DAEMON, header.Command.NEW_DAEMON]


def test_commands_without_attributes_are_the_header_alone() -> None:
    assert requests.bare(header.Command.GET_INFO).hex() == "0f010000"
    assert requests.bare(header.Command.GET_DAEMON).hex() == "0b010000"
    assert requests.zero(None).hex() == "10010000"
    assert requests.bare(header.Command.FLUSH).hex() == "11010000"


def test_the_kernels_flags_of_its_own_are_masked() -> None:
    """PERSISTENT and HASHED came back for a persistent service; HASHED is the kernel's."""
    answer = bytes.fromhex(
        "060001000a00000006000200060000001400030020010db80000000000000000000000010600040001bb0000"
        "070006006d6800000c00070003000000ffffffff080008002c0100000800090040000000"
    )
    expected = endpoint("tcp", "2001:db8::1", 443), VirtualService(Scheduler.MH, persistence=Persistence(300, 64))
    assert services.decode_service(memoryview(answer)) == expected


def test_a_scheduler_that_kernlb_does_not_know_keeps_its_name() -> None:
    known = services.service_bytes(WEB, VirtualService("none"))
    decoded = services.decode_service(memoryview(known)[4:])
    assert decoded == (WEB, VirtualService("none"))


def test_counters_come_from_the_64_bit_ones_where_there_are_any() -> None:
    def stats(kind: int, values: list[tuple[int, int]]) -> bytes:
        members = [netlink.attribute(i, netlink.native(v, width)) for i, (v, width) in enumerate(values, 1)]
        return netlink.attribute(kind, b"".join(members))

    narrow = stats(header.ServiceAttribute.STATS, [(1, 4), (2, 4), (3, 4), (4, 8), (5, 8), *[(9, 4)] * 5])
    wide = stats(header.ServiceAttribute.STATS64, [(2**40 + n, 8) for n in range(10)])
    assert statistics.service_statistics(memoryview(narrow)) == statistics.Statistics(1, 2, 3, 4, 5, 9, 9, 9, 9, 9)
    both = statistics.service_statistics(memoryview(narrow + wide))
    assert (both.connections, both.bytes_out, both.byte_rate_out) == (2**40, 2**40 + 4, 2**40 + 9)
    assert statistics.service_statistics(memoryview(b"")) == statistics.Statistics()


def test_the_version_is_read_as_people_write_it() -> None:
    answer = netlink.u32(1, 0x010201) + netlink.u32(2, 4096)
    assert settings.decode_info(memoryview(answer)) == settings.Info("1.2.1", 4096)


@pytest.mark.parametrize(
    ("role", "group", "mtu", "length"),
    [
        (SyncRole.MASTER, "224.0.0.81", 9000, 1472),
        (SyncRole.MASTER, "ff02::81", 1500, 1452),
        (SyncRole.BACKUP, "224.0.0.81", 65536, 65507),
        (SyncRole.BACKUP, "224.0.0.81", 576, 1472),
    ],
)
def test_the_length_that_the_kernel_chooses(role: SyncRole, group: str, mtu: int, length: int) -> None:
    assert settings.default_length(role, ip_address(group), mtu) == length


@given(samples.services())
def test_every_service_survives_the_wire(sample: tuple[Endpoint | Fwmark, VirtualService]) -> None:
    key, service = sample
    assert services.decode_service(memoryview(services.service_bytes(key, service))[4:]) == (key, service)


@given(samples.server_keys, samples.real_servers())
def test_every_server_survives_the_wire(key: ServerKey, server: RealServer) -> None:
    encoded = memoryview(servers.server_bytes(key, server))[4:]
    assert servers.decode_server(key.service, encoded) == (key, server)


@given(samples.server_keys, samples.real_servers())
def test_the_kernels_own_order_is_read_like_any_other(key: ServerKey, server: RealServer) -> None:
    found = netlink.attributes(memoryview(servers.server_bytes(key, server))[4:])
    zero = memoryview(netlink.native(0, 4))
    order = [1, 2, 3, 4, 13, 14, 15, 5, 6, 7, 8, 9, 11]
    dumped = b"".join(netlink.attribute(kind, bytes(found.get(kind, zero))) for kind in order)
    assert servers.decode_server(key.service, memoryview(dumped)) == (key, server)


@given(samples.timers)
def test_timers_survive_the_wire(timers: Timers) -> None:
    assert settings.decode_timers(memoryview(settings.timers_bytes(timers))) == timers


@given(samples.sync_keys, samples.daemons)
def test_sync_daemons_survive_the_wire(key: SyncKey, daemon: SyncDaemon) -> None:
    assert settings.decode_daemon(memoryview(settings.daemon_bytes(key, daemon))) == (key, daemon)


@given(st.binary(max_size=200))
def test_garbage_ends_the_walk_and_raises_nothing(garbage: bytes) -> None:
    netlink.attributes(memoryview(garbage))
    list(netlink.messages(garbage))


def test_only_the_last_request_of_a_batch_asks_for_an_answer() -> None:
    framed = list(netlink.messages(netlink.batch(0x20, [b"abcd", b"efgh", b"ijkl"], 7, last=9)))
    assert [(message.sequence, message.flags) for message in framed] == [(7, 1), (8, 1), (9, 5)]
    assert [bytes(message.body) for message in framed] == [b"abcd", b"efgh", b"ijkl"]


def test_what_ipvs_cannot_say_is_a_value_error() -> None:
    key = ServerKey(WEB, IPv4Address("10.1.0.1"), 80)
    with pytest.raises(ValueError, match="fullnat"):
        servers.server_bytes(key, RealServer(Forwarding.FULLNAT, 1))
    with pytest.raises(ValueError, match="address or a mark"):
        services.key_bytes(Endpoint(EngineName.IPVS, Protocol.TCP, Family.IPV4, 80))
    with pytest.raises(ValueError, match="too long"):
        services.service_bytes(WEB, VirtualService("a-name-of-16-chr"))


def test_an_ipv6_server_of_an_ipv4_service_carries_its_own_family() -> None:
    key = ServerKey(WEB, IPv6Address("2001:db8::1"), 80)
    server = RealServer(Forwarding.TUNNEL, 1, tunnel=Tunnel())
    assert servers.decode_server(WEB, memoryview(servers.server_bytes(key, server))[4:]) == (key, server)


def body_of(operation: Operation) -> bytes:
    (pair,) = requests.encode([operation])
    return pair[1]
