"""The daemon with real traffic through the kernel: servers die, the daemon is killed, others meddle.

A guest is slow: CI kills the daemon three times and reloads it a dozen. KERNLB_KILLS=10 KERNLB_RELOADS=50 do the whole.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kernlb.control_client import ControlClient
from kernlb.demo.http import Tally, keep_busy, read_answer, serve
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS, Answer
from tests.system.director import Director, answer_nobody, director, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]
ENGINES = [
    pytest.param("ipvs", marks=pytest.mark.ipvs),
    pytest.param("xdp", marks=[pytest.mark.bpf, pytest.mark.netns]),
]

KILLS = int(os.environ.get("KERNLB_KILLS", "3"))
RELOADS = int(os.environ.get("KERNLB_RELOADS", "12"))
WRONG = "[service.web]\nbnd = 1\n"
CHECK = 'check = { type = "tcp", interval = "2s", timeout = "1s", rise = 1, fall = 3 }\n'


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Director]:
    with director(tmp_path_factory.mktemp("daemon")) as found:
        yield found


@pytest.fixture
def gateway(network: Director) -> Iterator[Director]:
    yield network
    network.call("clear")
    answer_nobody(network.lab)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def service(
    *names: str, engine: str = "ipvs", more: str = "", check: str = CHECK, bind: str = f"{DIRECTOR_FRONT}:80"
) -> str:
    listed = "".join(f'{name} = "{SERVERS[name]}:80"\n' for name in names)
    head = f'[service.web]\nengine = "{engine}"\nbind = ["{bind}"]\nforwarding = "fullnat"\n'
    return f"{head}{check}{more}[service.web.servers]\n{listed}"


@dataclass(slots=True)
class Running:
    gateway: Director
    answer: Answer

    @property
    def log(self) -> str:
        path = self.gateway.directory / f"err.{self.answer.pid}"
        return path.read_text() if path.exists() else ""

    def end(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.answer.pid, number)
        if number == signal.SIGTERM:
            said = self.answer.value(timeout=60)
            assert said.code == 0, said.err
        else:
            self.answer._process.join()


@contextmanager
def running(gateway: Director, text: str, *options: str) -> Iterator[Running]:
    daemon = start(gateway, text, *options)
    try:
        yield daemon
    finally:
        if daemon.answer._process.is_alive():
            daemon.end()


def start(gateway: Director, text: str, *options: str) -> Running:
    daemon = Running(gateway, gateway.begin("run", gateway.file(text), *options))
    try:
        # The first use of nftables in a guest loads its modules from a slow disk.
        until(lambda: client(gateway).serves() or not daemon.answer._process.is_alive(), patience=150)
        assert daemon.answer._process.is_alive(), daemon.log
    except AssertionError as error:
        daemon.end(signal.SIGKILL)
        raise AssertionError(f"{error}\n{daemon.log}") from error
    return daemon


def client(gateway: Director) -> ControlClient:
    # Asked from here: a verb in a process of its own takes a second in a guest.
    return ControlClient(gateway.directory / "run" / gateway.lab.namespace("director") / "control.sock", timeout=30)


def status(gateway: Director) -> dict[str, str]:
    (web,) = client(gateway).status()["services"]
    return {server["name"]: server["status"] for server in web["servers"]}


def kernel(gateway: Director, engine: str = "ipvs") -> str:
    """The virtual services with the weights of their servers: of IPVS, as another program reads them."""
    if engine == "ipvs":
        return told(gateway, "ipvsadm", "-Sn")
    (web,) = gateway.ask("show")["services"]
    return "\n".join(f"{server['address']} -w {server['weight']}" for server in web["servers"])


def told(gateway: Director, *command: str) -> str:
    """What a command says inside the director; nothing where it fails."""
    entered = ["ip", "netns", "exec", gateway.lab.namespace("director"), *command]
    return subprocess.run(entered, capture_output=True, text=True, timeout=60, check=False).stdout


def without_counters(listing: str) -> str:
    return re.sub(r"packets \d+ bytes \d+", "", listing)


def inside(gateway: Director, *command: str) -> None:
    subprocess.run(["ip", "netns", "exec", gateway.lab.namespace("director"), *command], timeout=60, check=True)


@contextmanager
def load(gateway: Director, *, parallel: int = 4, lifetime: float = 0.0) -> Iterator[list[Tally]]:
    """Requests without pause; the Tally is there afterwards."""
    here, there = Pipe()
    answer = gateway.lab.ask("client", keep_busy, there, DIRECTOR_FRONT, 80, parallel, lifetime)
    found: list[Tally] = []
    try:
        yield found
    finally:
        here.send("enough")
        found.append(answer.value(timeout=60))


@contextmanager
def kept(gateway: Director, *, count: int = 8) -> Iterator[list[list[set[str]]]]:
    """Connections that stay open and ask now and then: afterwards, who answered on each."""
    here, there = Pipe()
    answer = gateway.lab.ask("client", stay, there, DIRECTOR_FRONT, count)
    assert here.recv() == "open"
    found: list[list[set[str]]] = []
    try:
        yield found
    finally:
        here.send("enough")
        found.append(answer.value(timeout=60))


def stay(result: Connection, talk: Connection, address: str, count: int) -> None:
    asyncio.run(_stay(result, talk, address, count))


async def _stay(result: Connection, talk: Connection, address: str, count: int) -> None:
    opened = [await asyncio.open_connection(address, 80) for _ in range(count)]
    servers: list[set[str]] = [set() for _ in opened]
    talk.send("open")
    while not talk.poll():
        for (reader, writer), seen in zip(opened, servers, strict=True):
            try:
                writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                seen.add((await asyncio.wait_for(read_answer(reader), 20))[0])
            except (OSError, EOFError) as error:
                seen.add(repr(error))
        await asyncio.sleep(0.1)
    result.send(servers)


@pytest.mark.ipvs
def test_a_killed_server_is_out_long_before_fall_times_interval_and_comes_back(gateway: Director) -> None:
    # A fourth server of the test's own, so that it may die.
    victim = gateway.lab.start("server3", serve, "server3", SERVERS["server3"], 8080)
    slow = CHECK.replace('"2s"', '"10s"')
    text = service("server1", "server2", check=slow) + f'victim = "{SERVERS["server3"]}:8080"\n'
    with running(gateway, text) as daemon, load(gateway):
        until(lambda: status(gateway) == {"server1": "up", "server2": "up", "victim": "up"})
        time.sleep(1)
        victim.kill()
        began = time.monotonic()
        until(lambda: f"{SERVERS['server3']}:8080" not in kernel(gateway))
        took = time.monotonic() - began
        assert took < 20, f"{took:.2f} s, of fall x interval 30 s\n{daemon.log}"
        print(f"out after {took:.2f} s")
        gateway.lab.start("server3", serve, "server3", SERVERS["server3"], 8080)
        until(lambda: f"{SERVERS['server3']}:8080" in kernel(gateway))


def test_killing_the_daemon_again_and_again_fails_no_request_and_it_adopts_what_it_finds(
    gateway: Director, engine: str
) -> None:
    text = service("server1", "server2", engine=engine)
    daemon = start(gateway, text)
    with load(gateway) as tallies:
        until(lambda: set(status(gateway).values()) == {"up"})
        gateway.call("weight", "web", "server2", "3")
        before = kernel(gateway, engine)
        for _ in range(KILLS):
            daemon.end(signal.SIGKILL)
            assert kernel(gateway, engine) == before
            daemon = start(gateway, text)
            assert kernel(gateway, engine) == before
            assert client(gateway).status()["daemon"]["writes"] == 0
            assert set(status(gateway).values()) == {"up"}
        daemon.end()
        assert kernel(gateway, engine) == before
    assert not tallies[0].failed
    assert tallies[0].answered > 50


@pytest.mark.ipvs
def test_what_others_flush_is_back_within_seconds(gateway: Director) -> None:
    conntrack = ["sysctl", "-n", "net.ipv4.vs.conntrack"]
    with running(gateway, service("server1", "server2", bind="*:80")) as daemon:
        parts: list[Callable[[], str]] = [
            lambda: kernel(gateway),
            lambda: without_counters(told(gateway, "nft", "-nn", "list", "table", "inet", "kernlb")),
            lambda: told(gateway, *conntrack),
        ]
        until(lambda: set(status(gateway).values()) == {"up"}, patience=60)
        until(lambda: client(gateway).status()["daemon"]["reconciled"], patience=60)
        before = [part() for part in parts]
        meddling = (["ipvsadm", "-C"], ["nft", "flush", "ruleset"], ["sysctl", "-qw", "net.ipv4.vs.conntrack=0"])
        for part, was, command in zip(parts, before, meddling, strict=True):
            inside(gateway, *command)
            began = time.monotonic()
            until(lambda part=part, was=was: part() == was)
            print(f"{' '.join(command)}: back after {time.monotonic() - began:.2f} s")
        until(lambda: not gateway.requests(1, DIRECTOR_FRONT).failed)
        until(lambda: client(gateway).status()["daemon"]["reconciled"])
        assert daemon.log.count("event=drift-repaired") >= 3


def test_a_drain_under_load_fails_no_request_and_ends(gateway: Director, engine: str) -> None:
    with running(gateway, service("server1", "server2", engine=engine)), load(gateway, lifetime=1.0) as tallies:
        until(lambda: set(status(gateway).values()) == {"up"})
        said = gateway.call("drain", "web", "server2", "--deadline", "30s", "--json").document
        assert said["through"] == "daemon"
        assert said["drained"]
        assert SERVERS["server2"] not in kernel(gateway, engine)
        gateway.call("resume", "web", "server2")
        assert SERVERS["server2"] in kernel(gateway, engine)
    assert not tallies[0].failed


def quiesced(server: str, listed: str) -> bool:
    return any(server in line and line.endswith("-w 0") for line in listed.splitlines())


@pytest.mark.parametrize("returns", [False, True])
def test_a_drain_is_followed_past_the_end_of_the_daemon(gateway: Director, engine: str, returns: bool) -> None:
    text = service("server1", "server2", engine=engine)
    with ExitStack() as undo:
        daemon = undo.enter_context(running(gateway, text))
        until(lambda: set(status(gateway).values()) == {"up"})
        undo.enter_context(kept(gateway))
        draining = gateway.begin("drain", "web", "server2", "--deadline", "15s", "--json")
        watching = gateway.begin("status", "--watch", "--json")
        # Whether or not the order is answered by then.
        until(lambda: quiesced(SERVERS["server2"], kernel(gateway, engine)))
        daemon.end()
        if returns:
            undo.enter_context(running(gateway, text))
        said = draining.value(timeout=100)
        assert said.code == 0, said.err
        assert said.document["drained"]
        assert SERVERS["server2"] not in kernel(gateway, engine)
    seen = watching.value(timeout=60)
    assert (seen.code, json.loads(seen.err)["error"]["kind"]) == (1, "no-daemon")


def test_reloads_under_load_some_of_them_invalid_fail_no_request_and_move_no_connection(
    gateway: Director, engine: str
) -> None:
    both = ("server1", "server2")
    files = [
        service(*both, engine=engine),
        WRONG,
        service(*both, "server3", engine=engine),
        service(*both, engine=engine, more='scheduler = "wlc"\n'),
        service(*both, engine=engine, more="quorum = 2\n" if engine == "xdp" else "max_connections = 4000\n"),
    ]
    with (
        running(gateway, files[0], "--deadline", "5s"),
        load(gateway, parallel=8, lifetime=0.5) as tallies,
        kept(gateway) as connections,
    ):
        for _, text in zip(range(RELOADS), cycle(files), strict=False):
            gateway.file(text)
            gateway.call("reload", allowed=(1 if text is WRONG else 0,))
    print(f"{RELOADS} reloads: {tallies[0].answered} requests answered, {len(connections[0])} connections kept")
    assert not tallies[0].failed
    assert all(servers < set(both) and len(servers) == 1 for servers in connections[0]), connections


@pytest.mark.ipvs
def test_orders_without_a_daemon_go_to_the_kernel_and_say_so(gateway: Director) -> None:
    gateway.apply(service("server1", "server2"))
    said = gateway.call("weight", "web", "server1", "7", "--json").document
    assert said["through"] == "kernel"
    assert "-w 7" in kernel(gateway)
    assert gateway.call("drain", "web", "server2", "--deadline", "5s", "--json").document["drained"]
    assert SERVERS["server2"] not in kernel(gateway)
    gateway.call("resume", "web", "server2")
    assert SERVERS["server2"] in kernel(gateway)
    close = gateway.call("drain", "web", "servr2", allowed=(1,))
    assert "server2" in close.err


def test_apply_hands_the_file_to_the_daemon(gateway: Director, engine: str) -> None:
    def there(name: str) -> bool:
        return SERVERS[name] in kernel(gateway, engine)

    with running(gateway, service("server1", engine=engine), "--deadline", "1s"):
        gateway.call("status", "--json")
        gateway.apply(service("server1", "server2", engine=engine))
        assert there("server2")
        assert gateway.apply(service("server1", "server3", engine=engine), "--confirm", "1s", code=1).err
        until(lambda: there("server2") and not there("server3"))
        other = gateway.file(service("server3", engine=engine), "other.toml")
        assert "the daemon runs" in gateway.call("apply", other, allowed=(1,)).err
        unheeded = gateway.call("apply", other, "--temporary", "--deadline", "5s", "--adopt").err
        assert "--deadline, --adopt not heeded" in unheeded
        assert there("server3")
        gateway.file(service("server1", "server2", engine=engine))
        gateway.call("reload")
        until(lambda: not there("server3"))
    assert Path(gateway.directory / "state").exists()
