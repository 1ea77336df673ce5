"""The laws of an Engine on the eBPF balancer, in a namespace of its own, and what lives on there without a process."""

import gc
import os
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from subprocess import run

import pytest

from kernlb.config.values import Loader
from kernlb.engines import clock
from kernlb.engines.abi import TICK_MASK
from kernlb.engines.attach import Hook
from kernlb.engines.carried import Wish
from kernlb.engines.dataplane import Sizes
from kernlb.engines.frames import ACK, SYN, frame
from kernlb.engines.libbpf import Program
from kernlb.engines.maps import Map
from kernlb.engines.xdp import Xdp
from kernlb.errors import Unsupported
from kernlb.explaining import Flow, ask_program
from kernlb.kernel import Kernel
from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Forwarding,
    Key,
    Persistence,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    Table,
    Tunnel,
    TunnelKind,
    Value,
    VirtualService,
)
from kernlb.plan import Operation, Verb, diff
from kernlb.watch import Watch
from tests.engines.namespace import ip, one_interface
from tests.features import Feature, need
from tests.system.network import until

pytestmark = [pytest.mark.bpf, pytest.mark.netns]
SMALL = Sizes(services=64, keys=256, servers=4096, sources=16, memory_buckets=256, flow_buckets=256)
SLOTS = 251
HASHED = VirtualService(Scheduler.MAGLEV)
BY_CLIENT = VirtualService(Scheduler.SH)
SERVER = RealServer(Forwarding.FULLNAT, 1)


def vip(number: int, *, protocol: Protocol = Protocol.TCP, port: int = 80) -> Endpoint:
    return Endpoint(EngineName.XDP, protocol, ip_address(f"192.0.2.{number}"), port)


def real(service: Endpoint, number: int, port: int = 80) -> ServerKey:
    return ServerKey(service, ip_address("10.7.0.0") + number, port)


@pytest.fixture
def place(balancer: Path) -> Iterator[Path]:
    """Where pins go; a network with one interface, whose far end is in a namespace of its own."""
    path = Path(f"/sys/fs/bpf/kernlb/test-{os.getpid()}")
    with one_interface():
        ip("addr add fd07::1/64 dev front nodad")
        yield path
        engine(path).apply(diff({}, engine(path).read()))
    assert not path.exists()


def engine(place: Path, *, tcx: bool = True, loader: Loader = Loader.OBJECT) -> Xdp:
    """As another process would open it."""
    return Xdp(place, wish=Wish(), sizes=SMALL, slots=SLOTS, tcx=tcx, loader=loader)


def converge(xdp: Xdp, desired: Table) -> int:
    before = xdp.writes
    xdp.apply(diff(desired, xdp.read()))
    return xdp.writes - before


@pytest.mark.parametrize("loader", [Loader.OBJECT, Loader.BCC])
def test_playing_the_difference_makes_what_is_observed_what_is_desired(place: Path, loader: Loader) -> None:
    if loader is Loader.BCC:
        need(Feature.BCC)
    gue = Tunnel(TunnelKind.GUE, 6080)
    wildcard = Endpoint(EngineName.XDP, Protocol.UDP, Family.IPV4, 53)
    v6 = Endpoint(EngineName.XDP, Protocol.TCP, ip_address("2001:db8::1"), 0)
    tables: list[dict[Key, Value]] = [
        {vip(1): HASHED, real(vip(1), 1): SERVER, real(vip(1), 2): replace(SERVER, weight=7)},
        {vip(1): BY_CLIENT, real(vip(1), 2): replace(SERVER, weight=0), wildcard: HASHED, real(wildcard, 3, 0): SERVER},
        {
            v6: VirtualService(Scheduler.MAGLEV, persistence=Persistence(300, 128)),
            ServerKey(v6, ip_address("fd07::9"), 0): RealServer(Forwarding.DIRECT, 3),
            ServerKey(v6, ip_address("10.7.0.9"), 0): RealServer(Forwarding.TUNNEL, 2**20, tunnel=Tunnel()),
            vip(1): HASHED,
            real(vip(1), 5): RealServer(Forwarding.TUNNEL, 1, tunnel=gue),
        },
        {},
    ]
    xdp = engine(place, loader=loader)
    assert xdp.read() == {}
    for desired in tables:
        converge(xdp, desired)
        assert xdp.read() == engine(place).read() == desired
        assert converge(xdp, desired) == 0


