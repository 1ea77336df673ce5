"""Local listeners in a namespace of the test's own."""

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.listeners import Listener, listeners
from kernlb.model import Family, Protocol
from tests.system.network import inside, namespaces, server

pytestmark = [pytest.mark.root, pytest.mark.netns]

TCP, UDP = Protocol.TCP, Protocol.UDP


@pytest.fixture
def alone() -> Iterator[str]:
    with namespaces("alone") as (name,):
        yield name


def found(namespace: str, protocol: Protocol, first: int, last: int, family: Family | None = None) -> list[str]:
    with inside(namespace):
        return [f"{one.address} {one.port}" for one in listeners(protocol, first=first, last=last, family=family)]


def test_a_listener_is_named_with_its_process_and_only_in_its_own_namespace(alone: str) -> None:
    me = Path("/proc/self/comm").read_text().strip()
    with server(alone, "0.0.0.0", 2222):
        with inside(alone):
            assert listeners(TCP, first=2222, last=2222, family=Family.IPV4) == (
                Listener(me, os.getpid(), ip_address("0.0.0.0"), 2222),
            )
        assert not [one for one in listeners(TCP, first=2222, last=2222) if one.pid == os.getpid()]


def test_ports_protocol_and_family_are_told_apart(alone: str) -> None:
    with server(alone, "0.0.0.0", 2222), server(alone, "0.0.0.0", 5353, kind=socket.SOCK_DGRAM):
        assert found(alone, TCP, 2222, 2222) == ["0.0.0.0 2222"]
        assert found(alone, TCP, 2000, 3000, Family.IPV4) == ["0.0.0.0 2222"]
        assert found(alone, TCP, 0, 0, Family.IPV4) == ["0.0.0.0 2222"]
        assert found(alone, UDP, 5353, 5353) == ["0.0.0.0 5353"]
        assert found(alone, TCP, 2222, 2222, Family.IPV6) == []
        assert found(alone, TCP, 5353, 5353) == found(alone, UDP, 2222, 2222) == found(alone, TCP, 80, 80) == []
        assert found(alone, Protocol.SCTP, 0, 0) == []


def test_a_listener_on_every_address_of_ipv6_counts_for_both_families(alone: str) -> None:
    with inside(alone):
        both = socket.create_server(("::", 2222), family=socket.AF_INET6, dualstack_ipv6=True)
    with both:
        assert found(alone, TCP, 2222, 2222, Family.IPV4) == [":: 2222"]
        assert found(alone, TCP, 2222, 2222, Family.IPV6) == [":: 2222"]


def test_listeners_on_loopback_and_connections_do_not_count(alone: str) -> None:
    with server(alone, "127.0.0.1", 2222), server(alone, "::1", 2222), inside(alone):
        with socket.create_connection(("127.0.0.1", 2222)) as client:
            assert found(alone, TCP, client.getsockname()[1], client.getsockname()[1]) == []
        assert found(alone, TCP, 2222, 2222) == []
