"""Checks through the VIP, through a kernel with IPVS: they see what a check of the server's own address cannot."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kernlb.control_client import ControlClient
from kernlb.demo.http import serve
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS
from tests.system.director import SERVERS6, Director, answer_directly, director, until

pytestmark = [pytest.mark.ipvs, pytest.mark.root, pytest.mark.timeout(400)]

VIP6 = "fd00:1::1"
NAMES = ("server1", "server2")
PATIENCE = 60.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Director]:
    with director(tmp_path_factory.mktemp("vip")) as found:
        answer_directly(found.lab)
        for name in NAMES:
            run(found, name, "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
            # Of any address, so that a VIP taken away and put back finds its listener.
            for address in ("0.0.0.0", "::"):
                found.lab.start(name, serve, name, address, 8080)
        yield found


def run(gateway: Director, part: str, *command: str) -> str:
    whole = ["ip", "netns", "exec", gateway.lab.namespace(part), *command]
    return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=True).stdout


def configuration(forwarding: str, *, family: int = 4) -> str:
    """The same servers twice: `through` asks the VIP, `own` the servers' own addresses."""
    vip, addresses = (DIRECTOR_FRONT, SERVERS) if family == 4 else (f"[{VIP6}]", SERVERS6)
    check = 'type = "http", interval = "1s", timeout = "2s", rise = 1, fall = 2'
    text = f'[defaults]\nforwarding = "{forwarding}"\n'
    for service, port, more in (("through", 8080, ", via_vip = true"), ("own", 8081, ", port = 8080")):
        text += f'[service.{service}]\nbind = ["{vip}:{port}"]\ncheck = {{ {check}{more} }}\n'
        text += f"[service.{service}.servers]\n" + "".join(f'{name} = "{addresses[name]}"\n' for name in NAMES)
    return text


@contextmanager
def running(gateway: Director, text: str) -> Iterator[ControlClient]:
    place = gateway.directory / "run" / gateway.lab.namespace("director") / "control.sock"
    client = ControlClient(place, timeout=30)
    answer = gateway.begin("run", gateway.file(text))
    try:
        until(lambda: client.serves() or not answer._process.is_alive(), patience=60)
        yield client
    finally:
        answer._process.terminate()
        assert answer.value(timeout=60).code == 0
        gateway.call("clear")


def status(client: ControlClient) -> dict[str, dict[str, str]]:
    return {
        service["name"]: {server["name"]: server["status"] for server in service["servers"]}
        for service in client.status()["services"]
    }


UP = {"server1": "up", "server2": "up"}


@pytest.mark.parametrize(("forwarding", "family"), [("direct", 4), ("tunnel", 4), ("direct", 6)])
def test_without_the_vip_at_the_server_this_check_fails_and_that_of_its_own_address_passes(
    gateway: Director, forwarding: str, family: int
) -> None:
    vip = f"{DIRECTOR_FRONT}/32" if family == 4 else f"{VIP6}/128"
    device = "tunl0" if forwarding == "tunnel" else "lo"
    nodad = " nodad" if family == 6 else ""
    for name in NAMES:
        gateway.lab.ip(name, [f"addr add {vip} dev {device}{nodad}", f"link set {device} up"])
        for interface in ("all", "default", device):
            run(gateway, name, "sysctl", "-qw", f"net.ipv4.conf.{interface}.rp_filter=0")
    before = run(gateway, "director", "sysctl", "-n", "net.ipv4.conf.all.accept_local")
    try:
        with running(gateway, configuration(forwarding, family=family)) as client:
            until(lambda: status(client) == {"through": UP, "own": UP}, patience=PATIENCE)
            gateway.lab.ip("server1", [f"addr del {vip} dev {device}"])
            without = {"through": {"server1": "down", "server2": "up"}, "own": UP}
            until(lambda: status(client) == without, patience=PATIENCE)
            gateway.lab.ip("server1", [f"addr add {vip} dev {device}{nodad}"])
            until(lambda: status(client) == {"through": UP, "own": UP}, patience=PATIENCE)
            shown = json.loads(gateway.call("show", "--json").out)["services"]
            assert sorted(each["name"] for each in shown) == ["own", "through"]
            everything = json.loads(gateway.call("show", "--all", "--json").out)["services"]
            assert {each["name"] for each in everything} - {"own", "through"} == {
                "check of through/server1",
                "check of through/server2",
            }
        assert run(gateway, "director", "ipvsadm", "-Sn") == ""
        assert run(gateway, "director", "sysctl", "-n", "net.ipv4.conf.all.accept_local") == before
    finally:
        for name in NAMES:
            gateway.lab.ip(name, [f"addr replace {vip} dev {device}", f"addr del {vip} dev {device}"])
