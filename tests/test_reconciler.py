"""Laws of the one writer, on the memory engine."""

from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kernlb.counters import Counters
from kernlb.desired import Desired, Name
from kernlb.engines.memory import Memory
from kernlb.errors import Conflict, KernelError
from kernlb.kernel import Kernel
from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Forwarding,
    Key,
    Mark,
    MarkKey,
    Protocol,
    RealServer,
    Scheduler,
    ServerKey,
    ServiceKey,
    Sysctl,
    SysctlKey,
    Table,
    VirtualService,
)
from kernlb.parts import cut
from kernlb.plan import Operation, Verb, diff
from kernlb.reconciler import SETTLE, Consent, Reconciler, Wanted
from kernlb.state import StateError, Store

WEB = Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("192.0.2.1"), 80)
THEIRS = Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("192.0.2.99"), 80)
ONE, TWO = (ServerKey(WEB, IPv4Address(f"10.0.0.{n}"), 80) for n in (1, 2))
SERVICE = VirtualService(Scheduler.WRR)
SERVER = RealServer(Forwarding.NAT, 1)
FORWARD = SysctlKey("net.ipv4.ip_forward")
BOTH: Table = {FORWARD: Sysctl("1"), WEB: SERVICE, ONE: SERVER, TWO: SERVER}
ONLY_ONE: Table = {FORWARD: Sysctl("1"), WEB: SERVICE, ONE: SERVER}


class Busy(Memory):
    """A memory engine whose servers have live connections."""

    def __init__(self, table: Table | None = None) -> None:
        super().__init__(table)
        self.live: dict[Key, int] = {}

    def counters(self) -> dict[Key, Counters]:
        return {key: Counters(active_connections=self.live.get(key, 0)) for key in self.read()}


class Broken(Memory):
    """Refuses one key."""

    def __init__(self, refused: Key, table: Table | None = None) -> None:
        super().__init__(table)
        self.refused: Key | None = refused
        self.error: BaseException = KernelError("no", errno=22)

    def apply(self, operations: Collection[Operation]) -> None:
        for operation in operations:
            if operation.key == self.refused:
                raise self.error
            super().apply([operation])


def reconciler(engine: Memory, path: Path, **consent: bool) -> Reconciler:
    return Reconciler(
        Kernel({EngineName.IPVS: engine}), Store(path / "state.json"), Consent(**consent), lambda key: None
    )


def want(table: Table, absent: Collection[ServerKey] = ()):
    def wanted(foreign: Collection[ServiceKey]) -> Desired:
        return Desired(dict(table), {WEB: Name("web")}, set(absent))

    return wanted


def test_a_step_makes_the_kernel_as_wanted_and_the_next_writes_nothing(tmp_path: Path) -> None:
    engine = Memory({FORWARD: Sysctl("0")})
    writer = reconciler(engine, tmp_path)
    assert not writer.step(want(BOTH), deadline=30, now=0).waiting
    assert engine.read() == BOTH
    count = len(engine.written)
    assert writer.step(want(BOTH), deadline=30, now=1).done == []
    assert len(engine.written) == count


def test_what_somebody_undoes_at_once_is_done_again(tmp_path: Path) -> None:
    engine = Memory()
    writer = reconciler(engine, tmp_path)
    same = Desired(dict(BOTH), {WEB: Name("web")}, parts=cut(BOTH))
    for now in range(3):
        writer.step(lambda foreign: same, deadline=30, now=now)
        assert engine.read() == BOTH
        engine.apply(diff({}, engine.read()))


def test_a_leaving_server_is_quiesced_and_goes_when_its_connections_have_ended(tmp_path: Path) -> None:
    engine = Busy()
    writer = reconciler(engine, tmp_path)
    writer.step(want(BOTH), deadline=30, now=0)
    engine.live[TWO] = 2
    step = writer.step(want(ONLY_ONE), deadline=30, now=10)
    assert step.waiting == {TWO: 2}
    assert [op.verb for op in step.done] == [Verb.QUIESCE]
    assert engine.read()[TWO] == replace(SERVER, weight=0)
    assert writer.step(want(ONLY_ONE), deadline=30, now=12).done == []
    engine.live[TWO] = 0
    assert [op.verb for op in writer.step(want(ONLY_ONE), deadline=30, now=13).done] == [Verb.REMOVE]
    assert engine.read() == ONLY_ONE


