"""1,000 virtual services of 10 real servers each: made, changed by a hundredth, and found unchanged.

Beside `ipvsadm -R` on the same rules and keepalived starting on them. Everything happens in a network namespace of
this process, and ends with it. The budget is for planning and applying; the whole program is shown too, though in an
emulated guest most of its time is Python starting.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from bench.harness import Comparison, Count, Peer, Report, compare, machine
from bench.monitor import NetlinkMonitor
from kernlb.engines.ipvs import Ipvs
from kernlb.model import (
    Endpoint,
    EngineName,
    Forwarding,
    Key,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    TimersKey,
    Value,
    VirtualService,
)
from kernlb.plan import diff
from tests.engines.namespace import fresh_network

NEEDS_IPVS = True
SERVICES = 1000
SERVERS = 10
BUDGET = 2.0
IPVSADM = "ipvsadm -R"
KEEPALIVED = "keepalived, starting"
IN_PROCESS = "kernlb, read + plan + apply"
PROGRAM = "kernlb apply, the whole program"
PATIENCE = 300.0

Progress = Callable[[str], None]


def run(rounds: int, progress: Progress) -> Report:
    table = rules()
    changed = one_in_a_hundred(table)
    with fresh_network(), tempfile.TemporaryDirectory() as scratch, Ipvs() as engine:
        place = Path(scratch)
        comparisons = (
            _made(engine, table, place, rounds, progress),
            _kept_up(engine, table, changed, rounds, progress),
        )
        counts = _writes(engine, table, changed, progress)
    return Report("apply", comparisons, counts, machine())


def rules() -> dict[Key, Value]:
    table: dict[Key, Value] = {}
    for number in range(SERVICES):
        service = Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("10.64.0.0") + number, 80)
        table[service] = VirtualService(Scheduler.WRR)
        for member in range(SERVERS):
            address = IPv4Address("10.128.0.0") + number * SERVERS + member
            table[ServerKey(service, address, 80)] = RealServer(Forwarding.NAT, 1)
    return table


def one_in_a_hundred(table: dict[Key, Value]) -> dict[Key, Value]:
    servers = [(key, value) for key, value in table.items() if isinstance(value, RealServer)]
    return table | {key: replace(value, weight=value.weight + 1) for key, value in servers[::100]}


def ipvsadm_rules(table: dict[Key, Value]) -> str:
    lines = []
    for key in table:
        match key:
            case Endpoint(address=address, port=port):
                lines.append(f"-A -t {address}:{port} -s wrr")
            case ServerKey(service=Endpoint(address=virtual, port=port), address=address, port=own):
                lines.append(f"-a -t {virtual}:{port} -r {address}:{own} -m -w 1")
    return "\n".join([*lines, ""])


def keepalived_rules(table: dict[Key, Value]) -> str:
    lines = ["global_defs {", "  router_id bench", "}"]
    for key in table:
        match key:
            case Endpoint(address=address, port=port):
                if len(lines) > 3:
                    lines.append("}")
                lines += [f"virtual_server {address} {port} {{", "  lb_algo wrr", "  lb_kind NAT", "  protocol TCP"]
            case ServerKey(address=address, port=port):
                lines.append(f"  real_server {address} {port} {{ weight 1 }}")
    return "\n".join([*lines, "}", ""])


def kernlb_rules(table: dict[Key, Value]) -> str:
    lines = ["[engine]", 'default = "ipvs"', "[defaults]", 'scheduler = "wrr"', 'forwarding = "nat"']
    for number, key in enumerate(table):
        match key:
            case Endpoint(address=address, port=port):
                lines += [f"[service.s{number}]", f'bind = ["{address}:{port}"]', f"[service.s{number}.servers]"]
            case ServerKey(address=address, port=port):
                lines.append(f'r{number} = "{address}:{port}"')
    return "\n".join([*lines, ""])


def clear() -> None:
    subprocess.run(["ipvsadm", "-C"], check=True, timeout=PATIENCE)


def _plan_and_apply(engine: Ipvs, desired: dict[Key, Value]) -> float:
    started = time.perf_counter()
    observed = {key: value for key, value in engine.read().items() if key != TimersKey()}
    engine.apply(diff(desired, observed))
    return time.perf_counter() - started


def _made(engine: Ipvs, table: dict[Key, Value], place: Path, rounds: int, progress: Progress) -> Comparison:
    saved, toml, conf = place / "rules", place / "kernlb.toml", place / "keepalived.conf"
    saved.write_text(ipvsadm_rules(table))
    toml.write_text(kernlb_rules(table))
    conf.write_text(keepalived_rules(table))

    def ipvsadm() -> float:
        clear()
        with saved.open() as text:
            started = time.perf_counter()
            subprocess.run(["ipvsadm", "-R"], stdin=text, check=True, timeout=PATIENCE)
            return time.perf_counter() - started

    def in_process() -> float:
        clear()
        return _plan_and_apply(engine, table)

    def program() -> float:
        clear()
        with tempfile.TemporaryDirectory(dir=place) as own:
            command = [sys.executable, "-m", "kernlb", "apply", "--deadline", "0", "--json"]
            command += ["--run-dir", f"{own}/run", "--state-dir", f"{own}/state", str(toml)]
            started = time.perf_counter()
            subprocess.run(command, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
            taken = time.perf_counter() - started
        return _complete(engine, table, taken)

    def keepalived() -> float:
        clear()
        command = ["keepalived", "--dont-fork", "--check", "--use-file", str(conf)]
        command += ["--pid", f"{place}/main.pid", "--checkers_pid", f"{place}/checkers.pid"]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                taken = _until_there(engine, table, started, process)
            finally:
                process.terminate()
                process.wait(PATIENCE)
        return taken

    peers = [
        Peer(IPVSADM, ipvsadm),
        Peer(IN_PROCESS, in_process),
        Peer(PROGRAM, program),
        Peer(KEEPALIVED, keepalived),
    ]
    return compare(
        f"{SERVICES} x {SERVERS} into empty IPVS",
        peers,
        rounds=rounds,
        baseline=IPVSADM,
        budget=BUDGET,
        held=(IN_PROCESS,),
        progress=progress,
    )


def _kept_up(
    engine: Ipvs, table: dict[Key, Value], changed: dict[Key, Value], rounds: int, progress: Progress
) -> Comparison:
    """What a peer without a diff does for a change is the whole again, so the baseline is applying the whole."""
    clear()
    _plan_and_apply(engine, table)
    turn = [table, changed]

    def hundredth() -> float:
        turn.reverse()
        return _plan_and_apply(engine, turn[0])

    peers = [
        Peer("kernlb, 1 % changed", hundredth),
        Peer("kernlb, nothing changed", lambda: _plan_and_apply(engine, turn[0])),
    ]
    return compare("read + plan + apply again", peers, rounds=rounds, baseline=peers[1].name, progress=progress)


def _writes(engine: Ipvs, table: dict[Key, Value], changed: dict[Key, Value], progress: Progress) -> tuple[Count, ...]:
    """Counted where the kernel receives them, not where we believe to send them."""
    clear()
    found: list[Count] = []
    with NetlinkMonitor(engine) as monitor:
        for title, desired, expected in (
            ("writing messages into empty IPVS", table, len(table)),
            ("writing messages, 1 % changed", changed, SERVICES * SERVERS // 100),
            ("writing messages, nothing changed", changed, 0),
        ):
            _plan_and_apply(engine, desired)
            found.append(Count(title, monitor.writes(), expected))
            progress(f"{title}: {found[-1].found}")
    return tuple(found)


def _complete(engine: Ipvs, table: dict[Key, Value], taken: float) -> float:
    if engine.read_services() != table:
        raise SystemExit("bench: the kernel does not hold the rules that were applied")
    return taken


def _until_there(engine: Ipvs, table: dict[Key, Value], started: float, process: subprocess.Popen[bytes]) -> float:
    """Until the last service has its servers; asked seldom and for that service only, for asking costs the asked."""
    last = list(table)[-SERVERS - 1]
    while time.perf_counter() - started < PATIENCE:
        if process.poll() is not None:
            raise SystemExit(f"bench: keepalived left with status {process.returncode}")
        if isinstance(last, Endpoint) and engine.count_servers(last) == SERVERS:
            return _complete(engine, table, time.perf_counter() - started)
        time.sleep(0.05)
    raise SystemExit("bench: keepalived was not ready in time")
