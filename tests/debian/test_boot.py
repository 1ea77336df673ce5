"""The shipped units beside the programs they are ordered with: a Debian 12 booted in namespaces of this machine.

director: front 192.0.2.1, where VRRP speaks and the service's only server does not answer
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernlb.config import load
from kernlb.render import Options, Template, render
from tests.ansible import archive
from tests.ansible.machine import Booted, all_run, booted
from tests.system.director import until
from tests.system.network import ip, namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.netns,
    pytest.mark.bpf,
    pytest.mark.clang,
    pytest.mark.mmdebstrap,
    pytest.mark.timeout(600),
]

UNITS = ("kernlb-apply.service", "kernlb.service", "keepalived.service")
CONFIGURATION = """
[engine]
default = "xdp"
interfaces = ["front"]

[service.web]
bind = "203.0.113.10:80"
forwarding = "direct"
check = { type = "tcp", interval = "300ms", timeout = "200ms", fall = 1 }
servers = { s1 = "192.0.2.99:80" }
"""
TUNNELS = """
[service.web]
bind = ["203.0.113.10:80", "[2001:db8::10]:80"]
forwarding = "tunnel"
servers = { s1 = "10.0.0.1:80" }
"""


@pytest.fixture(scope="module")
def director(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    given = tmp_path_factory.mktemp("boot")
    archive.debian_packages(given / "debian", ["keepalived"])
    (given / "kernlb.deb").write_bytes(package.read_bytes())
    with namespaces("director") as (namespace,):
        ip(namespace, "link add front type veth peer name back\naddr add 192.0.2.1/24 dev front\n")
        ip(namespace, "link set front up\nlink set back up\n")
        with booted(namespace, "director", given) as machine:
            all_run([machine])
            machine.run("dpkg", "--install", "/given/kernlb.deb")
            machine.run("sh", "-c", "rm /etc/apt/sources.list && cat >/etc/apt/sources.list.d/debian.sources <<'END'\n"
                        f"{archive.source('/given/debian')}END")  # fmt: skip
            machine.run("apt-get", "update")
            machine.run("apt-get", "install", "--yes", "keepalived")
            yield machine


def written(machine: Booted, path: str, text: str) -> None:
    machine.run("sh", "-c", f"cat >{path} <<'END'\n{text}END")


def test_keepalived_starts_when_the_services_are_there_and_heeds_what_kernlb_says(director: Booted) -> None:
    director.run("systemctl", "stop", *UNITS)
    director.run("rm", "-rf", "/run/kernlb")
    written(director, "/etc/kernlb/kernlb.toml", CONFIGURATION)
    director.run("sh", "-c", "kernlb render keepalived.conf --interface front >/etc/keepalived/keepalived.conf")
    # As at boot: what is enabled and does not run starts in one transaction.
    director.run("systemctl", "start", "multi-user.target")
    until(lambda: director.run("cat", "/run/kernlb/default/track", check=False) == "-1\n", patience=60)
    until(lambda: priority(director) == 80, patience=30)


def priority(director: Booted) -> int:
    """The one that keepalived goes by just now."""
    told = "/tmp/keepalived.data"
    director.run("sh", "-c", f"rm -f {told}; kill -USR1 $(cat /run/keepalived.pid)")
    until(lambda: "Effective priority" in director.run("cat", told, check=False))
    return int(director.run("sed", "-n", "s/^ *Effective priority = //p", told))


def test_a_mistake_in_the_file_costs_little_until_it_is_mended(director: Booted) -> None:
    def restarts() -> int:
        return int(director.run("systemctl", "show", "--property=NRestarts", "--value", "kernlb.service"))

    written(director, "/etc/kernlb/kernlb.toml", CONFIGURATION.replace("bind =", "bin ="))
    begun = time.monotonic()
    director.run("systemctl", "restart", "kernlb.service", check=False)
    until(lambda: restarts() == 2, patience=60)
    assert time.monotonic() - begun > 2 * 5
    written(director, "/etc/kernlb/kernlb.toml", CONFIGURATION)
    until(lambda: director.run("systemctl", "is-active", "kernlb.service", check=False) == "active\n", patience=60)


def test_a_real_server_whose_set_up_failed_half_way_can_be_taken_back(director: Booted) -> None:
    config = load(TUNNELS, "kernlb.toml")
    script = render(Template.REAL_SERVER, config, Options()).replace("raise tunl0", "raise nowhere0")
    written(
        director, "/usr/local/sbin/kernlb-realserver", script.replace("load ipip", "true").replace("load sit", "true")
    )
    director.run("chmod", "755", "/usr/local/sbin/kernlb-realserver")
    written(
        director,
        "/etc/systemd/system/kernlb-realserver.service",
        render(Template.REAL_SERVER_SERVICE, config, Options()),
    )
    director.run("systemctl", "daemon-reload")
    director.run("systemctl", "start", "kernlb-realserver.service", check=False)
    assert director.run("systemctl", "is-failed", "kernlb-realserver.service") == "failed\n"
    addresses = ("ip", "-brief", "address", "show", "dev", "lo")
    assert "203.0.113.10/32" in director.run(*addresses)
    director.run("/usr/local/sbin/kernlb-realserver", "--undo")
    assert "203.0.113.10" not in director.run(*addresses)


def test_the_daemon_of_a_package_that_comes_back_is_started_although_it_never_did_anything(director: Booted) -> None:
    director.run("systemctl", "stop", *UNITS)
    director.run("kernlb", "clear")
    director.run("rm", "-r", "/var/lib/kernlb")
    written(director, "/etc/kernlb/kernlb.toml", "# nothing yet\n")
    director.run("systemctl", "start", "kernlb.service")
    director.run("dpkg", "--remove", "kernlb")
    director.run("dpkg", "--install", "/given/kernlb.deb")
    assert director.run("systemctl", "is-active", "kernlb.service", "kernlb-apply.service") == "active\nactive\n"