def test_a_process_that_opens_it_again_and_again_keeps_nothing_open(place: Path) -> None:
    converge(engine(place), {vip(n): HASHED for n in range(1, 6)} | {real(vip(n), 1): SERVER for n in range(1, 6)})
    gc.collect()  # what others have left
    counts = []
    for _ in range(3):
        with closing(Watch(Kernel({EngineName.XDP: engine(place)}))) as watch:
            watch.kernel.counters()
            watch.kernel.tend()
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts[0] == counts[-1]


def test_what_the_program_cannot_do_is_refused(place: Path) -> None:
    xdp = engine(place)
    held: dict[Key, Value] = {vip(1): HASHED, real(vip(1), 1): SERVER}
    converge(xdp, held)
    with pytest.raises(Unsupported, match="no forwarding nat"):
        xdp.apply([Operation(Verb.ADD, real(vip(1), 2), None, replace(SERVER, forwarding=Forwarding.NAT))])
    assert xdp.read() == held


def test_a_gateway_that_sees_one_direction_does_not_know_how_many_connections_live(place: Path) -> None:
    xdp = engine(place)
    direct = replace(SERVER, forwarding=Forwarding.DIRECT)
    converge(xdp, {vip(1): HASHED, real(vip(1), 1): SERVER, vip(2): HASHED, real(vip(2), 2): direct})
    counters = xdp.counters()
    assert counters[vip(1)].live == counters[vip(1)].connections == 0
    assert counters[real(vip(2), 2)].live is None


def test_a_quiesced_server_that_is_sent_nothing_for_the_idle_timeout_has_no_connection(place: Path) -> None:
    xdp = Xdp(place, wish=Wish(idle=0.3), sizes=SMALL, slots=SLOTS)
    direct = replace(SERVER, forwarding=Forwarding.DIRECT)
    converge(xdp, {vip(1): HASHED, real(vip(1), 1): direct, real(vip(1), 2): direct})
    converge(xdp, {vip(1): HASHED, real(vip(1), 1): direct, real(vip(1), 2): replace(direct, weight=0)})
    assert xdp.counters()[real(vip(1), 2)].live is None
    assert until(lambda: xdp.counters()[real(vip(1), 2)].live == 0)
    assert xdp.counters()[real(vip(1), 1)].live is None


def test_a_transition_is_told_until_it_is_over_with_the_weights_of_before(place: Path) -> None:
    xdp = engine(place)
    direct = replace(SERVER, forwarding=Forwarding.DIRECT)
    one, two = real(vip(1), 1), real(vip(1), 2)
    converge(xdp, {vip(1): HASHED, one: direct, vip(2): HASHED, real(vip(2), 1): SERVER})
    assert xdp.transits() == {}
    converge(xdp, {vip(1): HASHED, one: direct, two: direct, vip(2): HASHED, real(vip(2), 2): SERVER})
    converge(
        xdp, {vip(1): HASHED, one: direct, two: replace(direct, weight=3), vip(2): HASHED, real(vip(2), 2): SERVER}
    )
    for told in (xdp.transits(), engine(place).transits()):
        assert set(told) == {vip(1)}, "full NAT knows its connections one by one"
        assert told[vip(1)].before == {one: 1, two: 0}
        assert 0 < told[vip(1)].slots < told[vip(1)].of == SLOTS
    hasty = Xdp(place, wish=Wish(idle=0.3), sizes=SMALL, slots=SLOTS)
    assert until(lambda: hasty.tend() or hasty.transits() == {})
    assert xdp.transits() == {}


