"""A real server's network files, read by the programs of a clean Debian 12 that are not wanted on every machine."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.config import load
from kernlb.render import Options, Template, render
from tests.debian.tree import machine

pytestmark = [pytest.mark.root, pytest.mark.mmdebstrap, pytest.mark.timeout(900)]

TUNNELS = """
[service.web]
bind = ["203.0.113.10:80", "[2001:db8::10]:80"]
forwarding = "tunnel"
servers = { rs1 = "10.0.0.1:80" }
"""
LOOPBACK = "auto lo\niface lo inet loopback\n\n"


def test_ifupdown_does_what_its_file_says(tmp_path: Path) -> None:
    options = Options(vips=(ip_address("203.0.113.11"),))
    text = render(Template.REAL_SERVER_INTERFACES, load(TUNNELS, "kernlb.toml"), options)
    (tmp_path / "interfaces").write_text(LOOPBACK + text)
    with machine(tmp_path) as debian:
        listed = debian.run("ifquery", "--interfaces", "/given/interfaces", "--list", "--all").stdout.split()
        assert listed == ["lo", "sit0", "tunl0"]
        debian.run("ifup", "--interfaces", "/given/interfaces", "--no-act", "tunl0", "sit0")
        debian.run("ifup", "--interfaces", "/given/interfaces", "lo")
        shown = debian.run("ip", "-brief", "address", "show", "dev", "lo").stdout
        assert {"203.0.113.10/32", "203.0.113.11/32", "2001:db8::10/128"} <= set(shown.split())
        debian.run("ifdown", "--interfaces", "/given/interfaces", "lo")
        assert "203.0.113.10" not in debian.run("ip", "-brief", "address", "show", "dev", "lo").stdout
