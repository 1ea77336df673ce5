"""Nanoseconds a packet of the balancer program by what it meets, beside a MAC swap in the same mode and run: of the
object that is shipped, and of what BCC compiles for a configuration like the row's, over the same maps.

    python3 -m bench.xdp [--packets N] [--rounds N] [--object] [--json]

Cases take turns, so that drift of the machine hits all alike; ratios of one run are the result, not nanoseconds.
"""

import argparse
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import numpy as np

from kernlb.engines import abi
from kernlb.engines.bcc_loader import Compilation
from kernlb.engines.dataplane import TC, XDP, Dataplane, Sizes
from kernlb.engines.libbpf import Object, Program
from kernlb.engines.maps import Map

HERE = Path(__file__).parent
BALANCER = HERE.parent.parent / "bpf" / "balancer.bpf.o"
SLOTS, SERVERS = 65_537, 100
SETTINGS = abi.Settings(secret=0x5EED, memory_buckets=1 << 17, flow_buckets=1 << 16)
SIZES = Sizes(services=8)
TCP, UDP, SYN, ACK = 6, 17, 2, 16
XDP_PASS, XDP_TX = 2, 3
TC_ACT_OK, TC_ACT_REDIRECT = 0, 7
NEW = 0x3FFFFFFF
PROGRAMS = (XDP, TC)
ITSELF = {"XDP": 25.0, "tc": 35.0}
"""Nanoseconds that a packet of full NAT may take at a hook beyond what an empty program does, the test run's own part
included: that is 5 on some machines and 30 on others."""
COLUMNS = {"ns": 8, "ratio": 8, "bcc_ns": 8, "bcc_ratio": 8, "aim": 6, "must": 6}
MACS = bytes.fromhex("020000000001020000000002")
CLIENT4, CLIENT6 = ip_address("192.168.1.1"), ip_address("fc00:2::1")
VIP4, VIP6, OTHER = ip_address("10.200.1.1"), ip_address("fc00:1::1"), ip_address("10.99.0.1")
NAT4, SOURCE4 = ip_address("10.200.2.1"), ip_address("10.0.0.254")


def packet(destination: abi.Address, protocol: int, flags: int = 0) -> bytes:
    transport = (
        struct.pack("!HHIIBBHHH", 31337, 80, 1, 1, 0x50, flags, 8192, 0, 0)
        if protocol == TCP
        else struct.pack("!HHHH", 31337, 80, 26, 0) + bytes(18)
    )
    if isinstance(destination, IPv6Address):
        head = struct.pack("!IHBB", 6 << 28, len(transport), protocol, 64) + CLIENT6.packed + destination.packed
        return MACS + b"\x86\xdd" + head + transport
    transport += bytes(6 if protocol == TCP else 0)
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(transport), 1, 0, 64, protocol, 0, CLIENT4.packed, destination.packed
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return MACS + b"\x08\x00" + head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + transport


def balancer(*, current: Callable[[int], int], previous: Callable[[int], int]) -> Dataplane:
    """A hundred servers behind IPIP, full NAT on an address of its own."""
    plane = Dataplane.load(BALANCER, settings=SETTINGS, sizes=SIZES, programs=PROGRAMS)
    nat = abi.Filter.SERVICE | abi.Filter.NAT
    plane.set_filter({VIP4: abi.Filter.SERVICE, VIP6: abi.Filter.SERVICE, NAT4: nat, SOURCE4: abi.Filter.NAT})
    hop = abi.Hop(destination=bytes(6), source=bytes(6), method=abi.HopMethod.ADDRESSES)
    for id_ in range(SERVERS):
        inside: tuple[tuple[abi.Address, abi.Address, abi.Forward, int], ...] = (
            (IPv4Address(f"10.0.1.{id_}"), SOURCE4, abi.Forward.IPIP, 0),
            (IPv6Address(f"fc00:3::{id_:x}"), IPv6Address("fc00:3::ffff"), abi.Forward.IPIP, SERVERS),
            (IPv4Address(f"10.0.2.{id_}"), SOURCE4, abi.Forward.FULLNAT, 2 * SERVERS),
        )
        for address, source, forward, base in inside:
            plane.set_server(
                base + id_,
                abi.Server(address=address, source=source, forward=forward, hop=hop, port=80, source_count=1),
            )
    plane.set_source(0, abi.Source(address=SOURCE4, first_port=1024, port_count=31744))
    random = np.random.default_rng(1)
    spread = random.permutation(np.arange(SLOTS) % SERVERS)
    for service, (address, base) in enumerate(((VIP4, 0), (VIP6, SERVERS), (NAT4, 2 * SERVERS))):
        words = [
            np.array([choose(int(s)) for s in spread], dtype=np.uint16) + np.uint16(base)
            for choose in (current, previous)
        ]
        plane.table(service, SLOTS).write(*words)
        for protocol in (TCP, UDP):
            plane.set_service(
                abi.ServiceKey(address=address, port=80, protocol=protocol),
                abi.Service(id=service, slots=SLOTS, idle=900),
            )
    return plane


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    program: int
    packet: bytes
    expected: int
    family: int = 0
    mask: int = 0
    direct: bool = False
    tc: bool = False
    aim: float | None = None
    must: float | None = None
    against: str | None = None
    special: int | None = None


