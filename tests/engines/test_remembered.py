"""A remembered reading holds until something may have changed it, and no longer."""

from ipaddress import ip_address

import pytest

from kernlb.engines.ipvs import Ipvs
from kernlb.engines.memory import Memory
from kernlb.engines.remembered import FULL, Remembered, RememberedIpvs
from kernlb.model import (
    Endpoint,
    EngineName,
    Protocol,
    Scheduler,
    Sysctl,
    SysctlKey,
    Table,
    VirtualService,
)
from kernlb.plan import Operation, Verb
from tests.engines.namespace import fresh_network

KEY = SysctlKey("net.ipv4.ip_forward")


class Counted(Memory):
    """Counts its readings."""

    readings = 0

    def read(self) -> Table:
        self.readings += 1
        return super().read()


def test_a_reading_holds_until_it_is_spoilt_written_to_or_old() -> None:
    now = [0.0]
    engine = Counted({KEY: Sysctl("0")})
    remembered = Remembered(engine, clock=lambda: now[0])
    for _ in range(3):
        assert remembered.read() == {KEY: Sysctl("0")}
    assert engine.readings == 1
    remembered.apply([Operation(Verb.CHANGE, KEY, Sysctl("0"), Sysctl("1"))])
    assert remembered.read() == {KEY: Sysctl("1")}
    engine.apply([Operation(Verb.CHANGE, KEY, Sysctl("1"), Sysctl("0"))])
    assert remembered.read() == {KEY: Sysctl("1")}, "nobody said that it changed"
    remembered.spoil()
    assert remembered.read() == {KEY: Sysctl("0")}
    engine.apply([Operation(Verb.CHANGE, KEY, Sysctl("0"), Sysctl("1"))])
    now[0] = FULL
    assert remembered.read() == {KEY: Sysctl("1")}


@pytest.mark.ipvs
def test_what_somebody_undoes_right_after_it_was_written_is_noticed() -> None:
    """The kernel is then as it was at the last look."""
    service, value = Endpoint(EngineName.IPVS, Protocol.TCP, ip_address("192.0.2.1"), 80), VirtualService(Scheduler.RR)
    with fresh_network(), Ipvs() as ipvs:
        remembered = RememberedIpvs(ipvs)
        assert service not in remembered.read()
        remembered.apply([Operation(Verb.ADD, service, None, value)])
        ipvs.apply([Operation(Verb.REMOVE, service, value, None)])
        assert remembered.changed()
        assert service not in remembered.read()
