"""The package upgraded, removed and installed again under load, then purged: a booted Debian 12 with IPVS, by its dpkg.

Its unit is the one that `kernlb render` makes for a configuration whose check runs as another user.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from kernlb.config import load
from kernlb.render import Options, Template, render
from kernlb.render.units import CAPABILITIES
from tests.debian.booted import HERE, MARKS, boot, installed

pytestmark = [*MARKS, pytest.mark.timeout(1500)]

NOBODY = 65534
PRIVATE = "usr/lib/kernlb"
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
interval = "30s"
timeout = "30s"
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
    compiled(tree)
    return boot(tree, "lifecycle_job.sh")


def compiled(tree: Path) -> None:
    """What py3compile makes of the package is there before it begins: emulated, it would take minutes to make it."""
    names = [str(path.relative_to(tree / PRIVATE)) for path in (tree / PRIVATE).rglob("*.pyc")]
    assert names
    listed = ["tar", "-cf", tree / "compiled.tar", "-C", tree / PRIVATE, "-T", "-"]
    subprocess.run(listed, input="\n".join(names), text=True, check=True, timeout=60)
    script = tree / "usr/local/sbin/py3compile"
    script.write_text(f'#!/bin/sh\ntar -xf /compiled.tar -C /{PRIVATE} && exec /usr/bin/py3compile "$@"\n')
    script.chmod(0o755)


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
    assert seen["back"] == "active"
    asked, failed, *_ = seen["load"].split()
    print(f"load: {seen['load']}")
    assert int(asked) > 100
    assert failed == "0", seen["load"]


def test_a_purge_leaves_nothing_in_the_kernel(seen: Mapping[str, str]) -> None:
    assert seen["purged"] == "0 inactive 0"
    assert seen["left"] == ""
