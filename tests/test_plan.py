"""Laws of the plan."""

from ipaddress import ip_address

from hypothesis import given

from kernlb.engines.memory import Memory
from kernlb.model import Protocol, ServerKey, SourceKey, SourceNat, Table
from kernlb.plan import Operation, Verb, diff, leaving, play, quiesce
from kernlb.ports import PortRange
from kernlb.text import operation
from tests.tables import tables


@given(tables(), tables())
def test_a_plan_turns_the_observed_table_into_the_desired_one(desired: Table, observed: Table) -> None:
    assert play(diff(desired, observed), observed) == desired


@given(tables())
def test_a_diff_with_itself_is_empty(table: Table) -> None:
    assert diff(table, table) == []


@given(tables(), tables())
def test_removing_a_service_drops_its_servers_without_naming_them(desired: Table, observed: Table) -> None:
    operations = diff(desired, observed)
    removed = {o.key for o in operations if o.verb is Verb.REMOVE}
    assert not any(isinstance(key, ServerKey) and key.service in removed for key in removed)


@given(tables(), tables())
def test_everything_is_added_and_reweighted_before_anything_is_removed(desired: Table, observed: Table) -> None:
    removing = [o.verb is Verb.REMOVE for o in diff(desired, observed)]
    assert removing == sorted(removing)


@given(tables(), tables())
def test_a_plan_touches_only_what_differs(desired: Table, observed: Table) -> None:
    touched = [o.key for o in diff(desired, observed)]
    assert len(touched) == len(set(touched))
    assert all(desired.get(key) != observed.get(key) for key in touched)


@given(tables(), tables())
def test_every_step_of_a_plan_is_acceptable_to_a_kernel(desired: Table, observed: Table) -> None:
    engine = Memory(observed)
    engine.apply(diff(desired, observed))
    assert engine.read() == desired


@given(tables(), tables())
def test_quiescing_first_changes_weights_alone_and_the_plan_still_arrives(desired: Table, observed: Table) -> None:
    operations = diff(desired, observed)
    quiesced = quiesce(leaving(operations, observed), observed)
    assert {o.key for o in quiesced} <= {key for key in observed if isinstance(key, ServerKey)}
    calm = play(quiesced, observed)
    assert play(diff(desired, calm), calm) == desired


@given(tables(), tables())
def test_every_operation_has_a_line_of_its_own(desired: Table, observed: Table) -> None:
    lines = [operation(o, {}) for o in diff(desired, observed)]
    assert len(lines) == len(set(lines))
    assert all(line[0] in "+~-" and "\n" not in line for line in lines)


def test_the_line_of_source_nat_says_its_addresses_and_ports_as_they_were_and_will_be() -> None:
    key = SourceKey(7, ip_address("10.0.0.1"), Protocol.TCP, 80)
    ports = PortRange(1024, 2047)
    values = [SourceNat(), SourceNat(ports=ports), SourceNat((ip_address("10.0.0.9"),), ports)]
    said = [
        "from the route's own address",
        "from the route's own address, ports 1024-2047",
        "sources 10.0.0.9 ports 1024-2047",
    ]
    for value, text in zip(values, said, strict=True):
        assert operation(Operation(Verb.ADD, key, None, value), {}).endswith(f" {text}")
    for number in (0, 1):
        line = operation(Operation(Verb.CHANGE, key, values[number], values[number + 1]), {})
        assert line.endswith(f" {said[number]} -> {said[number + 1]}")


@given(tables(), tables())
def test_leaving_servers_are_those_that_the_plan_takes_away(desired: Table, observed: Table) -> None:
    expected = {key for key in observed if isinstance(key, ServerKey) and key not in desired}
    assert set(leaving(diff(desired, observed), observed)) == expected
