"""The shipped units on this kernel: BCC compiles in their sandbox, and a daemon lives in a namespace with a name."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernlb.demo.http import Tally, fetch, serve
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS, Lab, lab
from tests.ansible import archive
from tests.ansible.machine import Booted, all_run, booted
from tests.ansible.network import reach
from tests.system.director import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.netns,
    pytest.mark.bpf,
    pytest.mark.clang,
    pytest.mark.mmdebstrap,
    pytest.mark.timeout(600),
]

PACKAGES = ("libbpf1", "linux-libc-dev", "python3-bpfcc")
COMPILED = 240.0
CONFIGURATION = f"""
[engine]
default = "xdp"
loader = "bcc"

[service.web]
bind = "{DIRECTOR_FRONT}:80"
forwarding = "fullnat"

[service.web.servers]
server1 = "10.0.0.1:80"
server2 = "10.0.0.2:80"
"""
INNER = "192.0.2.77"
# A second director in a namespace of the first one's, over a wire between the two.
NAMESPACE = f"""
ip netns add inner
ip link add outside type veth peer name inside netns inner
ip link set outside up
ip addr add 10.7.0.1/24 dev outside
ip route add {INNER} via 10.7.0.2
ip -n inner link set lo up
ip -n inner link set inside up
ip -n inner addr add 10.7.0.2/24 dev inside
ip -n inner addr add {INNER}/32 dev lo
"""
INNER_CONFIGURATION = f"""
[engine]
default = "xdp"
loader = "object"
interfaces = ["inside"]

[service.within]
bind = "{INNER}:80"
forwarding = "fullnat"

[service.within.servers]
here = "10.7.0.1:80"
"""


@dataclass(frozen=True, slots=True)
class Site:
    lab: Lab
    director: Booted

    def requests(self, part: str, address: str) -> Tally:
        tally: Tally = self.lab.ask(part, fetch, address, 80, 20, 2).value(timeout=60)
        return tally

    def write(self, path: str, text: str) -> None:
        self.director.run("sh", "-c", f"cat >{path} <<'END'\n{text}END")

    def shown(self, *options: str) -> dict[str, object]:
        shown: dict[str, object] = json.loads(self.director.run("kernlb", *options, "show", "--json"))
        return shown


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Iterator[Site]:
    given = tmp_path_factory.mktemp("units")
    archive.debian_packages(given / "debian", PACKAGES)
    shutil.copy(package, given / "kernlb.deb")
    with lab() as built:
        for name, address in SERVERS.items():
            built.start(name, serve, name, address, 80)
        with booted(built.namespace("director"), "director", given) as director:
            all_run([director])
            found = Site(built, director)
            reach(director)
            director.run("apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES, "/given/kernlb.deb")
            yield found


def test_bcc_compiles_within_the_unit_and_the_daemon_balances_by_it(site: Site) -> None:
    site.write("/etc/kernlb/kernlb.toml", CONFIGURATION)
    site.director.run("systemctl", "restart", "kernlb-apply.service", "kernlb.service", timeout=COMPILED)
    assert site.shown()["program"]["loader"] == "bcc"  # type: ignore[index]
    tally = site.requests("client", DIRECTOR_FRONT)
    assert not tally.failed
    assert {server for server, _ in tally.by} == {"server1", "server2"}
    assert site.director.run("systemctl", "is-active", "kernlb.service") == "active\n"


def test_a_daemon_in_a_namespace_with_a_name_lives_beside_the_machines_own(site: Site) -> None:
    site.director.run("sh", "-ec", NAMESPACE)
    site.write("/etc/kernlb/inner.toml", INNER_CONFIGURATION)
    unit = site.director.run("kernlb", "--netns", "inner", "render", "kernlb.service", "/etc/kernlb/inner.toml")
    site.write("/etc/systemd/system/inner.service", unit)
    site.lab.start("director", serve, "here", "10.7.0.1", 80)
    site.director.run("systemctl", "daemon-reload")
    site.director.run("systemctl", "start", "inner.service", timeout=COMPILED)
    until(lambda: not site.requests("director", INNER).failed)
    assert site.shown("--netns", "inner")["services"][0]["name"] == "within"  # type: ignore[index]
    site.director.run("systemctl", "reload", "inner.service")
    site.director.run("systemctl", "stop", "inner.service")
    assert not site.requests("director", INNER).failed
    site.director.run("kernlb", "--netns", "inner", "clear")
    assert site.shown("--netns", "inner")["services"] == []
    assert not site.requests("client", DIRECTOR_FRONT).failed