def test_an_idle_server_settles_before_it_goes(tmp_path: Path) -> None:
    engine = Busy()
    writer = reconciler(engine, tmp_path)
    writer.step(want(BOTH), deadline=30, now=0)
    assert writer.step(want(ONLY_ONE), deadline=30, now=10).waiting == {TWO: 0}
    assert not writer.step(want(ONLY_ONE), deadline=30, now=10 + SETTLE).waiting


def test_the_deadline_removes_whatever_is_left(tmp_path: Path) -> None:
    engine = Busy()
    writer = reconciler(engine, tmp_path)
    writer.step(want(BOTH), deadline=30, now=0)
    engine.live[TWO] = 1
    writer.step(want(ONLY_ONE), deadline=30, now=10)
    assert writer.step(want(ONLY_ONE), deadline=30, now=39.9).waiting
    assert not writer.step(want(ONLY_ONE), deadline=30, now=40).waiting
    assert engine.read() == ONLY_ONE


def test_deadline_zero_removes_at_once(tmp_path: Path) -> None:
    engine = Busy()
    writer = reconciler(engine, tmp_path)
    writer.step(want(BOTH), deadline=30, now=0)
    engine.live[TWO] = 9
    assert [op.verb for op in writer.step(want(ONLY_ONE), deadline=0, now=1).done] == [Verb.REMOVE]


def test_a_dead_server_leaves_at_once(tmp_path: Path) -> None:
    engine = Busy()
    writer = reconciler(engine, tmp_path)
    writer.step(want(BOTH), deadline=30, now=0)
    engine.live[TWO] = 9
    assert [op.verb for op in writer.step(want(ONLY_ONE, absent=[TWO]), deadline=30, now=1).done] == [Verb.REMOVE]


def test_another_process_finishes_an_interrupted_removal(tmp_path: Path) -> None:
    engine = Busy()
    writer = reconciler(engine, tmp_path)
    writer.step(want(BOTH), deadline=30, now=0)
    engine.live[TWO] = 1
    writer.step(want(ONLY_ONE), deadline=30, now=10)
    assert not reconciler(engine, tmp_path).step(want(ONLY_ONE), deadline=30, now=41).waiting
    assert engine.read() == ONLY_ONE


def test_a_server_that_is_wanted_again_gets_its_weight_back(tmp_path: Path) -> None:
    engine = Busy()
    writer = reconciler(engine, tmp_path)
    writer.step(want(BOTH), deadline=30, now=0)
    engine.live[TWO] = 1
    writer.step(want(ONLY_ONE), deadline=30, now=10)
    writer.step(want(BOTH), deadline=30, now=11)
    assert engine.read() == BOTH
    assert not writer.state.leaving


def test_a_leaving_service_goes_when_its_servers_may(tmp_path: Path) -> None:
    engine = Busy()
    writer = reconciler(engine, tmp_path)
    writer.step(want(BOTH), deadline=30, now=0)
    engine.live[ONE] = 1
    assert writer.step(want({}), deadline=30, now=10).waiting.keys() == {ONE, TWO}
    assert WEB in engine.read()
    engine.live[ONE] = 0
    writer.step(want({}), deadline=30, now=12)
    assert engine.read() == {FORWARD: Sysctl("1")}


def test_a_crash_in_the_middle_leaves_no_service_without_an_owner(tmp_path: Path) -> None:
    broken = Broken(TWO)
    broken.error = SystemExit("killed")
    with pytest.raises(SystemExit):
        reconciler(broken, tmp_path).step(want(BOTH), deadline=30, now=0)
    assert WEB in broken.read()
    mended = Memory(broken.read())
    reconciler(mended, tmp_path).step(want(BOTH), deadline=30, now=1)
    assert mended.read() == BOTH


def test_clear_removes_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    engine = Memory({FORWARD: Sysctl("0")})
    writer = reconciler(engine, tmp_path)
    writer.step(want(BOTH), deadline=30, now=0)
    writer.clear()
    assert engine.read() == {FORWARD: Sysctl("0")}
    assert writer.clear() == []