class Loading:
    """How long programs take to be there, and the memory of the process that compiles."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def specialised(self, name: str, plane: Dataplane, **features: bool) -> Dataplane:
        """What BCC makes for these features, over the maps of a program that is loaded."""
        off = dict.fromkeys(("ipv6", "fullnat", "tunnel", "transition", "limits"), False)
        settings = replace(SETTINGS, **{**off, **features})
        with Object(BALANCER) as opened:
            maps = opened.map_names()
        begun = time.monotonic()
        code = Compilation(BALANCER.parent, settings, programs=PROGRAMS, maps=maps).result()
        compiled = time.monotonic()
        loaded = Dataplane.load(
            BALANCER, settings=settings, sizes=SIZES, programs=PROGRAMS, reuse=plane.maps, code=code
        )
        self.seconds[f"bcc, {name}: compile"] = compiled - begun
        self.seconds[f"bcc, {name}: load"] = time.monotonic() - compiled
        return loaded

    def whole(self, name: str, load: Callable[[], Dataplane]) -> Dataplane:
        begun = time.monotonic()
        plane = load()
        self.seconds[name] = time.monotonic() - begun
        return plane


class Wrapper:
    """A wrapper object of its own for each program of a row."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.times: list[float] = []
        self._object = Object(HERE / "wrap.bpf.o")
        name = "wrap_tc" if row.tc else "wrap"
        self._object.load(name)
        Map(self._object.map("target"))[abi.index(0)] = struct.pack("=I", row.program)
        self._program = self._object.program(name)
        self._plans = Map(self._object.map("plans"))

    def measure(self, packets: int, *, scatter: bool) -> None:
        row = self.row
        if row.direct:
            target = Program(row.label, row.program)
        else:
            plan = struct.pack("=6I80s", len(row.packet), row.family, row.mask, scatter, 0, 0, row.packet[:80])
            old = self._plans[abi.index(0)]
            following = old[:24][16:20]
            self._plans[abi.index(0)] = plan[:16] + following + plan[20:]
            target = self._program
        begun = time.thread_time_ns()
        verdict = target.run(row.packet, repeat=packets).verdict
        self.times.append((time.thread_time_ns() - begun) / packets)
        if verdict != row.expected:
            raise SystemExit(f"{row.label}: verdict {verdict}, expected {row.expected}")

    def forget(self) -> None:
        self.times.clear()


def told(row: Row, medians: Mapping[str, float], bcc: float | None) -> dict[str, Any]:
    base = medians[row.against] if row.against else None
    return {
        "case": row.label,
        "ns": round(medians[row.label], 1),
        "ratio": base and round(medians[row.label] / base, 2),
        "bcc_ns": bcc and round(bcc, 1),
        "bcc_ratio": bcc and base and round(bcc / base, 2),
        "aim": row.aim,
        "must": row.must,
    }


