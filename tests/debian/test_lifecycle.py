"""The package upgraded, removed and installed again under load, by dpkg and systemd of a booted Debian 12 with IPVS.

Its unit is the one that `kernlb render` makes for a configuration whose check runs as another user.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from kernlb.config import load
from kernlb.render import Options, Template, render
from kernlb.render.units import CAPABILITIES
from tests.debian.booted import HERE, MARKS, boot, installed

pytestmark = [*MARKS, pytest.mark.timeout(1500)]

NOBODY = 65534
CONFIGURATION = f"""
[addresses]
manage = true

[service.web]
bind = "203.0.113.10:80"
forwarding = "fullnat"

[service.web.check]
type = "command"
argv = ["/bin/sh", "-c", "test $(id -u) = {NOBODY} && grep -q 'CapEff:.0000000000000000' /proc/self/status"]
user = "nobody"
interval = "5s"
timeout = "5s"
rise = 1

[service.web.servers]
s1 = "10.0.0.1:80"
"""


@pytest.fixture(scope="module")
def seen(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    tree = installed(package, tmp_path_factory.mktemp("lifecycle"), CONFIGURATION)
    (tree / "next.deb").write_bytes(package.with_name("next.deb").read_bytes())
    unit = render(Template.SERVICE, load(CONFIGURATION, "kernlb.toml"), Options())
    (tree / "etc/systemd/system/kernlb.service").write_text(unit)
    demo = tree / "load/kernlb/demo"
    demo.mkdir(parents=True)
    for name in ("http.py", "steady.py"):
        shutil.copy(HERE.parents[1] / "kernlb/demo" / name, demo)
    shutil.copy(HERE / "load.py", tree / "load")
    return boot(tree, "lifecycle_job.sh")


def test_a_check_runs_as_the_user_it_names_and_without_powers(seen: Mapping[str, str]) -> None:
    ((server,),) = (service["servers"] for service in json.loads(seen["up"])["services"])
    assert server["status"] == "up", server["reason"]
    granted = int(seen["granted"].split()[1], 16)
    assert granted.bit_count() == len(CAPABILITIES) + len(("SETUID", "SETGID", "KILL"))


def test_upgrade_removal_and_installation_fail_no_request(seen: Mapping[str, str]) -> None:
    assert seen["upgraded"] == "0 active 1"
    assert seen["restarted"].startswith("999 ")
    assert seen["removed"] == "0 inactive 1"
    assert seen["installed"].startswith("0 ")
    asked, failed, *_ = seen["load"].split()
    print(f"load: {seen['load']}")
    assert int(asked) > 100
    assert failed == "0", seen["load"]