def test_a_transition_from_servers_that_nobody_used_is_over_before_one_from_servers_in_use(place: Path) -> None:
    xdp = Xdp(place, wish=Wish(idle=3.0), sizes=SMALL, slots=SLOTS)
    direct = replace(SERVER, forwarding=Forwarding.DIRECT)
    before: dict[Key, Value] = {}
    for number in (1, 2):
        ip(f"neigh add 10.7.0.{number} lladdr 02:00:00:00:00:07 dev front")
        before |= {vip(number): HASHED, real(vip(number), number): direct}
    before[real(vip(1), 3)] = replace(direct, weight=0)
    converge(xdp, before)
    assert until(lambda: xdp.counters()[real(vip(1), 3)].live == 0), "nothing was sent for the idle timeout"
    packet = frame(ip_address("198.51.100.7"), 40000, ip_address("192.0.2.1"), 80, protocol=6, flags=ACK)
    Program.pinned("balancer_tc", place / "balancer_tc").run(packet)
    assert xdp.counters()[real(vip(1), 1)].packets_in == 1
    converge(xdp, before | {real(vip(number), 4): direct for number in (1, 2)})
    assert until(lambda: xdp.tend() or vip(2) not in xdp.transits())
    assert set(xdp.transits()) == {vip(1)}


def test_what_was_remembered_in_a_transition_that_is_over_decides_nothing_hours_later(place: Path) -> None:
    xdp = Xdp(place, wish=Wish(idle=1.0), sizes=SMALL, slots=SLOTS)
    direct = replace(SERVER, forwarding=Forwarding.DIRECT)
    quiet = replace(direct, weight=0)
    one, two, three = (real(vip(1), number) for number in (1, 2, 3))
    converge(xdp, {vip(1): HASHED, one: direct})
    converge(xdp, {vip(1): HASHED, one: quiet, two: direct})
    old = replace(flow("192.0.2.1", 40000), begins=False)
    program = Program.pinned("balancer_tc", place / "balancer_tc")
    program.run(packet_of(old))
    assert memories(place)
    assert until(lambda: xdp.tend() or xdp.transits() == {})
    program.run(packet_of(flow("192.0.2.1", 40001)))
    converge(xdp, {vip(1): HASHED, one: quiet, two: quiet, three: direct})
    # After 2^14 ticks a memory says again that it is new.
    rewrite_memories(place, age=1)
    assert ask_program(xdp, old).server == two


def test_while_a_transition_goes_on_what_is_old_is_forgotten_and_what_is_in_use_stays(place: Path) -> None:
    direct = replace(SERVER, forwarding=Forwarding.DIRECT)
    xdp = engine(place)
    converge(xdp, {vip(1): HASHED, real(vip(1), 1): direct})
    converge(xdp, {vip(1): HASHED, real(vip(1), 1): replace(direct, weight=0), real(vip(1), 2): direct})
    program = Program.pinned("balancer_tc", place / "balancer_tc")
    old, used = ([replace(flow("192.0.2.1", p), begins=False) for p in ports] for ports in (range(50), range(50, 100)))
    for each in old:
        program.run(packet_of(each))
    rewrite_memories(place, age=5000)
    for each in used:
        program.run(packet_of(each))
    known = sorted(memory >> 32 for memory in memories(place) if clock.now() - memory & TICK_MASK < 1000)
    engine(place).tend()
    assert sorted(memory >> 32 for memory in memories(place)) == known != []
    assert len(known) == len(used)


def memories(place: Path) -> list[int]:
    with Map.pinned(place / "memories") as found:
        return [word for (word,) in struct.iter_unpack("=Q", found.first(found.max_entries)) if word]


