"""Every kind of probe takes the path it is told to: its mark, source address and interface are on its packets."""

import asyncio
import json
import os
import subprocess
from ipaddress import ip_address

import pytest

from kernlb.checks.spec import (
    AgentProbe,
    BfdProbe,
    Check,
    DnsProbe,
    Expect,
    GrpcProbe,
    HttpProbe,
    Match,
    PingProbe,
    SmtpProbe,
    TcpProbe,
    TlsProbe,
    Transport,
    UdpProbe,
)
from kernlb.checks.verdict import Outcome
from tests.checks.servers import verdict
from tests.engines.namespace import fresh_network

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="marks and namespaces need root")

PROBES = {
    "tcp": TcpProbe(),
    "tcp with steps": TcpProbe(steps=(Expect(match=Match(text=b"x")),)),
    "http": HttpProbe(),
    "tls": TlsProbe(),
    "dns": DnsProbe(),
    "dns over tcp": DnsProbe(transport=Transport.TCP),
    "udp": UdpProbe(require_reply=True),
    "ping": PingProbe(),
    "smtp": SmtpProbe(),
    "grpc": GrpcProbe(),
    "agent": AgentProbe(),
    "bfd": BfdProbe(),
}
RULES = """
table inet path {
    counter marked { }
    chain output {
        type filter hook output priority 0
        meta mark 7 ip saddr 127.0.0.9 oifname "lo" counter name marked drop
    }
}
"""


@pytest.mark.parametrize("kind", PROBES)
def test_a_probe_carries_its_mark_source_and_interface(kind):
    with fresh_network():
        subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True, timeout=20)
        check = Check(probe=PROBES[kind], timeout=0.3, mark=7, bind_address=ip_address("127.0.0.9"), interface="lo")
        found = asyncio.run(verdict(check, 80))
        listing = subprocess.run(
            ["nft", "-j", "list", "counter", "inet", "path", "marked"], capture_output=True, check=True, timeout=20
        )
        packets = json.loads(listing.stdout)["nftables"][-1]["counter"]["packets"]
    assert packets > 0
    assert found.outcome is not Outcome.UP
