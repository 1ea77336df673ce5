"""Two directors and three real servers, each a booted Debian 12, and a client whose traffic the first director takes.

client 192.0.2.10 -- 192.0.2.1 director 10.0.0.254 -- 10.0.0.1, .2, .3 server1, server2, server3
                               director2 10.0.0.253 -- the same servers
director 10.0.1.1 -- 10.0.1.2 director2, for BGP
Service web, full NAT, on 192.0.2.1; service straight, direct, on 198.51.100.80, answered over a wire of each server's
own to the client. The eBPF engine carries both.
"""

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import yaml

from kernlb.demo.http import Tally, fetch
from kernlb.demo.namespaces import CLIENT, DIRECTOR_FRONT, SERVERS, Answer, Lab, lab
from kernlb.demo.steady import Sample, ask_steadily
from tests.ansible import archive
from tests.ansible.machine import Booted, all_run, booted
from tests.ansible.playing import REPOSITORY, Controller
from tests.debian import test_wheel

VIP = "198.51.100.80"
BALANCED = (DIRECTOR_FRONT, VIP)
DIRECTORS = ("director", "director2")
SECOND = "10.0.0.253"
SPEAKERS = {"director": "10.0.1.1", "director2": "10.0.1.2"}
SYSTEMS = {"director": 64512, "director2": 64513}
# What the directors install beside kernlb.
PACKAGES = (
    *("bird2", "frr", "frr-pythontools"),
    *("iproute2", "kmod", "libbpf1", "nftables", "python3-packaging", "python3-venv"),
)
# kernlb's package needs these; a machine that gets it by pip has neither.
NOT_FOR_PIP = ("python3-numpy", "python3-pkg-resources")
RATE = 50.0
CONFIGURATION = f"""
[engine]
default = "xdp"
interfaces = ["front", "server1", "server2", "server3"]

[addresses]
manage = true
interface = "lo"

[defaults]
check = {{ type = "http", path = "/", interval = "300ms", timeout = "2s", rise = 2, fall = 2 }}

[service.web]
bind = "{DIRECTOR_FRONT}:80"
forwarding = "fullnat"

[service.web.servers]
server1 = "10.0.0.1:80"
server2 = "10.0.0.2:80"
server3 = {{ address = "10.0.0.3:80", weight = 1 }}

[service.straight]
bind = "{VIP}:80"
forwarding = "direct"

[service.straight.servers]
server1 = "10.0.0.1:80"
server2 = "10.0.0.2:80"
server3 = "10.0.0.3:80"
"""
# An application that takes a second to start, and tells its release.
UNIT = """
[Service]
ExecStartPre=/bin/sleep 1
ExecStart=/usr/bin/python3 /etc/web.py
"""
WEB = """
import socket, sys
sys.path.insert(0, "/given")
from kernlb.demo.http import serve
serve(f"{socket.gethostname()}/{open('/etc/web.release').read().strip()}", "0.0.0.0", 80)
"""


@dataclass(frozen=True, slots=True)
class Network:
    lab: Lab
    machines: Mapping[str, Booted]
    controller: Controller

    def requests(self, count: int, address: str) -> Tally:
        tally: Tally = self.lab.ask("client", fetch, address, 80, count, 1).value(timeout=60)
        return tally

    @contextmanager
    def load(self) -> Iterator["Load"]:
        """New connections to both services at a constant rate, whether or not earlier ones were answered."""
        here: Connection
        here, there = Pipe()
        asked = [self.lab.ask("client", ask_steadily, there, address, 80, RATE, 5.0) for address in BALANCED]
        load = Load(asked, here)
        try:
            yield load
        finally:
            load.end()


@dataclass(slots=True)
class Load:
    answers: list[Answer]
    stop: Connection
    samples: list[Sample] | None = None

    def end(self) -> list[Sample]:
        if self.samples is None:
            # Each looks whether there is something to read, and none reads it.
            self.stop.send(None)
            self.samples = [sample for answer in self.answers for sample in answer.value(timeout=60)]
        return self.samples

    @property
    def failed(self) -> dict[str, int]:
        return dict(Counter(sample.failure for sample in self.end() if sample.failure))

    @property
    def answered(self) -> Counter[str]:
        return Counter(sample.server for sample in self.end() if sample.server)