def rewrite_memories(place: Path, *, age: int) -> None:
    with Map.pinned(place / "memories") as found:
        for key in list(found.keys()):
            words = struct.unpack("=8Q", found[key])
            tick = clock.now() - age & TICK_MASK
            found[key] = struct.pack("=8Q", *(word and word & ~TICK_MASK | tick for word in words))


def packet_of(asked: Flow) -> bytes:
    flags = SYN if asked.begins else ACK
    return frame(asked.client, asked.client_port, asked.vip, asked.vip_port, protocol=6, flags=flags)


def test_what_another_process_has_written_is_what_holds(place: Path) -> None:
    first, second = engine(place), engine(place)
    tables: list[dict[Key, Value]] = [
        {vip(1): HASHED} | {real(vip(1), number): replace(SERVER, weight=weight) for number in range(1, 5)}
        for weight in (1, 2, 3, 4)
    ]
    for table, writer, reader in zip(tables, (first, second) * 2, (second, first) * 2, strict=True):
        table[real(vip(1), 1)] = replace(SERVER, weight=len(tables) * 2)
        converge(writer, table)
        assert reader.read() == table
        assert servers_of(reader) == servers_of(engine(place))
    converge(first, {})
    assert second.read() == {}
    converge(second, tables[0])
    assert first.read() == tables[0]


@pytest.mark.parametrize(("tcx", "hook"), [(True, Hook.TCX), (False, Hook.CLSACT)])
def test_the_program_hangs_until_nothing_is_carried_and_leaves_nothing(place: Path, tcx: bool, hook: Hook) -> None:
    converge(engine(place, tcx=tcx), {vip(1): HASHED, real(vip(1), 1): SERVER})
    assert set(engine(place).hooks().values()) == {hook}
    engine(place).tend()
    assert set(engine(place).hooks().values()) == {hook}
    converge(engine(place), {})
    assert engine(place).hooks() == {}
    shown = run(["tc", "qdisc", "show", "dev", "front"], capture_output=True, text=True, check=True).stdout
    assert "clsact" not in shown


def test_a_new_interface_and_a_new_address_are_followed(place: Path) -> None:
    everywhere = Endpoint(EngineName.XDP, Protocol.TCP, Family.IPV4, 80)
    xdp = engine(place)
    converge(xdp, {everywhere: HASHED, real(everywhere, 1): SERVER})
    before = len(xdp.hooks())
    for line in ("link add later type veth peer name beyond", "addr add 10.8.0.1/24 dev later", "link set later up"):
        ip(line)
    assert asked(xdp, "10.8.0.1") is None
    xdp.tend()
    assert len(xdp.hooks()) == before + 1
    assert asked(xdp, "10.8.0.1") == everywhere


def test_the_same_configuration_is_the_same_table_whatever_came_before(place: Path) -> None:
    """Two gateways agree: one that got its servers one by one, and one that got them together."""
    xdp = engine(place)
    desired: dict[Key, Value] = {vip(1): HASHED} | {real(vip(1), n): SERVER for n in range(1, 6)}
    for number in range(5, 0, -1):
        table = {k: v for k, v in desired.items() if k == vip(1) or k in [real(vip(1), n) for n in range(number, 6)]}
        converge(xdp, table)
    slowly = servers_of(xdp)
    converge(xdp, {})
    converge(xdp, desired)
    assert servers_of(xdp) == slowly


def asked(xdp: Xdp, address: str, port: int = 40000) -> Endpoint | None:
    answer = ask_program(xdp, flow(address, port))
    return answer.service if isinstance(answer.service, Endpoint) else None


def servers_of(xdp: Xdp) -> list[object]:
    return [ask_program(xdp, flow("192.0.2.1", port)).current for port in range(1024, 1224)]


def flow(address: str, port: int) -> Flow:
    client = ip_address("198.51.100.7")
    return Flow(
        client=client, client_port=port, vip=ip_address(address), vip_port=80, protocol=Protocol.TCP, begins=True
    )
