"""New connections that are held: neither let in nor refused, and never for longer than whoever holds them lives."""

import os
import signal
import socket
import subprocess
import sys
import time
from ipaddress import IPv4Address

import pytest

from kernlb.engines.hold import TABLE, held
from kernlb.model import Endpoint, EngineName, Family, Fwmark, Protocol
from tests.engines.namespace import fresh_network

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.nftables]
PLACE = IPv4Address("127.0.0.1")
HOLDER = """
import sys
from ipaddress import IPv4Address
from kernlb.engines.hold import held
from kernlb.model import Endpoint, EngineName, Protocol
with held([Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("127.0.0.1"), 80)]) as holds:
    print(holds, flush=True)
    sys.stdin.read()
"""


def there() -> bool:
    return not subprocess.run(["nft", "list", "table", "inet", TABLE], capture_output=True).returncode


def test_a_held_connection_is_there_once_the_client_has_repeated_itself() -> None:
    with fresh_network(), socket.create_server((str(PLACE), 0)) as listener, socket.socket() as client:
        where = listener.getsockname()
        client.setblocking(False)
        with held([Endpoint(EngineName.IPVS, Protocol.TCP, PLACE, where[1]), Fwmark(Family.IPV4, 7)]) as holds:
            assert holds
            client.connect_ex(where)
            # Another port of the address is not held.
            with socket.create_server((str(PLACE), 0)) as other:
                socket.create_connection(other.getsockname(), timeout=5).close()
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
        assert not there()
        listener.settimeout(10)
        listener.accept()[0].close()


def test_what_is_not_repeated_is_not_held() -> None:
    with fresh_network(), held([Endpoint(EngineName.IPVS, Protocol.UDP, PLACE, 53)]) as holds:
        assert not holds
        assert not there()


def test_nothing_is_held_any_more_when_the_holder_is_killed() -> None:
    with fresh_network():
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
            assert there()
            os.kill(holder.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while there():
            assert time.monotonic() < deadline
            time.sleep(0.02)
