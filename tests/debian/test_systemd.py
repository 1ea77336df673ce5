"""The shipped units under a real systemd, in a guest with IPVS: the package on a clean Debian 12, booted."""

import io
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from kernlb.render.units import CAPABILITIES
from tests.debian.tree import debian
from tests.vm import guest
from tests.vm.initramfs import initramfs
from tests.vm.kernel import kernel

pytestmark = [
    pytest.mark.root,
    pytest.mark.qemu,
    pytest.mark.mmdebstrap,
    pytest.mark.clang,
    pytest.mark.timeout(1500),
]

HERE = Path(__file__).parent
NUMBERS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_PERFMON": 38, "CAP_BPF": 39}
BOOT_AND_ALL = 900
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
    """What systemd_job.sh reports, by step."""
    directory = tmp_path_factory.mktemp("systemd")
    tree = directory / "tree"
    # Unpacked and compiled here: emulated Python would take minutes.
    subprocess.run(["cp", "-a", "--reflink=auto", debian(), tree], check=True, timeout=120)
    (tree / "kernlb.deb").write_bytes(package.read_bytes())
    installed = subprocess.run(["chroot", tree, "dpkg", "-i", "/kernlb.deb"], capture_output=True, timeout=120)
    assert installed.returncode == 0, installed.stderr.decode()
    (tree / "etc/kernlb/kernlb.toml").write_text(CONFIGURATION)
    # Emulated Python takes twenty times as long to start; a watchdog that bites is waited for.
    for unit, setting in (("kernlb", "WatchdogSec=15s"), ("kernlb-apply", "TimeoutStartSec=600s")):
        pace = tree / f"etc/systemd/system/{unit}.service.d/pace.conf"
        pace.parent.mkdir(parents=True)
        pace.write_text(f"[Service]\n{setting}\n")
    (tree / "job.sh").write_bytes((HERE / "systemd_job.sh").read_bytes())
    chosen = kernel(guest.best_filesystem())
    job = guest.Job(
        command=["/bin/bash", "/job.sh"], directory=Path("/"), timeout=BOOT_AND_ALL, root=tree, systemd=True
    )
    out, errors = io.BytesIO(), io.BytesIO()
    guest.run(job, kernel=chosen, initramfs=initramfs(chosen), stdout=out, stderr=errors)
    print(errors.getvalue().decode())
    steps = (line.partition(": ") for line in out.getvalue().decode().splitlines())
    return {step: said.strip() for step, colon, said in steps if colon}


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
