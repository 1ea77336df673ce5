"""Kernel modules: loading what is missing, and the name of the kernel option where there is nothing to load."""

import platform
import shutil
import subprocess
from pathlib import Path

from kernlb.errors import Unsupported

_MODPROBE_SECONDS = 30.0
_PACKAGE = "a distribution kernel brings it (Debian: linux-image-amd64 or linux-image-cloud-amd64)"


def option_of(module: str) -> str:
    """The option of the kernel's configuration that builds a module of IPVS: ip_vs_wrr -> CONFIG_IP_VS_WRR."""
    return f"CONFIG_{module.upper()}"


def load(module: str) -> str | None:
    """None once the kernel has the module, else why not, in one line. Loading again what is there does no harm."""
    if Path("/sys/module", module).is_dir():
        return None
    modprobe = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if modprobe is None:
        return "there is no modprobe to load it with (Debian: apt install kmod)"
    try:
        # A blacklist is an administrator's word: -b obeys it, where modprobe by itself would not.
        done = subprocess.run(
            [modprobe, "-b", module], capture_output=True, text=True, timeout=_MODPROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"modprobe {module} did not end within {_MODPROBE_SECONDS:g} s"
    if done.returncode:
        return " ".join(done.stderr.split()) or f"modprobe {module} exited {done.returncode}"
    return None


def missing(module: str, why: str | None = None) -> Unsupported:
    """The error for a module that this kernel lacks; `why` is what loading it met with."""
    reason = f": {why}" if why else ""
    return Unsupported(
        f"kernel {platform.release()} has no module {module} ({option_of(module)}){reason}",
        hint=f"run as root where modprobe can load {module}, or boot a kernel with {option_of(module)}; {_PACKAGE}",
    )