@contextmanager
def network(directory: Path, package: Path) -> Iterator[Network]:
    sources = directory / "sources"
    wheel = archives(sources, package)
    with lab() as built, ExitStack() as stack:
        _second_director(built)
        _way_back(built)
        given = dict.fromkeys(DIRECTORS, sources) | dict.fromkeys(SERVERS, REPOSITORY)
        machines = {
            name: stack.enter_context(booted(built.namespace(name), name, seen)) for name, seen in given.items()
        }
        all_run(list(machines.values()))
        machines["director2"].run("dpkg", "--purge", *NOT_FOR_PIP)
        for name in DIRECTORS:
            reach(machines[name])
        for name in SERVERS:
            serve(machines[name])
        processes = {name: each.process for name, each in machines.items()}
        yield Network(built, machines, Controller(directory, inventory(processes, ways(wheel))))


def archives(directory: Path, package: Path) -> Path:
    """What the directors see as /given: Debian's packages, kernlb's, and wheels. kernlb's own wheel is the result."""
    archive.debian_packages(directory / "debian", PACKAGES)
    (directory / "kernlb").mkdir()
    shutil.copy(package, directory / "kernlb")
    archive.index(directory / "kernlb")
    wheel = test_wheel.build(directory / "wheel")
    archive.wheels(directory / "wheels", wheel)
    return wheel


def ways(wheel: Path) -> dict[str, dict[str, object]]:
    """How each director comes by kernlb, and what tells its VIPs to the other."""

    def bgp(here: str, there: str) -> dict[str, object]:
        neighbours = [f"{SPEAKERS[there]}@{SYSTEMS[there]}"]
        return {"local_as": SYSTEMS[here], "neighbours": neighbours, "router_id": SPEAKERS[here]}

    return {
        "director": {
            "director_install": "apt",
            "director_apt_source": archive.source("/given/kernlb"),
            "director_bird": bgp("director", "director2"),
        },
        "director2": {
            "director_install": "pip",
            "director_package": str(wheel),
            "director_pip_arguments": "--no-index --find-links /given/wheels",
            "director_frr": bgp("director2", "director"),
        },
    }


def reach(machine: Booted) -> None:
    """Has it install from /given, and from nowhere else."""
    text = archive.source("/given/debian")
    machine.run("sh", "-c", f"rm /etc/apt/sources.list; cat >/etc/apt/sources.list.d/debian.sources <<'END'\n{text}END")
    machine.run("apt-get", "update")


def serve(machine: Booted) -> None:
    for path, text in (("system/web.service", UNIT), ("../web.py", WEB), ("../web.release", "1")):
        machine.run("sh", "-c", f"cat >/etc/systemd/{path} <<'END'\n{text}\nEND")
    machine.run("systemctl", "start", "web.service")


def inventory(processes: Mapping[str, int], own: Mapping[str, Mapping[str, object]]) -> str:
    """Of the machines that are there, each by its first process and with variables of its own."""

    def hosts(names: tuple[str, ...]) -> dict[str, object]:
        there = [name for name in names if name in processes]
        return {"hosts": {name: {"ansible_host": processes[name], **own.get(name, {})} for name in there}}

    common = {
        "ansible_connection": "namespaces",
        # Who enters is root, and these machines have no sudo.
        "ansible_become": False,
        "ansible_python_interpreter": "/usr/bin/python3",
        "kernlb_configuration": CONFIGURATION,
        # The machines' lists are all that there is.
        "director_apt_cache_valid_time": 1_000_000_000,
    }
    groups = {"directors": hosts(DIRECTORS), "real_servers": hosts(tuple(SERVERS))}
    return str(yaml.safe_dump({"all": {"vars": common, "children": groups}}))


def _second_director(built: Lab) -> None:
    far = built.namespace("director2")
    subprocess.run(["ip", "netns", "add", far], check=True)
    for name, address in SERVERS.items():
        built.ip(name, [f"link add eth2 type veth peer name {name} netns {far}", "link set eth2 up"])
        built.ip(name, [f"route add {SECOND} dev eth2"])
        routes = [f"link set {name} up", f"route add {address} dev {name} src {SECOND}"]
        built.ip("director2", [f"addr add {SECOND}/32 dev {name}", *routes])
    # Not where the first one is: its front leads nowhere.
    built.ip("director2", ["link set lo up", "link add front type veth peer name nowhere", "link set front up"])
    built.ip("director", [f"link add between type veth peer name between netns {far}"])
    for name, address in SPEAKERS.items():
        built.ip(name, [f"addr add {address}/24 dev between", "link set between up"])


def _way_back(built: Lab) -> None:
    """A wire of its own to the client: the director would drop answers that bear its own VIP."""
    built.ip("client", [f"route add {VIP} via {DIRECTOR_FRONT} dev eth0"])
    for name in SERVERS:
        client = built.namespace("client")
        built.ip(name, [f"link add eth1 type veth peer name {name} netns {client}", "link set eth1 up"])
        built.ip("client", [f"link set {name} up"])
        built.ip(name, [f"route add {CLIENT} dev eth1"])
