"""The box that box.sh builds, kept in the cache: the Debian packages that a director needs are in it already."""

import hashlib
import subprocess
from pathlib import Path

from tests.debian.tree import dependencies, mirror
from tests.vm.kernel import cache_lock

SCRIPT = Path(__file__).with_name("box.sh")
BUILD_DEADLINE = 900


def box() -> Path:
    packages = ",".join(sorted({*dependencies(), "keepalived"}))
    digest = hashlib.sha256(packages.encode() + SCRIPT.read_bytes()).hexdigest()[:12]
    with cache_lock("box") as cache:
        file = cache / f"kernlb-{digest}.box"
        if not file.exists():
            subprocess.run([str(SCRIPT), str(file), packages, *mirror()], check=True, timeout=BUILD_DEADLINE)
        return file