def test_foreign_services_survive_apply_and_clear(tmp_path: Path) -> None:
    theirs: Table = {THEIRS: SERVICE, ServerKey(THEIRS, IPv4Address("10.9.9.9"), 80): SERVER}
    engine = Memory({**theirs, FORWARD: Sysctl("0")})
    writer = reconciler(engine, tmp_path)
    writer.step(want(BOTH), deadline=30, now=0)
    writer.clear()
    assert engine.read() == {**theirs, FORWARD: Sysctl("1")}


def test_a_refused_conflict_changes_nothing(tmp_path: Path) -> None:
    engine = Memory({WEB: SERVICE})
    with pytest.raises(Conflict):
        reconciler(engine, tmp_path).step(want(BOTH), deadline=30, now=0)
    assert engine.read() == {WEB: SERVICE}
    assert not engine.written


def test_a_wildcard_on_a_port_that_somebody_listens_on_is_refused_by_name(tmp_path: Path) -> None:
    marked: Table = {MarkKey(Family.IPV4, Protocol.TCP, 22, 22): Mark(0x4B4C0001)}
    engine = Memory()
    taken = Reconciler(
        Kernel({EngineName.IPVS: engine}), Store(tmp_path / "s"), Consent(), lambda key: "sshd (process 7)"
    )
    with pytest.raises(Conflict, match="sshd"):
        taken.plan(want(marked))
    (refusal,) = taken.step(want(marked), deadline=0, now=0).refused.values()
    assert "sshd" in refusal.message
    assert not engine.written
    reconciler(engine, tmp_path, take_port=True).step(want(marked), deadline=0, now=0)
    assert engine.read() == marked


def test_an_unconfirmed_change_is_put_back(tmp_path: Path) -> None:
    engine = Memory({FORWARD: Sysctl("0")})
    writer = reconciler(engine, tmp_path)
    writer.step(want(ONLY_ONE), deadline=0, now=0)
    before, state = writer.ours(want(BOTH)), writer.state
    writer.step(want(BOTH), deadline=0, now=1)
    writer.restore(before, state)
    assert engine.read() == ONLY_ONE


def test_what_was_put_back_has_its_name_and_its_deadline_again(tmp_path: Path) -> None:
    def named(table: Table) -> Wanted:
        return lambda foreign: Desired(table, {key: Name("web", str(key)) for key in table})

    writer = reconciler(Busy(), tmp_path)
    writer.step(named(BOTH), deadline=0, now=0)
    writer.step(named(ONLY_ONE), deadline=30, now=1)
    before, state = writer.ours(named({})), writer.state
    assert (state.names.keys(), state.leaving.keys()) == (BOTH.keys(), {TWO})
    writer.step(named({}), deadline=0, now=2)
    assert TWO not in writer.state.names
    writer.restore(before, state)
    assert (writer.state.names, writer.state.leaving) == (state.names, state.leaving)


def two_services(absent: Collection[ServerKey] = (), without: Collection[Key] = ()):
    def wanted(foreign: Collection[ServiceKey]) -> Desired:
        names = {WEB: Name("web"), API: Name("api"), ONE: Name("web", "one"), TWO: Name("web", "two")}
        table = {key: value for key, value in WITH_API.items() if key not in absent and key not in without}
        return Desired(table, names, set(absent))

    return wanted


API = Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("192.0.2.2"), 80)
THREE = ServerKey(API, IPv4Address("10.0.0.3"), 80)
WITH_API: Table = {**BOTH, API: SERVICE, THREE: SERVER}


def test_a_service_that_the_kernel_refuses_holds_up_no_other(tmp_path: Path) -> None:
    broken = Broken(ONE)
    step = reconciler(broken, tmp_path).step(two_services(), deadline=30, now=0)
    assert step.refused.keys() == {"web"}
    assert {API, THREE, FORWARD} <= broken.read().keys()
    assert step.after == broken.read()
    assert {operation.key for operation in step.done} == step.after.keys()