def full_nat(hook: str, medians: Mapping[str, float], compiled: Mapping[str, float]) -> dict[str, Any]:
    label, empty = f"full NAT ACK, one flow, {hook}", medians[f"empty, {hook}"]
    bcc = round(compiled[label] - empty, 1) if label in compiled else None
    return {"hook": hook, "ns": round(medians[label] - empty, 1), "bcc_ns": bcc, "must": ITSELF[hook]}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--packets", type=int, default=500_000)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--object", action="store_true", help="leave BCC out")
    arguments.add_argument("--json", action="store_true")
    asked = arguments.parse_args()
    subprocess.run(("make", "-s", "-C", HERE), check=True)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    base = Object(HERE / "wrap.bpf.o")
    base.load("swap", "empty", "empty_tc")
    swap, empty, empty_tc = (base.program(name).fd for name in ("swap", "empty", "empty_tc"))
    loading = Loading()
    steady = loading.whole(
        "object: load, and fill its maps", lambda: balancer(current=lambda s: s, previous=lambda s: s)
    )
    moving = balancer(current=lambda s: s, previous=lambda s: (s + 1) % SERVERS)
    four = six = nat = nat_tc = four_moving = None
    if not asked.object:
        four = loading.specialised("IPv4 tunnels", steady, tunnel=True, transition=True).program(XDP).fd
        six = (
            loading.specialised("IPv4 and IPv6 tunnels", steady, ipv6=True, tunnel=True, transition=True)
            .program(XDP)
            .fd
        )
        translating = loading.specialised("IPv4 full NAT", steady, fullnat=True)
        nat, nat_tc = translating.program(XDP).fd, translating.program(TC).fd
        four_moving = loading.specialised("IPv4 tunnels", moving, tunnel=True, transition=True).program(XDP).fd
    program, shifting = steady.program(XDP).fd, moving.program(XDP).fd
    syn, ack, udp = packet(VIP4, TCP, SYN), packet(VIP4, TCP, ACK), packet(VIP4, UDP)
    ack6, nat_syn, nat_ack, other = (
        packet(VIP6, TCP, ACK),
        packet(NAT4, TCP, SYN),
        packet(NAT4, TCP, ACK),
        packet(OTHER, TCP, ACK),
    )
    flows = 0xFFFF
    steady.program(XDP).run(nat_syn)
    rows = [
        Row("MAC swap, one flow", swap, ack, XDP_TX),
        Row("MAC swap, 64k flows", swap, ack, XDP_TX, 4, flows),
        Row("MAC swap, all new", swap, syn, XDP_TX, 4, NEW),
        Row("MAC swap, UDP", swap, udp, XDP_TX),
        Row("MAC swap, IPv6", swap, ack6, XDP_TX),
        Row("MAC swap, direct", swap, other, XDP_TX, direct=True),
        Row("ACK, one flow", program, ack, XDP_TX, aim=3.5, must=6, against="MAC swap, one flow", special=four),
        Row(
            "ACK, 64k flows, steady",
            program,
            ack,
            XDP_TX,
            4,
            flows,
            aim=4,
            must=6,
            against="MAC swap, 64k flows",
            special=four,
        ),
        Row(
            "every packet a new flow, steady",
            program,
            syn,
            XDP_TX,
            4,
            NEW,
            aim=4,
            must=5.5,
            against="MAC swap, all new",
            special=four,
        ),
        Row(
            "ACK, 64k flows, in transition",
            shifting,
            ack,
            XDP_TX,
            4,
            flows,
            aim=12,
            must=25,
            against="MAC swap, 64k flows",
            special=four_moving,
        ),
        Row("UDP, one flow", program, udp, XDP_TX, aim=4, must=6, against="MAC swap, UDP", special=four),
        Row("IPv6 ACK, one flow", program, ack6, XDP_TX, aim=4, must=6, against="MAC swap, IPv6", special=six),
        Row(
            "not a VIP, direct",
            program,
            other,
            XDP_PASS,
            direct=True,
            aim=1.8,
            must=2.4,
            against="MAC swap, direct",
            special=four,
        ),
        Row(
            "new flows, in transition", shifting, syn, XDP_TX, 4, NEW, against="MAC swap, all new", special=four_moving
        ),
        Row("full NAT SYN again, XDP", program, nat_syn, XDP_TX, against="MAC swap, one flow", special=nat),
        Row("full NAT ACK, one flow, XDP", program, nat_ack, XDP_TX, against="MAC swap, one flow", special=nat),
        Row("full NAT ACK, one flow, tc", steady.program(TC).fd, nat_ack, TC_ACT_REDIRECT, special=nat_tc, tc=True),
        Row("empty, XDP", empty, nat_ack, XDP_PASS),
        Row("empty, tc", empty_tc, nat_ack, TC_ACT_OK, tc=True),
    ]
    cases = [Wrapper(row) for row in rows]
    special = {row.label: Wrapper(replace(row, program=row.special)) for row in rows if row.special is not None}
    for turn in range(-1, asked.rounds):
        for case in (*cases, *special.values()):
            finite = case.row.mask and case.row.mask != NEW
            # The first round visits every flow once, in order; the others come in random order.
            case.measure(
                max(asked.packets, case.row.mask + 1) if finite else asked.packets, scatter=bool(finite and turn >= 0)
            )
            if turn < 0:
                case.forget()
    medians = {case.row.label: statistics.median(case.times) for case in cases}
    compiled = {label: statistics.median(case.times) for label, case in special.items()}
    report = [told(row, medians, compiled.get(row.label)) for row in rows]
    itself = [full_nat(hook, medians, compiled) for hook in ITSELF]
    seconds = {name: round(spent, 2) for name, spent in loading.seconds.items()}
    peak = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    if asked.json:
        print(json.dumps({"rows": report, "full_nat": itself, "seconds": seconds, "compiler_mib": peak}, indent=1))
    else:
        print(f"{'case':36}{'object':>8}{'ratio':>8}{'bcc':>8}{'ratio':>8}{'aim':>6}{'must':>6}")
        for line in report:
            columns = [(line[name] or "", width) for name, width in COLUMNS.items()]
            print(f"{line['case']:36}" + "".join(f"{value:>{width}}" for value, width in columns))
        for line in itself:
            ours = f"full NAT at {line['hook']}, without what an empty program costs"
            print(f"{ours:52}{line['ns']:8} ns, bcc {line['bcc_ns']}, must {line['must']}")
        for name, spent in seconds.items():
            print(f"{name:44}{spent:8} s")
        print(f"{'the compiling process, at most':44}{peak:8} MiB")
    exceeded = [line for line in report if line["must"] and line["ratio"] > line["must"]]
    return 1 if exceeded or any(line["ns"] > line["must"] for line in itself) else 0


if __name__ == "__main__":
    sys.exit(main())
