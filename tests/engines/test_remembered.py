"""A remembered reading holds until something may have changed it, and no longer."""

from kernlb.engines.memory import Memory
from kernlb.engines.remembered import FULL, Remembered
from kernlb.model import Sysctl, SysctlKey, Table
from kernlb.plan import Operation, Verb

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