def test_the_dead_go_even_where_their_own_service_is_refused_something(tmp_path: Path) -> None:
    broken = Broken(FORWARD, {FORWARD: Sysctl("1")})
    writer = reconciler(broken, tmp_path)
    writer.step(two_services(), deadline=30, now=0)
    broken.apply([Operation(Verb.REMOVE, ONE, SERVER, None)])
    broken.refused = ONE
    step = writer.step(two_services(absent=[TWO, THREE]), deadline=30, now=1)
    assert step.refused.keys() == {"web"}
    assert TWO not in broken.read()
    assert THREE not in broken.read()


def test_a_setting_that_cannot_be_written_keeps_no_dead_server_in(tmp_path: Path) -> None:
    broken = Broken(FORWARD, WITH_API)
    writer = reconciler(broken, tmp_path, adopt=True)
    writer.step(two_services(), deadline=30, now=0)
    Memory.apply(broken, [Operation(Verb.CHANGE, FORWARD, Sysctl("1"), Sysctl("0"))])
    step = writer.step(two_services(absent=[TWO]), deadline=30, now=1)
    assert len(step.refused) == 1
    assert broken.read() == {key: value for key, value in {**WITH_API, FORWARD: Sysctl("0")}.items() if key != TWO}


def test_what_was_refused_is_tried_again_and_nothing_else_is_written(tmp_path: Path) -> None:
    broken = Broken(ONE)
    writer = reconciler(broken, tmp_path)
    writer.step(two_services(), deadline=30, now=0)
    broken.refused = None
    step = writer.step(two_services(), deadline=30, now=1)
    assert [operation.key for operation in step.done] == [ONE, TWO] or [op.key for op in step.done] == [ONE]
    assert not step.refused
    assert broken.read() == WITH_API
    assert writer.step(two_services(), deadline=30, now=2).done == []


def test_a_step_that_follows_on_another_sees_what_others_changed_meanwhile(tmp_path: Path) -> None:
    engine = Memory()
    writer = reconciler(engine, tmp_path)
    writer.step(two_services(), deadline=30, now=0)
    for change in (
        Operation(Verb.CHANGE, ONE, SERVER, replace(SERVER, weight=9)),
        Operation(Verb.REMOVE, API, SERVICE, None),
        Operation(Verb.CHANGE, FORWARD, Sysctl("1"), Sysctl("0")),
    ):
        engine.apply([change])
        assert writer.step(two_services(), deadline=30, now=1).done
        assert engine.read() == WITH_API


def test_a_port_that_a_process_has_taken_meanwhile_holds_up_no_other_service(tmp_path: Path) -> None:
    wild = MarkKey(Family.IPV4, Protocol.TCP, 80, 80)
    engine = Memory()
    listens = ["nginx (process 7)"]
    writer = Reconciler(
        Kernel({EngineName.IPVS: engine}), Store(tmp_path / "s"), Consent(), lambda key: listens[0] if listens else None
    )

    def wanted(foreign: Collection[ServiceKey]) -> Desired:
        return Desired({**WITH_API, wild: Mark(0x4B4C0001)}, {WEB: Name("web"), API: Name("api")})

    with pytest.raises(Conflict, match="nginx"):
        writer.plan(wanted)
    step = writer.step(wanted, deadline=30, now=0)
    assert len(step.refused) == 1
    assert engine.read() == WITH_API
    listens.clear()
    assert not writer.step(wanted, deadline=30, now=1).refused
    assert engine.read() == {**WITH_API, wild: Mark(0x4B4C0001)}


def test_what_would_have_no_owner_is_not_made_where_the_intent_cannot_be_written(tmp_path: Path) -> None:
    engine, store = Memory(), Store(tmp_path / "state" / "state.json")
    writer = Reconciler(Kernel({EngineName.IPVS: engine}), store, Consent(), lambda key: None, lasting=True)
    store.path.parent.symlink_to(tmp_path / "none")
    with pytest.raises(StateError):
        writer.step(want(BOTH), deadline=0, now=0)
    assert not engine.written
    store.path.parent.unlink()
    writer.step(want(BOTH), deadline=0, now=1)
    store.path.unlink()
    store.path.parent.rmdir()
    store.path.parent.symlink_to(tmp_path / "none")
    writer.step(want({}), deadline=0, now=2)
    assert WEB not in engine.read()
    assert writer.unwritten is not None
