"""What the checks leave in conntrack where it is at work: nothing, and no firewall that asks it takes notice."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.checks.base import target_of
from kernlb.checks.spec import Check, HttpProbe
from kernlb.checks.verdict import Outcome
from kernlb.engines.check_timeouts import INCOMPLETE, ConntrackOfChecks, Tracking
from kernlb.model import CheckTimeouts, CheckTimeoutsKey, Table
from kernlb.places import Places
from kernlb.plan import diff
from tests.checks.servers import saying, serving, verdicts
from tests.system.network import inside, namespaces, nft, run, until

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.nftables, pytest.mark.conntrack]

KEY = CheckTimeoutsKey()
STRICT = """
table inet firewall {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established accept
		ct state new tcp dport != 9 accept
		ct state new meta l4proto icmp accept
	}
}
"""
HTTP = saying(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.fixture
def alone() -> Iterator[str]:
    with namespaces("alone") as (name,):
        with inside(name):
            yield name
        # What is pinned in the BPF file system outlives its namespace.
        shutil.rmtree(Places(namespace=name).pins, ignore_errors=True)


def bring(desired: Table) -> None:
    engine = ConntrackOfChecks()
    engine.apply(diff(desired, engine.read()))


def kept() -> list[str]:
    """The entries that conntrack has not forgotten."""
    return run("conntrack", "-L").splitlines()


def awaited(seconds: float = 90.0) -> Table:
    """The table, once somebody has made it: a daemon's first step may have to load the eBPF program."""
    deadline = time.monotonic() + seconds
    while not (found := ConntrackOfChecks().read()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_the_table_reads_back_as_it_was_wanted(alone: str) -> None:
    engine = ConntrackOfChecks()
    assert engine.read() == {}
    for seconds in (1, 60):
        bring({KEY: CheckTimeouts(seconds)})
        assert engine.read() == {KEY: CheckTimeouts(seconds)}
    nft(alone, "flush chain inet kernlb_checks output")
    assert engine.read() == {KEY: INCOMPLETE}
    bring({KEY: CheckTimeouts(60)})
    assert engine.read() == {KEY: CheckTimeouts(60)}
    bring({})
    assert engine.read() == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_two_hundred_probes_pass_a_strict_firewall_and_leave_nothing(alone: str, host: str) -> None:
    nft(alone, STRICT)

    async def round_of_probes() -> None:
        async with serving(HTTP, host=host) as port:
            checks = [Check(timeout=25.0), Check(probe=HttpProbe(), timeout=25.0)]
            targets = [target_of(checks[n % 10 == 0], ip_address(host), port) for n in range(200)]
            assert {found.outcome for found in await verdicts(*targets)} == {Outcome.UP}

    asyncio.run(round_of_probes())
    assert kept()
    run("conntrack", "-F")
    bring({KEY: CheckTimeouts(2)})
    asyncio.run(round_of_probes())
    assert kept() == []


def test_a_target_that_never_answers_is_forgotten_too(alone: str) -> None:
    nft(alone, STRICT)
    bring({KEY: CheckTimeouts(1)})
    targets = [target_of(Check(timeout=0.3), ip_address("127.0.0.1"), 9) for _ in range(20)]
    assert {found.outcome for found in asyncio.run(verdicts(*targets))} == {Outcome.DOWN}
    assert until(kept, lambda entries: not entries) == []


def test_a_daemon_has_it_where_conntrack_is_at_work_and_clear_takes_it_away(alone: str, tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    file.write_text(
        '[addresses]\nmanage = true\n[engine]\ninterfaces = ["lo"]\n[service.web]\nbind = ["192.0.2.1:80"]\n'
        'forwarding = "tunnel"\ncheck = { timeout = "1500ms" }\n[service.web.servers]\none = "127.0.0.1:80"\n'
    )
    places = ["--netns", alone, "--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path / "run")]
    program = [sys.executable, "-m", "kernlb", *places]

    def operations(verb: str, *arguments: str) -> list[str]:
        done = subprocess.run([*program, verb, *arguments, "--json"], capture_output=True, text=True, timeout=110)
        assert done.returncode in (0, 2), done.stderr
        return [each["text"] for each in json.loads(done.stdout)["operations"]]

    assert Tracking(certainly=True)() is False
    operations("apply", str(file))
    nft(alone, STRICT)
    subprocess.run(["ping", "-c", "1", "-W", "1", "127.0.0.1"], check=True, capture_output=True, timeout=10)
    assert Tracking(certainly=False)() is True
    assert not any("conntrack" in text for text in operations("plan", str(file)))  # nobody checks
    daemon = subprocess.Popen([*program, "run", str(file)], stderr=subprocess.DEVNULL)
    try:
        table = awaited()
        assert table == {KEY: CheckTimeouts(2)}
        nft(alone, "delete table inet kernlb_checks")
        assert awaited() == table
    finally:
        daemon.terminate()
        daemon.wait(60)
    assert not any("conntrack" in text for text in operations("plan", str(file)))  # the next daemon finds it
    assert "- conntrack timeouts of checks" in operations("clear")
    assert ConntrackOfChecks().read() == {}
