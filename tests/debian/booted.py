"""kernlb's package on a clean Debian 12 that is booted with its own systemd, in a guest with IPVS."""

import io
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.debian.tree import debian
from tests.vm import guest
from tests.vm.initramfs import initramfs
from tests.vm.kernel import kernel

HERE = Path(__file__).parent
BOOT_AND_ALL = 1200
MARKS = [pytest.mark.booted, pytest.mark.root, pytest.mark.qemu, pytest.mark.mmdebstrap, pytest.mark.clang]


def installed(package: Path, directory: Path, configuration: str) -> Path:
    """A tree with the package and this /etc/kernlb/kernlb.toml. Unpacked and compiled here: emulated Python would take
    minutes."""
    tree = directory / "tree"
    subprocess.run(["cp", "-a", "--reflink=auto", debian(), tree], check=True, timeout=120)
    (tree / "kernlb.deb").write_bytes(package.read_bytes())
    done = subprocess.run(["chroot", tree, "dpkg", "-i", "/kernlb.deb"], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    (tree / "etc/kernlb/kernlb.toml").write_text(configuration)
    # Emulated Python takes twenty times as long to start; a watchdog that bites is waited for.
    for unit, setting in (("kernlb", "WatchdogSec=15s"), ("kernlb-apply", "TimeoutStartSec=600s")):
        pace = tree / f"etc/systemd/system/{unit}.service.d/pace.conf"
        pace.parent.mkdir(parents=True)
        pace.write_text(f"[Service]\n{setting}\n")
    return tree


def boot(tree: Path, job: str) -> Mapping[str, str]:
    """What the script tests/debian/`job` reports as lines "step: what was seen", by step."""
    (tree / "job.sh").write_bytes((HERE / job).read_bytes())
    (tree / "report.sh").write_bytes((HERE / "report.sh").read_bytes())
    chosen = kernel(guest.best_filesystem())
    command = guest.Job(
        command=["/bin/bash", "/job.sh"], directory=Path("/"), timeout=BOOT_AND_ALL, root=tree, systemd=True
    )
    out, errors = io.BytesIO(), io.BytesIO()
    try:
        guest.run(command, kernel=chosen, initramfs=initramfs(chosen), stdout=out, stderr=errors)
    finally:
        print(out.getvalue().decode(), errors.getvalue().decode(), sep="")
    steps = (line.partition(": ") for line in out.getvalue().decode().splitlines())
    return {step: said.strip() for step, colon, said in steps if colon}
