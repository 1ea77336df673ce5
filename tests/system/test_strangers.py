"""Somebody else's XDP program on the interface: refused by name by plan and apply, displaced by --force alone."""

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernlb.engines.libbpf import check, library
from kernlb.engines.rtnetlink import Rtnetlink
from tests.engines.namespace import one_interface

pytestmark = [pytest.mark.bpf, pytest.mark.netns]
CONFIGURATION = """
[engine]
default = "xdp"
loader = "object"

[service.web]
bind = ["192.0.2.1:80"]
forwarding = "fullnat"

[service.web.servers]
one = "10.7.0.1:80"
"""
XDP, SKB_MODE = 6, 1 << 1


@pytest.fixture
def front(balancer: Path) -> Iterator[int]:
    """An interface with a program of somebody else's that passes every packet."""
    with one_interface():
        code = struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0)
        library().bpf_prog_load.argtypes = None
        program = check(library().bpf_prog_load(XDP, b"firewall", b"GPL", code, ctypes.c_size_t(2), None), "load")
        with Rtnetlink() as netlink:
            index = next(link.index for link in netlink.links().values() if link.name == "front")
        check(library().bpf_xdp_attach(index, program, SKB_MODE, None), "attach")
        yield index
        os.close(program)


def programs(index: int) -> int:
    with Rtnetlink() as netlink:
        return len(netlink.links()[index].xdp_programs)


def kernlb(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    places = ("--run-dir", str(place / "run"), "--state-dir", str(place / "state"))
    command = (sys.executable, "-m", "kernlb", *places, *words)
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_foreign_xdp_program_is_refused_by_name_until_it_may_be_displaced(front: int, tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    file.write_text(CONFIGURATION)
    for verb in ("plan", "apply"):
        refused = kernlb(tmp_path, verb, str(file))
        assert refused.returncode == 1
        assert "firewall (id " in refused.stderr
        assert "--force" in refused.stderr
        assert programs(front) == 1
    assert kernlb(tmp_path, "plan", "--force", str(file)).returncode == 2
    assert programs(front) == 1
    done = kernlb(tmp_path, "apply", "--force", str(file))
    assert done.returncode == 0, done.stderr
    assert programs(front) == 0
    assert kernlb(tmp_path, "clear").returncode == 0
