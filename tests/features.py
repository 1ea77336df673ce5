"""What the machine that runs the tests can do: each answer comes from trying the thing itself.

`absent(Feature.IPVS)` is None, or one line that says what is missing and what brings it.
"""

import ctypes
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from pathlib import Path

REQUIRE = "KERNLB_REQUIRE"
PATIENCE = 120.0  # seconds; what a busy machine or an emulated one is slow with is there nevertheless


class Feature(StrEnum):
    """What a test may need; each is also the name of a pytest marker."""

    ROOT = "root"
    ANSIBLE = "ansible"
    NETNS = "netns"
    NFTABLES = "nftables"
    IPVS = "ipvs"
    IPIP = "ipip"
    BPF = "bpf"
    BCC = "bcc"
    QEMU = "qemu"
    UML = "uml"
    HAPROXY = "haproxy"
    KEEPALIVED = "keepalived"
    IPVSADM = "ipvsadm"
    CONNTRACK = "conntrack"
    CURL = "curl"
    WRK = "wrk"
    CLANG = "clang"
    BPFTOOL = "bpftool"
    SHELLCHECK = "shellcheck"
    SYSTEMD_ANALYZE = "systemd_analyze"
    BIRD = "bird"
    FRR = "frr"
    GROFF = "groff"
    MMDEBSTRAP = "mmdebstrap"
    VAGRANT = "vagrant"
    LIBVIRT = "libvirt"


# What a guest kernel brings where the running one has none of it.
GUEST_KERNEL = frozenset({Feature.IPVS, Feature.IPIP, Feature.NFTABLES, Feature.NETNS})

PACKAGES = {
    Feature.BIRD: "bird2",
    Feature.BPFTOOL: "bpftool",
    Feature.CLANG: "clang",
    Feature.CONNTRACK: "conntrack",
    Feature.CURL: "curl",
    Feature.FRR: "frr",
    Feature.GROFF: "groff-base",
    Feature.HAPROXY: "haproxy",
    Feature.IPVSADM: "ipvsadm",
    Feature.KEEPALIVED: "keepalived",
    Feature.QEMU: "qemu-system-x86",
    Feature.SHELLCHECK: "shellcheck",
    Feature.SYSTEMD_ANALYZE: "systemd",
    Feature.UML: "user-mode-linux",
    Feature.WRK: "wrk",
}
BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
BPF_PROG_LOAD = 5
BPF_PROG_TYPE_XDP = 6


@cache
def absent(feature: Feature) -> str | None:
    """Why this machine lacks the feature, in one line; None where it has it."""
    probe = PROBES.get(feature)
    return probe() if probe else _program(feature)


def required() -> frozenset[Feature]:
    """The features that the environment promises: a test that misses one of these fails instead of being skipped."""
    return frozenset(Feature(name.strip()) for name in os.environ.get(REQUIRE, "").split(",") if name.strip())


def need(*features: Feature) -> None:
    """Skip the running test unless the machine has all of these; fail it where the missing one is required."""
    import pytest  # The demo asks for features too, where there is no pytest.

    for feature in features:
        if reason := absent(feature):
            message = f"needs {feature}: {reason}"
            if feature in required():
                pytest.fail(f"{message} ({REQUIRE} lists it)", pytrace=False)
            pytest.skip(message)


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _program(feature: Feature) -> str | None:
    names = {
        Feature.FRR: "vtysh",
        Feature.NFTABLES: "nft",
        Feature.QEMU: "qemu-system-x86_64",
        Feature.SYSTEMD_ANALYZE: "systemd-analyze",
        Feature.UML: "linux.uml",
    }
    program = names.get(feature, str(feature))
    if shutil.which(program):
        return None
    return f"no program {program} (Debian: apt install {PACKAGES.get(feature, program)})"


def _root() -> str | None:
    return None if os.geteuid() == 0 else f"user {os.geteuid()} is not root"


def _netns() -> str | None:
    if _root():
        return _root()
    return None if _succeeds("unshare", "--net", "true") else "the kernel refuses a network namespace"


def _nftables() -> str | None:
    if not shutil.which("nft"):
        return "no program nft (Debian: apt install nftables)"
    if _root():
        return _root()
    check = ("nft", "--check", "add table inet kernlb_probe")
    return None if _succeeds(*check) else "the kernel refuses an nftables table (CONFIG_NF_TABLES)"


def _ipvs() -> str | None:
    if _root():
        return _root()
    table = Path("/proc/net/ip_vs")
    if not table.exists():
        _succeeds("modprobe", "ip_vs")
    return None if table.exists() else f"kernel {platform.release()} has no IPVS (CONFIG_IP_VS)"


def _ipip() -> str | None:
    if _root():
        return _root()
    add = "ip link add kernlb-probe type ipip local 192.0.2.1 remote 192.0.2.2"
    return None if _succeeds("unshare", "--net", *add.split()) else "the kernel makes no ipip device (CONFIG_NET_IPIP)"


def _bpf() -> str | None:
    """Load the smallest XDP program there is: `return XDP_PASS`."""
    number = BPF_SYSCALL.get(platform.machine())
    if number is None:
        return f"no bpf() system call number known for {platform.machine()}"
    code = ctypes.create_string_buffer(struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = ctypes.create_string_buffer(
        struct.pack("=IIQQ", BPF_PROG_TYPE_XDP, 2, ctypes.addressof(code), ctypes.addressof(licence)), 128
    )
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(number, BPF_PROG_LOAD, attributes, ctypes.c_uint(len(attributes)))
    if descriptor < 0:
        return f"the kernel refuses an eBPF program: {os.strerror(ctypes.get_errno())}"
    os.close(descriptor)
    return None


def _bcc() -> str | None:
    if not any(_succeeds(python, "-c", "from bcc import BPF") for python in (sys.executable, "/usr/bin/python3")):
        return "no module bcc.BPF (Debian: apt install python3-bpfcc; PyPI's bcc is something else)"
    header = Path("/usr/include/linux/bpf.h")
    return None if header.is_file() else f"no {header} (Debian: apt install linux-libc-dev)"


def _ansible() -> str | None:
    missing = [
        tool for tool in ("ansible-playbook", "ansible-lint") if not Path(sys.executable).with_name(tool).exists()
    ]
    return f"no program {missing[0]} (pip install kernlb[ansible])" if missing else None


def _libvirt() -> str | None:
    """What machines of the lab need beside Vagrant, where there is neither a box nor a libvirtd yet."""
    programs = {
        "libvirtd": "libvirt-daemon-system",
        "virsh": "libvirt-clients",
        "dnsmasq": "dnsmasq-base",
        "extlinux": "extlinux",
        "slirp4netns": "slirp4netns",
    }
    missing = {program: package for program, package in programs.items() if not shutil.which(program)}
    return f"no program {', '.join(missing)} (Debian: apt install {' '.join(missing.values())})" if missing else None


PROBES: dict[Feature, Callable[[], str | None]] = {
    Feature.ANSIBLE: _ansible,
    Feature.ROOT: _root,
    Feature.NETNS: _netns,
    Feature.NFTABLES: _nftables,
    Feature.IPVS: _ipvs,
    Feature.IPIP: _ipip,
    Feature.BPF: _bpf,
    Feature.BCC: _bcc,
    Feature.LIBVIRT: _libvirt,
}
