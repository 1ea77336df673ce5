"""Least connections by the eBPF program, with real servers: who holds connections for longer gets fewer."""

import multiprocessing
from pathlib import Path

import pytest

from kernlb.demo.http import serve
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS
from tests.system.director import director

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.bpf, pytest.mark.clang, pytest.mark.timeout(300)]

SLOW = "server1"
REQUESTS = 300


def test_a_slow_server_gets_few_connections_and_nobody_waits_for_it(tmp_path: Path) -> None:
    with director(tmp_path) as found:
        delay = multiprocessing.Value("d", 0.5)
        found.lab.start(SLOW, serve, SLOW, SERVERS[SLOW], 8081, delay)
        for name in set(SERVERS) - {SLOW}:
            found.lab.start(name, serve, name, SERVERS[name], 8081, multiprocessing.Value("d", 0.02))
        listed = "\n".join(f'{name} = "{address}:8081"' for name, address in SERVERS.items())
        text = f"""
[engine]
default = "xdp"
[service.web]
bind = "{DIRECTOR_FRONT}:80"
forwarding = "fullnat"
scheduler = "wlc"
[service.web.servers]
{listed}
"""
        found.apply(text)
        tally = found.requests(REQUESTS, DIRECTOR_FRONT, parallel=30)
        found.call("clear")
    assert not tally.failed
    assert set(tally.split) == set(SERVERS)
    # By weight alone it would be a third.
    assert tally.split[SLOW] < REQUESTS / 6, tally.split
