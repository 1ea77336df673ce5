"""Nanoseconds a packet of the balancer program by what it meets, beside a MAC swap in the same mode and run.

    python3 -m bench.xdp [--packets N] [--rounds N] [--json]

Cases take turns, so that drift of the machine hits all alike; ratios of one run are the result, not nanoseconds.
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import numpy as np

from kernlb.engines import abi
from kernlb.engines.dataplane import XDP, Dataplane, Sizes
from kernlb.engines.libbpf import Object, Program

HERE = Path(__file__).parent
BALANCER = HERE.parent.parent / "bpf" / "balancer.bpf.o"
SLOTS, SERVERS = 65_537, 100
TCP, UDP, SYN, ACK = 6, 17, 2, 16
XDP_PASS, XDP_TX = 2, 3
NEW = 0x3FFFFFFF
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
    settings = abi.Settings(secret=0x5EED, memory_buckets=1 << 17, flow_buckets=1 << 16)
    plane = Dataplane.load(BALANCER, settings=settings, sizes=Sizes(services=8), programs=(XDP,))
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
    aim: float | None = None
    must: float | None = None
    against: str | None = None


class Wrapper:
    """A wrapper object of its own for each row."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.times: list[float] = []
        self._object = Object(HERE / "wrap.bpf.o")
        self._object.load("wrap")
        self._object.map("target")[abi.index(0)] = struct.pack("=I", row.program)
        self._program = self._object.program("wrap")
        self._plans = self._object.map("plans")

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


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--packets", type=int, default=500_000)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--json", action="store_true")
    asked = arguments.parse_args()
    subprocess.run(("make", "-s", "-C", HERE), check=True)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    base = Object(HERE / "wrap.bpf.o")
    base.load("swap")
    swap = base.program("swap").fd
    steady = balancer(current=lambda s: s, previous=lambda s: s)
    moving = balancer(current=lambda s: s, previous=lambda s: (s + 1) % SERVERS)
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
        Row("ACK, one flow", program, ack, XDP_TX, aim=3.5, must=6, against="MAC swap, one flow"),
        Row("ACK, 64k flows, steady", program, ack, XDP_TX, 4, flows, aim=4, must=6, against="MAC swap, 64k flows"),
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
        ),
        Row("UDP, one flow", program, udp, XDP_TX, aim=4, must=6, against="MAC swap, UDP"),
        Row("IPv6 ACK, one flow", program, ack6, XDP_TX, aim=4, must=6, against="MAC swap, IPv6"),
        Row("not a VIP, direct", program, other, XDP_PASS, direct=True, aim=1.8, must=2.4, against="MAC swap, direct"),
        Row("new flows, in transition", shifting, syn, XDP_TX, 4, NEW, against="MAC swap, all new"),
        Row("full NAT ACK, one flow, XDP", program, nat_ack, XDP_TX, against="MAC swap, one flow"),
        Row("full NAT SYN again, XDP", program, nat_syn, XDP_TX, against="MAC swap, one flow"),
    ]
    cases = [Wrapper(row) for row in rows]
    for turn in range(-1, asked.rounds):
        for case in cases:
            finite = case.row.mask and case.row.mask != NEW
            # The first round visits every flow once, in order; the others come in random order.
            case.measure(
                max(asked.packets, case.row.mask + 1) if finite else asked.packets, scatter=bool(finite and turn >= 0)
            )
            if turn < 0:
                case.forget()
    results = {case.row.label: case for case in cases}
    report = []
    for case in cases:
        row, median = case.row, statistics.median(case.times)
        ratio = median / statistics.median(results[row.against].times) if row.against else None
        report.append(
            {
                "case": row.label,
                "ns": round(median, 1),
                "ratio": ratio and round(ratio, 2),
                "aim": row.aim,
                "must": row.must,
            }
        )
    if asked.json:
        print(json.dumps({"rows": report}, indent=1))
    else:
        print(f"{'case':36}{'ns':>8}{'ratio':>8}{'aim':>6}{'must':>6}")
        for line in report:
            print(
                f"{line['case']:36}{line['ns']:8}{line['ratio'] or '':>8}{line['aim'] or '':>6}{line['must'] or '':>6}"
            )
    return 1 if any(line["must"] and line["ratio"] > line["must"] for line in report) else 0


if __name__ == "__main__":
    sys.exit(main())
