"""The shipped units under a real systemd, in a guest with IPVS: the package on a clean Debian 12, booted."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from kernlb.render.units import CAPABILITIES
from tests.debian.booted import MARKS, boot, installed

pytestmark = [*MARKS, pytest.mark.timeout(1500)]

NUMBERS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_PERFMON": 38, "CAP_BPF": 39}
CONFIGURATION = """
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
"""


@pytest.fixture(scope="module")
def seen(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return boot(installed(package, tmp_path_factory.mktemp("systemd"), CONFIGURATION), "systemd_job.sh")


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


def test_neither_restart_nor_watchdog_nor_stop_touches_the_services(seen: Mapping[str, str]) -> None:
    assert seen["restart"] == "active same"
    assert seen["watchdog"] == "1 active same"
    assert seen["stopped"] == "inactive same"
