"""Laws of the state file."""

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernlb.desired import Name
from kernlb.keytext import key_from, key_text
from kernlb.model import Endpoint, EngineName, Protocol, ServerKey, Sysctl, SysctlKey, Timers, TimersKey
from kernlb.ownership import Ownership, Written
from kernlb.pool import Hold, Override
from kernlb.state import Life, State, StateError, Store
from tests.tables import addresses, ports, service_keys

KEYS = service_keys | st.builds(ServerKey, service_keys, addresses, ports)
WEB = Endpoint(EngineName.IPVS, Protocol.TCP, ip_address("2001:db8::1"), 80)
SERVER = ServerKey(WEB, ip_address("2001:db8::2"), 8080)


def full(life: Life) -> State:
    return State(
        life,
        Ownership(
            frozenset({WEB}),
            {
                SysctlKey("net.ipv4.ip_forward"): Written(Sysctl("0"), Sysctl("1")),
                TimersKey(): Written(Timers(900, 120, 300), Timers(50, 120, 300)),
            },
        ),
        {WEB: Name("api", bind="[2001:db8::1]:80", policy="wrr"), SERVER: Name("api", "server1")},
        {SERVER: 1234.5},
        {("api", "server1"): Override(3, Hold.DRAIN, 99.0)},
        {"api/server1": {"status": "up"}},
    )


@given(KEYS)
def test_a_key_written_is_the_key_read(key: Endpoint) -> None:
    assert key_from(key_text(key)) == key


def test_a_state_saved_is_the_state_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "state.json")
    state = full(Life.now())
    store.save(state)
    assert store.load() == state


def test_without_a_file_kernlb_owns_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "state.json").load() == State(Life.now())


@pytest.mark.parametrize("other", [Life("another boot", 1), replace(Life.now(), namespace=1)])
def test_another_boot_or_namespace_voids_ownership_but_not_what_the_operator_said(tmp_path: Path, other: Life) -> None:
    store = Store(tmp_path / "state.json")
    store.save(full(other))
    loaded = store.load()
    assert loaded.ownership == Ownership()
    assert not loaded.leaving
    assert loaded.overrides == full(other).overrides
    assert loaded.life == Life.now()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', "null", '{"schema": 1, "boot": 3}'])
def test_a_broken_file_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(StateError) as caught:
        Store(path).load()
    assert caught.value.where == str(path)
    assert path.read_text() == text


def test_a_file_that_cannot_be_opened_is_not_called_broken(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        Store(tmp_path).load()
    assert (caught.value.message, caught.value.where) == ("cannot read the state: Is a directory", str(tmp_path))
    assert "--state-dir" in (caught.value.hint or "")


def test_a_full_disk_leaves_the_old_state_readable() -> None:
    store = Store(Path("/dev/full/state.json"))
    with pytest.raises(StateError, match="cannot write"):
        store.save(State(Life.now()))


def test_nothing_half_written_is_left_beside_the_state(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.json")
    store.save(full(Life.now()))
    store.save(State(Life.now()))
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert json.loads((tmp_path / "state.json").read_text())["schema"] == 1


def test_what_changed_is_in_the_file_and_what_did_not_is_still_there(tmp_path: Path) -> None:
    store, state = Store(tmp_path / "state.json"), full(Life.now())
    store.save(state)
    for changed in (
        replace(state, health={"api/server1": {"status": "down"}}),
        replace(state, leaving={}, names={}),
        replace(state, overrides={}, ownership=Ownership()),
        state,
    ):
        store.save(changed)
        assert Store(store.path).load() == changed


def test_what_has_no_room_in_its_place_lies_aside_until_there_is_room_and_is_newer(tmp_path: Path) -> None:
    store = Store(tmp_path / "disk" / "state.json", aside=tmp_path / "run" / "state.json")
    before, after = State(Life.now()), full(Life.now())
    assert store.save(before) is None
    store.path.parent.rename(tmp_path / "away")
    store.path.parent.symlink_to(tmp_path / "none")
    unwritten = store.save(after)
    assert unwritten is not None
    assert unwritten.where == str(store.path)
    store.path.parent.unlink()
    (tmp_path / "away").rename(store.path.parent)
    assert store.load() == after
    assert store.save(after) is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == []
    assert store.load() == after


def test_one_directory_for_the_state_and_for_what_lies_aside_keeps_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.json", aside=tmp_path / "state.json")
    store.save(state := full(Life.now()))
    assert store.load() == state
