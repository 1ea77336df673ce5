"""The shipped units under a real systemd, in a guest with IPVS: the package on a clean Debian 12, booted."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from kernlb.render.units import CAPABILITIES
from tests.debian.booted import MARKS, boot, installed

pytestmark = [*MARKS, pytest.mark.timeout(1500)]

NUMBERS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_PERFMON": 38, "CAP_BPF": 39}
CONFIGURATION = """
[engine]
interfaces = ["front"]

[addresses]
manage = true

[service.web]
bind = "203.0.113.10:80"

[service.web.check]
type = "command"
argv = ["/bin/sh", "-c", "grep CapEff /proc/self/status >/run/kernlb/capabilities"]
interval = "60s"
timeout = "30s"

[service.web.servers]
s1 = { address = "10.0.0.1:80", weight = 3 }

[service.any]
bind = "*:8080"
forwarding = "fullnat"
check = false

[service.any.servers]
s2 = "10.0.0.2:80"

[service.hashed]
bind = "203.0.113.20:80"
engine = "xdp"
forwarding = "fullnat"
check = false

[service.hashed.servers]
h1 = { address = "10.0.0.3:80", weight = 3 }
h2 = { address = "10.0.0.4:80", weight = 3 }
"""
FRONT = """
[Unit]
Before=kernlb-apply.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/ip link add front type veth peer name back
ExecStart=/bin/ip address add 10.0.0.254/24 dev front
ExecStart=/bin/ip link set front up
ExecStart=/bin/ip link set back up
"""


@pytest.fixture(scope="module")
def seen(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    tree = installed(package, tmp_path_factory.mktemp("systemd"), CONFIGURATION)
    wants = tree / "etc/systemd/system/kernlb-apply.service.wants"
    wants.mkdir()
    (wants.parent / "front.service").write_text(FRONT)
    (wants / "front.service").symlink_to("../front.service")
    return boot(tree, "systemd_job.sh")


def test_both_units_start_and_the_daemon_is_ready(seen: Mapping[str, str]) -> None:
    assert seen["active"] == "active active"


def test_the_kernel_is_as_configured(seen: Mapping[str, str]) -> None:
    assert re.search(r"TCP CB00710A:0050 wrr -> 0A000001:0050 Masq 3 ", seen["table"])
    assert "203.0.113.10/32" in seen["vip"]
    assert int(seen["nft"]) > 1
    assert seen["track"] == "0"


def test_the_daemon_has_its_capabilities_and_a_check_has_none(seen: Mapping[str, str]) -> None:
    assert int(seen["daemon"].split()[1], 16) == sum(1 << NUMBERS[name] for name in CAPABILITIES)
    assert int(seen["check"].split()[1], 16) == 0


def test_a_changed_sysctl_is_put_right(seen: Mapping[str, str]) -> None:
    assert seen["repaired"] == "1"


def test_a_reload_returns_when_the_kernel_is_as_the_new_file_says(seen: Mapping[str, str]) -> None:
    assert re.match(r"0 .*0A000001:0050 Masq 5 ", seen["reload"])
    (hashed,) = (service for service in json.loads(seen["shown"])["services"] if service["engine"] == "xdp")
    assert (hashed["name"], {each["name"]: each["weight"] for each in hashed["servers"]}) == (
        "hashed",
        {"h1": 5, "h2": 5},
    )


def test_neither_restart_nor_watchdog_nor_stop_touches_the_services(seen: Mapping[str, str]) -> None:
    assert seen["restart"] == "active same"
    assert seen["watchdog"] == "1 active same"
    assert seen["stopped"] == "inactive same"
