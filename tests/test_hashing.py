"""The table is balanced, depends on the servers alone, and moves no more slots than a reference Maglev."""

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernlb.hashing import NOBODY, SLOTS, Assignment, assign, flow_hash, slot_of


def servers(count: int, weight: int = 1) -> dict[str, int]:
    return {f"10.0.{n // 256}.{n % 256}:80": weight for n in range(count)}


def by_name(table: Assignment) -> np.ndarray:
    return np.array([*table.names, ""])[table.owner]


def maglev(weights: dict[str, int], slots: int) -> np.ndarray:
    """The lookup table of Eisenbud et al., NSDI 2016, section 3.4; a turn takes as many slots as the weight says."""
    names = sorted(weights)
    permutations = []
    for name in names:
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        offset = int.from_bytes(digest[:8], "little") % slots
        skip = int.from_bytes(digest[8:], "little") % (slots - 1) + 1
        permutations.append(((offset + np.arange(slots, dtype=np.int64) * skip) % slots).tolist())
    table: list[str | None] = [None] * slots
    following = [0] * len(names)
    filled = 0
    while True:
        for number, name in enumerate(names):
            for _ in range(weights[name]):
                permutation = permutations[number]
                while table[slot := permutation[following[number]]] is not None:
                    following[number] += 1
                table[slot] = name
                following[number] += 1
                filled += 1
                if filled == slots:
                    return np.array(table)


def needless(before: np.ndarray, after: np.ndarray, changed: set[str]) -> float:
    """The part of all slots that moved between two servers that did not change."""
    moved = before != after
    innocent = ~np.isin(before, list(changed)) & ~np.isin(after, list(changed))
    return np.count_nonzero(moved & innocent) / len(before)


def imbalance(table: np.ndarray, weights: dict[str, int]) -> float:
    total = sum(weights.values())
    return max(np.count_nonzero(table == name) / (len(table) * weight / total) for name, weight in weights.items())


def test_the_order_of_the_servers_does_not_matter() -> None:
    weights = {f"server{n}": n % 7 + 1 for n in range(50)}
    shuffled = list(weights.items())
    random.Random(7).shuffle(shuffled)
    assert (assign(weights).owner == assign(dict(shuffled)).owner).all()


@pytest.mark.parametrize("weights", [servers(100), {f"s{n}": n % 9 + 1 for n in range(100)}, servers(2), servers(1000)])
def test_every_server_has_its_exact_share(weights: dict[str, int]) -> None:
    table = assign(weights)
    total = sum(weights.values())
    assert len(table.owner) == SLOTS
    assert all(abs(table.share(name) - SLOTS * weight / total) < 1 for name, weight in weights.items())


def test_nobody_owns_a_slot_where_there_is_no_server() -> None:
    assert (assign({}).owner == NOBODY).all()
    assert (assign({"a": 0}).owner == NOBODY).all()


@pytest.mark.parametrize("change", ["remove", "add", "halve"])
def test_no_more_slots_move_than_in_maglev_and_balance_is_no_worse(change: str) -> None:
    before = servers(100, weight=2)
    victim = list(before)[37]
    after = dict(before)
    match change:
        case "remove":
            del after[victim]
        case "add":
            after["10.9.9.9:80"] = 2
        case "halve":
            after[victim] = 1
    changed = {victim, "10.9.9.9:80"}
    ours = by_name(assign(before)), by_name(assign(after))
    theirs = maglev(before, SLOTS), maglev(after, SLOTS)
    print(f"{change}: needless moves ours {needless(*ours, changed):.3%}, maglev {needless(*theirs, changed):.3%}")
    assert needless(*ours, changed) <= needless(*theirs, changed)
    assert np.count_nonzero(ours[0] != ours[1]) <= np.count_nonzero(theirs[0] != theirs[1])
    assert imbalance(ours[0], before) <= imbalance(theirs[0], before)
    assert imbalance(ours[1], after) <= imbalance(theirs[1], after)


weight_tables = st.dictionaries(st.sampled_from([f"s{n}" for n in range(12)]), st.integers(0, 5), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(weight_tables, min_size=2, max_size=5))
def test_a_table_does_not_remember_how_it_came_about(history: list[dict[str, int]]) -> None:
    table = None
    for weights in history:
        table = assign(weights, slots=1021, previous=table)
    fresh = assign(history[-1], slots=1021)
    assert table is not None
    assert table.names == fresh.names
    assert (table.owner == fresh.owner).all()


def test_flows_spread_evenly_over_the_slots() -> None:
    counts = np.zeros(64)
    for port in range(1024, 9216):
        counts[slot_of(flow_hash(b"\xc0\xa8\x01\x01", b"\x0a\xc8\x01\x01", port, 80, 6), 64)] += 1
    assert counts.max() < 1.4 * counts.mean()
    assert counts.min() > 0.6 * counts.mean()


def test_a_client_keeps_its_slot_where_only_its_address_counts() -> None:
    client, vip = b"\xc0\xa8\x01\x01", b"\x0a\xc8\x01\x01"
    hashes = {flow_hash(client, vip, port, 80, 6, source_only=True) for port in range(1, 100)}
    assert len(hashes) == 1
