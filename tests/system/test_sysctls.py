"""Sysctls of a network namespace of the test's own."""

from collections.abc import Iterator

import pytest

from kernlb.engines.sysctls import Sysctls
from kernlb.errors import KernelError, Unsupported
from kernlb.model import Sysctl, SysctlKey
from kernlb.plan import Operation, Verb, diff
from tests.system.network import inside, ip, namespaces, run

pytestmark = [pytest.mark.root, pytest.mark.netns]

FORWARD = SysctlKey("net.ipv4.ip_forward")


@pytest.fixture
def alone() -> Iterator[str]:
    with namespaces("alone") as (name,):
        yield name


def change(name: str, value: str) -> Operation:
    return Operation(Verb.CHANGE, SysctlKey(name), None, Sysctl(value))


def test_what_was_written_reads_back_in_this_namespace_alone(alone: str) -> None:
    engine = Sysctls([FORWARD.name])
    outside = engine.read()
    with inside(alone):
        before = engine.read()[FORWARD]
        other = Sysctl("0" if before == Sysctl("1") else "1")
        engine.apply(diff({FORWARD: other}, engine.read()))
        assert engine.read() == {FORWARD: other}
        assert diff({FORWARD: other}, engine.read()) == []
    assert engine.read() == outside
    assert run("ip", "netns", "exec", alone, "sysctl", "-n", FORWARD.name).strip() == other.value


def test_a_value_of_several_numbers_reads_with_single_blanks(alone: str) -> None:
    key = SysctlKey("net.ipv4.ip_local_port_range")
    with inside(alone):
        engine = Sysctls([key.name])
        engine.apply([change(key.name, "20000 30000")])
        assert engine.read() == {key: Sysctl("20000 30000")}


def test_an_interface_with_a_dot_in_its_name_is_written_with_a_slash(alone: str) -> None:
    ip(alone, "link add eth0.7 type veth peer name eth1\n")
    key = SysctlKey("net.ipv4.conf.eth0/7.rp_filter")
    with inside(alone):
        engine = Sysctls([key.name])
        engine.apply([change(key.name, "2")])
        assert engine.read() == {key: Sysctl("2")}


def test_what_the_kernel_has_not_is_absent_and_writing_it_names_the_module(alone: str) -> None:
    with inside(alone):
        engine = Sysctls(["net.ipv4.vs.nonsense", "net.nonsense"])
        assert engine.read() == {}
        with pytest.raises(Unsupported, match="ip_vs"):
            engine.apply([change("net.ipv4.vs.nonsense", "1")])
        with pytest.raises(Unsupported, match=r"net\.nonsense"):
            engine.apply([change("net.nonsense", "1")])


def test_a_value_that_the_kernel_refuses_is_told_with_the_name(alone: str) -> None:
    with inside(alone), pytest.raises(KernelError, match="ip_forward to plenty: the kernel does not take"):
        Sysctls([]).apply([change(FORWARD.name, "plenty")])


def test_only_the_names_of_interest_are_read(alone: str) -> None:
    with inside(alone):
        assert Sysctls([]).read() == {}
