"""Laws of ownership: what is kernlb's to change, and what is not."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernlb.errors import Conflict
from kernlb.model import (
    Endpoint,
    EngineName,
    Fwmark,
    Protocol,
    Scheduler,
    ServerKey,
    Sysctl,
    SysctlKey,
    Table,
    Timers,
    TimersKey,
    Vip,
    VipKey,
    VirtualService,
    service_of,
)
from kernlb.ownership import Claimed, Ownership, Written, foreign_services, ours, restoration, without_shared_wishes
from kernlb.plan import diff, play
from tests.tables import tables

WEB = Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("192.0.2.1"), 80)
SOMEBODYS = Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("192.0.2.9"), 80)
PLAIN = VirtualService(Scheduler.RR)
FORWARD = SysctlKey("net.ipv4.ip_forward")


@given(tables(), tables(), st.data())
def test_no_operation_touches_a_foreign_service(desired: Table, observed: Table, data: st.DataObject) -> None:
    candidates = sorted((k for k in observed if isinstance(k, Endpoint | Fwmark)), key=str)
    mine = frozenset(data.draw(st.lists(st.sampled_from(candidates), unique=True))) if candidates else frozenset()
    owned = Ownership(mine)
    foreign = set(foreign_services(observed, owned))
    desired = {key: value for key, value in desired.items() if service_of(key) not in foreign}
    operations = diff(desired, ours(desired, observed, owned, adopt=False))
    assert not any(service_of(operation.key) in foreign for operation in operations)
    after = play(operations, observed)
    assert all(after[key] == observed[key] for key in observed if service_of(key) in foreign)


def test_a_service_that_somebody_else_made_is_a_conflict_unless_adopted() -> None:
    with pytest.raises(Conflict, match=r"192\.0\.2\.1:80"):
        ours({WEB: PLAIN}, {WEB: PLAIN}, Ownership(), adopt=False)
    assert ours({WEB: PLAIN}, {WEB: PLAIN}, Ownership(), adopt=True) == {WEB: PLAIN}


@given(tables(), tables())
def test_what_is_applied_is_owned_before_the_kernel_is_touched(desired: Table, observed: Table) -> None:
    owned = Ownership().after(desired, observed)
    wanted = {k for k in desired if isinstance(k, Claimed)}
    assert wanted - owned.claimed <= {k for k in observed if isinstance(k, VipKey)}


def test_an_address_that_was_there_before_is_never_removed() -> None:
    vip = VipKey("eth0", IPv4Address("192.0.2.1"))
    owned = Ownership().after({vip: Vip(32)}, {vip: Vip(32)})
    assert diff({}, ours({}, {vip: Vip(32)}, owned, adopt=False)) == []


def test_the_first_value_of_a_setting_is_the_one_put_back() -> None:
    owned = Ownership().after({FORWARD: Sysctl("1")}, {FORWARD: Sysctl("0")})
    owned = owned.after({FORWARD: Sysctl("2")}, {FORWARD: Sysctl("1")})
    assert restoration({FORWARD: Sysctl("2")}, owned) == {FORWARD: Sysctl("0")}


def test_a_setting_that_somebody_changed_since_is_left_alone() -> None:
    owned = Ownership(shared={FORWARD: Written(Sysctl("0"), Sysctl("1"))})
    assert restoration({FORWARD: Sysctl("2")}, owned) == {}


def test_no_setting_is_put_back_under_a_foreign_service() -> None:
    owned = Ownership(shared={FORWARD: Written(Sysctl("0"), Sysctl("1"))})
    assert restoration({FORWARD: Sysctl("1"), SOMEBODYS: PLAIN}, owned) == {}


def test_a_setting_already_right_is_not_remembered_as_ours() -> None:
    assert Ownership().after({FORWARD: Sysctl("1")}, {FORWARD: Sysctl("1")}).shared == {}


def test_timers_are_only_a_wish_while_foreign_services_share_them() -> None:
    desired: Table = {TimersKey(): Timers(50, 120, 300), WEB: PLAIN}
    kept, left_out = without_shared_wishes(desired, {SOMEBODYS: PLAIN}, Ownership())
    assert (kept, left_out) == ({WEB: PLAIN}, [TimersKey()])
    assert without_shared_wishes(desired, {}, Ownership()) == (desired, [])


def test_servers_of_a_foreign_service_are_foreign() -> None:
    server = ServerKey(SOMEBODYS, IPv4Address("10.0.0.1"), 80)
    observed: Table = {SOMEBODYS: PLAIN, server: PLAIN}
    assert ours({}, observed, Ownership(), adopt=False) == {}
