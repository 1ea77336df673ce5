"""Gateways that share a source address of full NAT, with ports of their own: none meets what another has left.

client -- router --+-- gw1, gw2: VIP 198.51.100.80 and source 10.9.3.9, wherever the routes lead
                   +-- s1 10.9.2.11, s2 10.9.2.12
"""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kernlb.control_client import ControlClient
from kernlb.errors import KernlbError
from kernlb.places import Places
from tests.system.network import Client, heard, inside, ip, run, server, until
from tests.system.segment import SERVERS, VIP, Segment, segment

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(300)]
PORT, SOURCE = 7400, "10.9.3.9"
USED = {name: SERVERS[name] for name in ("s1", "s2")}
STARTING = 60.0
"""Seconds that a busy machine may need until a daemon has its program loaded."""
CONNECTIONS = 400
"""Of a gateway; a server has half of them, of 512 ports."""
SHARES = {"gw1": "1024-1535", "gw2": "1536-2047"}


@pytest.fixture(autouse=True)
def room() -> Iterator[None]:
    """Both ends of all connections are in this process: more than the usual 1,024 descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def network(balancer: Path) -> Iterator[Segment]:
    with segment(gateways=("gw1", "gw2"), servers=USED, unpacking=False) as built, ExitStack() as undo:
        for name, address in USED.items():
            undo.enter_context(server(built.servers[name], address, PORT))
        yield built


def share(network: Segment, directory: Path, gateway: str, ports: str) -> None:
    """What a gateway is told, while it is in use or not."""
    network.call(gateway, directory, "apply", str(written(directory, gateway, ports)))


def written(directory: Path, gateway: str, ports: str) -> Path:
    file = directory / f"{gateway}.toml"
    listed = "".join(f'{name} = "{address}:{PORT}"\n' for name, address in USED.items())
    file.write_text(
        f'[addresses]\nsource = ["{SOURCE}"]\nsource_ports = "{ports}"\n[service.web]\nengine = "xdp"\n'
        f'bind = ["{VIP}:{PORT}"]\nscheduler = "maglev"\nforwarding = "fullnat"\n[service.web.servers]\n{listed}'
    )
    return file


def lead(network: Segment, gateway: str) -> None:
    """VIP and source address are this gateway's from now on."""
    network.lead(gateway)
    there = {"gw1": "10.9.2.1", "gw2": "10.9.2.2"}[gateway]
    for namespace in network.servers.values():
        ip(namespace, f"route replace {SOURCE} via {there}\n")


def connect(network: Segment, ports: str) -> list[Client]:
    """As many as there are of a gateway, none of which has to send its SYN again."""
    before = repeated(network)
    clients = [Client(network.client, VIP, PORT) for _ in range(CONNECTIONS)]
    assert repeated(network) == before
    assert {client.seen for client in clients} == {SOURCE}
    first, last = map(int, ports.split("-"))
    assert all(first <= int(client.port) <= last for client in clients)
    return clients


def repeated(network: Segment) -> int:
    with inside(network.client):
        return int(run("nstat", "-asz", "TcpExtTCPSynRetrans").split()[-2])


def test_when_the_source_address_moves_no_connection_meets_one_of_the_other_gateway(
    network: Segment, tmp_path: Path
) -> None:
    for gateway, ports in SHARES.items():
        share(network, tmp_path, gateway, ports)
    try:
        lead(network, "gw1")
        first = connect(network, SHARES["gw1"])
        lead(network, "gw2")
        second = connect(network, SHARES["gw2"])
        assert heard(second)
        lead(network, "gw1")
        assert heard(first), "nobody has broken what the servers had of the first gateway"
        share(network, tmp_path, "gw1", "20000-20511")
        third = connect(network, "20000-20511")
        assert heard(first + third), "another range is nothing to connections in use"
        for client in first + second + third:
            client.close()
    finally:
        for gateway in SHARES:
            network.call(gateway, tmp_path, "clear")


def test_a_daemon_takes_another_range_by_a_reload(network: Segment, tmp_path: Path) -> None:
    client = ControlClient(Places(namespace=network.gateways["gw1"], run=tmp_path).control)

    def serves() -> bool:
        try:
            return bool(client.status()["daemon"]["reconciled"])
        except KernlbError:
            return False

    lead(network, "gw1")
    command = network.kernlb("gw1", tmp_path, "run", str(written(tmp_path, "gw1", SHARES["gw1"])), "--no-passive")
    with (tmp_path / "log").open("w") as log:
        daemon = subprocess.Popen(command, stderr=log)
    try:
        assert until(serves, patience=STARTING), (tmp_path / "log").read_text()
        first = connect(network, SHARES["gw1"])
        written(tmp_path, "gw1", "20000-20511")
        client.ask("POST", "/reload")
        assert heard([*connect(network, "20000-20511"), *first])
    finally:
        daemon.terminate()
        daemon.wait(60)
        network.call("gw1", tmp_path, "clear")


def test_ports_that_a_gateway_may_use_itself_are_told_and_a_range_without_any_other_is_refused(
    network: Segment, tmp_path: Path
) -> None:
    run("ip", "netns", "exec", network.gateways["gw1"], "sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999")
    share(network, tmp_path, "gw1", "1024-1535")
    try:
        other = tmp_path / "other.toml"
        for ports, status, told in (
            ("30000-39999", 0, "2,768 source ports an address and server of the 10,000 under addresses.source_ports"),
            ("40000-49999", 1, "leaves no port of 40000-49999 for full NAT on xdp"),
        ):
            other.write_text((tmp_path / "gw1.toml").read_text().replace("1024-1535", ports))
            for verb in ("plan", "apply"):
                command = network.kernlb("gw1", tmp_path, verb, str(other))
                done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
                assert (done.returncode, told in done.stderr) == (status, True), done.stderr
        lead(network, "gw1")
        connect(network, "30000-32767")
    finally:
        network.call("gw1", tmp_path, "clear")
