"""What the eBPF program cannot carry: `auto` gives it to IPVS where there is one; where there is none it is said."""

import pytest

from kernlb.config import load
from kernlb.config.values import Config, chosen_engine
from kernlb.engines.admission import admit
from kernlb.engines.placement import refusal
from kernlb.errors import Unsupported
from kernlb.model import EngineName, Forwarding, RealServer, Scheduler, VirtualService

IMPOSSIBLE = {
    'scheduler = "sed"': "no scheduler sed",
    'scheduler = "fo"': "no scheduler fo",
    'protocol = "sctp"\nforwarding = "direct"\ncheck = { type = "ping" }': "not sctp",
    'protocol = "udp"\none_packet = true': "never single datagrams",
    'forwarding = "nat"': "no forwarding nat",
    'persistence = { timeout = "5m", prefix = 24 }': "whole addresses only",
    'bind = "fwmark:7"\nprotocol = "tcp"': "before marks are set",
}


def configuration(lines: str, *, engine: str = "auto") -> Config:
    bind = "" if "bind" in lines else 'bind = "192.0.2.1:80"\n'
    forwarding = "" if "forwarding" in lines else 'forwarding = "fullnat"\n'
    return load(f'[service.web]\nengine = "{engine}"\n{bind}{forwarding}{lines}\nservers.a = "10.0.0.1:80"\n', "test")


@pytest.mark.parametrize(("lines", "reason"), IMPOSSIBLE.items())
def test_auto_gives_to_ipvs_what_the_program_cannot_carry_and_without_ipvs_says_why(lines: str, reason: str) -> None:
    config = configuration(lines)
    (service,) = config.services
    assert chosen_engine(service, config, ipvs_available=True) is EngineName.IPVS
    assert chosen_engine(service, config, ipvs_available=False) is EngineName.XDP
    with pytest.raises(Unsupported, match=reason) as refused:
        admit(service)
    assert refused.value.where == "service.web"
    assert 'engine = "ipvs"' in (refused.value.hint or "")


@pytest.mark.parametrize("lines", ["", 'scheduler = "rr"', 'protocol = "udp"', 'forwarding = "tunnel"'])
def test_what_the_program_can_carry_is_admitted(lines: str) -> None:
    (service,) = configuration(lines, engine="xdp").services
    admit(service)


@pytest.mark.parametrize("scheduler", sorted(set(Scheduler) - {Scheduler.MAGLEV, Scheduler.SH, Scheduler.TWOS}))
def test_a_scheduler_of_the_kernel_s_is_refused_by_its_name(scheduler: Scheduler) -> None:
    assert f"no scheduler {scheduler}" in (refusal(VirtualService(scheduler)) or "")


def test_each_forwarding_but_nat_is_carried() -> None:
    assert {each for each in Forwarding if refusal(RealServer(each, 1)) is not None} == {Forwarding.NAT}
