"""Counters are carried across the removal of what they count."""

import json
from collections.abc import Sequence
from ipaddress import IPv4Address

from kernlb import record
from kernlb.counters import Counters
from kernlb.model import Endpoint, EngineName, Key, Protocol, ServerKey
from kernlb.totals import Known, Totals

KEY = ServerKey(Endpoint(EngineName.IPVS, Protocol.TCP, IPv4Address("192.0.2.1"), 80), IPv4Address("10.0.0.1"), 80)


def counted(connections: int, active: int = 0) -> dict:
    return {KEY: Counters(connections=connections, bytes_in=connections * 10, active_connections=active)}


def observe(totals: Totals, reading: dict, *, keys: Sequence[Key] = (KEY,)) -> None:
    for _ in totals.observed(reading, keys):
        pass


def connections(*readings: dict) -> list[int | None]:
    totals = Totals()
    found = []
    for reading in readings:
        observe(totals, reading)
        found.append(totals.of(KEY).connections)
    return found


def test_totals_never_go_back() -> None:
    assert connections(counted(5), counted(9), {}, counted(2), counted(3), {}, {}) == [5, 9, 9, 11, 12, 12, 12]


def test_a_server_that_returns_with_its_counters_is_not_counted_twice() -> None:
    # The kernel keeps a removed server with live connections in its trash, statistics and all.
    assert connections(counted(5), {}, counted(7)) == [5, 5, 7]


def test_live_connections_are_those_of_now() -> None:
    totals = Totals()
    observe(totals, counted(5, active=3))
    assert totals.of(KEY).active_connections == 3
    observe(totals, {})
    assert totals.of(KEY).active_connections == 0
    observe(totals, counted(1, active=1))
    assert totals.of(KEY) == Counters(connections=6, bytes_in=60, active_connections=1)


def test_what_is_unknown_stays_unknown_and_what_was_never_seen_is() -> None:
    totals = Totals()
    assert totals.of(KEY) == Counters()
    observe(totals, counted(5))
    assert totals.of(KEY).packets_out is None
    observe(totals, {}, keys=())
    assert totals.of(KEY) == Counters()


def test_a_restart_loses_nothing_of_what_was_counted_before() -> None:
    for before, after, whole in ((counted(5), counted(7), 7), (counted(5), counted(2), 7), ({}, counted(2), 2)):
        totals = Totals()
        observe(totals, counted(4))
        observe(totals, counted(1))
        observe(totals, before)
        written = json.loads(json.dumps(record.written({}, {}, totals.known)))
        again = Totals(record.known(written))
        observe(again, after)
        assert again.of(KEY).connections == 4 + whole
    assert record.known({"carried": {"nonsense": [1], "": 7}, "counted": 3}) == Known({}, {})
