"""TCP connects against the kernel's own answers."""

import asyncio
import os
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.checks.base import Target, target_of
from kernlb.checks.spec import Check
from kernlb.checks.tcp import TcpProber
from kernlb.checks.verdict import Code, Outcome
from tests.checks.servers import verdict, verdicts


def listener(host: str = "127.0.0.1", backlog: int = 16) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    sock.listen(backlog)
    sock.setblocking(False)
    return sock


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_listener_is_up_and_its_time_is_the_handshakes():
    with listener() as server:
        found = asyncio.run(verdict(Check(), server.getsockname()[1]))
    assert (found.outcome, found.code) == (Outcome.UP, Code.L4OK)
    assert 0 < found.seconds < 0.1


def test_ipv6_is_the_same():
    with listener("::1") as server:
        assert asyncio.run(verdict(Check(), server.getsockname()[1], "::1")).outcome is Outcome.UP


def test_a_closed_port_is_down_and_says_refused():
    with listener() as server:
        port = server.getsockname()[1]
    found = asyncio.run(verdict(Check(), port))
    assert (found.outcome, found.text) == (Outcome.DOWN, "L4CON connection refused")


def test_a_server_that_drops_packets_is_down_at_the_timeout_and_not_before():
    with listener(backlog=0) as server:  # a full backlog drops SYNs as a firewall would
        blockers = []
        for _ in range(4):
            blocker = socket.socket()
            blocker.setblocking(False)
            blocker.connect_ex(server.getsockname())
            blockers.append(blocker)

        async def timed():
            started = asyncio.get_running_loop().time()
            found = await verdict(Check(timeout=0.3), server.getsockname()[1])
            return found, asyncio.get_running_loop().time() - started

        found, seconds = asyncio.run(timed())
        for blocker in blockers:
            blocker.close()
    assert (found.outcome, found.code) == (Outcome.DOWN, Code.L4TOUT)
    assert 0.3 <= seconds < 1


def test_an_unroutable_target_is_down_without_an_exception():
    found = asyncio.run(verdict(Check(timeout=0.5), 80, "2001:db8::1"))
    assert found.outcome is not Outcome.UP


def test_the_servers_program_never_sees_a_probe():
    with listener() as server:
        asyncio.run(verdict(Check(), server.getsockname()[1]))
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("source", [None, ip_address("127.0.0.9")])
def test_a_used_socket_tells_a_closed_port_from_an_open_one(source):
    """Sockets are used again: what one target said must not colour the next."""
    with listener() as server, listener() as other:
        closed = other.getsockname()[1]
        other.close()
        check = Check(bind_address=source)
        up = target_of(check, ip_address("127.0.0.1"), server.getsockname()[1])
        down = target_of(check, ip_address("127.0.0.1"), closed)

        async def alternate() -> str:
            letters: list[str] = []
            arrived = asyncio.Event()

            def report(done):
                letters.extend("U" if each.outcome is Outcome.UP else "D" for _, each in done)
                arrived.set()

            prober = TcpProber(report)
            for number in range(40):
                arrived.clear()
                prober.start([down if number % 2 else up])
                await asyncio.wait_for(arrived.wait(), 5)
            prober.close()
            return "".join(letters)

        assert asyncio.run(alternate()) == "UD" * 20


def test_a_thousand_at_once_need_no_more_descriptors_than_allowed_and_leave_none():
    with listener(backlog=4096) as server:
        port = server.getsockname()[1]
        targets = [target_of(Check(), ip_address(f"127.0.{n // 200}.{n % 200 + 1}"), port) for n in range(1000)]
        before = open_descriptors()
        waits: list[float] = []

        async def everything() -> tuple[int, int]:
            found = 0
            complete = asyncio.Event()

            def report(done):
                nonlocal found
                found += len(done)
                if found == len(targets):
                    complete.set()

            prober = TcpProber(report, descriptors=64, late=waits.append)
            prober.start(targets)
            most = open_descriptors()
            await asyncio.wait_for(complete.wait(), 20)
            prober.close()
            return found, most

        # 127.0.x.1 but the first have no listener: refused counts as an answer here.
        found, most = asyncio.run(everything())
        assert found == 1000
        assert len(waits) == 1000 - 64
        assert most <= before + 64 + 10
        assert open_descriptors() <= before


@pytest.mark.skipif(os.geteuid() != 0, reason="SO_MARK needs CAP_NET_ADMIN")
def test_a_thousand_paths_keep_few_sockets():
    async def everything(targets: list[Target]) -> int:
        arrived: list[object] = []
        prober = TcpProber(arrived.extend, descriptors=64)
        prober.start(targets)
        while len(arrived) < len(targets):
            await asyncio.sleep(0.01)
        kept = open_descriptors()
        prober.close()
        return kept

    with listener(backlog=4096) as server:
        port, before = server.getsockname()[1], open_descriptors()
        targets = [target_of(Check(mark=n + 1), ip_address("127.0.0.1"), port) for n in range(1000)]
        assert asyncio.run(asyncio.wait_for(everything(targets), 20)) <= before + 16 + 10
        assert open_descriptors() <= before


def test_the_source_address_is_the_checks():
    with listener("127.0.0.1") as server:
        port = server.getsockname()[1]
        asyncio.run(verdict(Check(bind_address=ip_address("127.0.0.9")), port))
        bad = asyncio.run(verdict(Check(bind_address=ip_address("192.0.2.1")), port))
        other = asyncio.run(verdict(Check(bind_address=ip_address("::1")), port))
    assert (other.outcome, other.code) == (Outcome.NEUTRAL, Code.INTERNAL)
    # An address that the director does not have is its own fault, and says nothing about the server.
    assert (bad.outcome, bad.code) == (Outcome.NEUTRAL, Code.INTERNAL)


def test_an_interface_that_does_not_exist_is_no_fault_of_the_server():
    found = asyncio.run(verdict(Check(interface="nosuch0"), 80))
    assert (found.outcome, found.code) == (Outcome.NEUTRAL, Code.INTERNAL)


@pytest.mark.skipif(os.geteuid() != 0, reason="SO_MARK needs CAP_NET_ADMIN")
def test_mark_and_interface_reach_the_socket():
    with listener() as server:
        check = Check(mark=7, interface="lo", bind_address=ip_address("127.0.0.1"))
        assert asyncio.run(verdict(check, server.getsockname()[1])).outcome is Outcome.UP


def test_many_kinds_of_patience_each_keep_their_own_deadline():
    with listener(backlog=0) as server:
        port = server.getsockname()[1]
        blockers = [socket.socket() for _ in range(4)]
        for blocker in blockers:
            blocker.setblocking(False)
            blocker.connect_ex(server.getsockname())
        patiences = [0.8, 0.2, 0.5]
        targets = [target_of(Check(timeout=each), ip_address("127.0.0.1"), port) for each in patiences]
        found = asyncio.run(verdicts(*targets))
        for blocker in blockers:
            blocker.close()
    assert [each.reason for each in found] == [f"no answer within {each:g} s" for each in patiences]
