"""Which server each slot of a service belongs to: the same on every gateway, from the servers alone, in any order.

Every slot ranks the servers by a weighted rendezvous hash (Thaler and Ravishankar 1998; weights as in Schindelhauer and
Schomaker 2005): adding a server takes slots only for it, removing one gives away only its own. Then each server is held
to its exact share: the few slots over it go to the servers under it, best score first. So balance is exact, as Maglev's
(Eisenbud et al. 2016) nearly is, and a change moves few slots beyond those it has to.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLOTS = 65_537
NOBODY = -1

# A winner's score is hardly ever (e^-14) beyond this many times the expected best one: scores past it are not computed.
_PLAUSIBLE = 14.0

# From so many servers of one weight on, comparing all their numbers costs less than the scores of a few.
_MANY = 4

_MIX_1 = 0x9E3779B97F4A7C15
_MIX_2 = 0xD6E8FEB86659FD93
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Assignment:
    """A table, and what a later change needs. `names` sorted; `owner` indexes them by slot, NOBODY without servers."""

    names: tuple[str, ...]
    weights: tuple[int, ...]
    owner: NDArray[np.int32]
    favourite: NDArray[np.int32]
    score: NDArray[np.float64]

    def share(self, name: str) -> int:
        """How many slots a server has."""
        return int(np.count_nonzero(self.owner == self.names.index(name)))


def assign(weights: Mapping[str, int], *, slots: int = SLOTS, previous: Assignment | None = None) -> Assignment:
    """The table of servers by name and weight (0: none). `previous` only saves time: the result is the same."""
    names = tuple(sorted(name for name, weight in weights.items() if weight > 0))
    values = tuple(weights[name] for name in names)
    if previous is not None and (previous.names, previous.weights, len(previous.owner)) == (names, values, slots):
        return previous
    favourite, score = _favourites(names, values, slots, previous)
    return Assignment(names, values, _hold_to_shares(names, values, favourite, score), favourite, score)


def flow_hash(
    source: bytes,
    destination: bytes,
    source_port: int,
    destination_port: int,
    protocol: int,
    *,
    source_only: bool = False,
) -> int:
    """The program's 64-bit hash of a flow (bpf/hash.h), as of little-endian gateways; addresses of 4 or 16 bytes."""
    ports = _word(destination_port.to_bytes(2, "big")) << 16 | _word(source_port.to_bytes(2, "big"))
    if len(source) == 4:
        if source_only:
            return _mix(_word(source))
        return _mix((_word(source) << 32 | ports) + (protocol << 32 | _word(destination)) * _MIX_2 & _MASK)
    (a, b), (c, d) = (_halves(address) for address in (source, destination))
    x = (a ^ _MIX_2) * _MIX_1 & _MASK
    x = ((x ^ x >> 32) + b) * _MIX_2 & _MASK
    if source_only:
        return _mix(x)
    x = ((x ^ x >> 29) + c) * _MIX_1 & _MASK
    x = ((x ^ x >> 32) + d) * _MIX_2 & _MASK
    return _mix((x ^ x >> 29) + (protocol << 32 | ports) & _MASK)


def slot_of(hash_: int, slots: int = SLOTS) -> int:
    """The slot that a flow's hash falls into."""
    return (hash_ >> 32) * slots >> 32


def _word(packed: bytes) -> int:
    return int.from_bytes(packed, "little")


def _halves(address: bytes) -> tuple[int, int]:
    first, second, third, fourth = (_word(address[at : at + 4]) for at in range(0, 16, 4))
    return first << 32 | second, third << 32 | fourth


def _mix(x: int) -> int:
    x ^= x >> 32
    x = x * _MIX_1 & _MASK
    x ^= x >> 29
    x = x * _MIX_2 & _MASK
    return x ^ x >> 32


def _seed(name: str) -> tuple[np.uint32, np.uint32]:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.uint32(int.from_bytes(digest[:4], "little")), np.uint32(int.from_bytes(digest[4:], "little") | 1)


def _spread(slots: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Slots that lie side by side made unlike each other: half of the hash, and the same for all servers."""
    x = slots * np.uint32(0x9E3779B1)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x85EBCA77)
    x ^= x >> np.uint32(13)
    return x


def _numbers(
    spread: NDArray[np.uint32],
    name: str,
    into: NDArray[np.uint32] | None = None,
    spare: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint32]:
    """A number for each slot, as if drawn by the server at random. `into` and `spare` save the memory's being new: that
    costs several times as much as the numbers."""
    add, multiply = _seed(name)
    x = np.add(spread, add, out=into)
    x *= multiply
    x ^= np.right_shift(x, np.uint32(16), out=spare)
    x *= np.uint32(0xC2B2AE3D)
    return x


def _scores(numbers: NDArray[np.uint32], weight: int) -> NDArray[np.float64]:
    """Less is better: exponentially distributed with the weight as rate."""
    scores: NDArray[np.float64] = np.log((numbers + 0.5) * 2.0**-32) * (-1.0 / weight)
    return scores


def _favourites(
    names: tuple[str, ...], weights: tuple[int, ...], slots: int, previous: Assignment | None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    favourite = np.full(slots, NOBODY, dtype=np.int32)
    score = np.full(slots, np.inf)
    if not names:
        return favourite, score
    everything = _spread(np.arange(slots, dtype=np.uint32))
    wanted = dict(zip(names, weights, strict=True))
    offering = set(names)
    if previous is not None and previous.names and len(previous.owner) == slots:
        had = dict(zip(previous.names, previous.weights, strict=True))
        kept = {name for name, weight in had.items() if wanted.get(name) == weight}
        if len(kept) * 2 > len(names):
            number = {name: index for index, name in enumerate(names)}
            place = np.array([number[name] if name in kept else NOBODY for name in previous.names], dtype=np.int32)
            favourite = place[previous.favourite]
            score = np.where(favourite == NOBODY, np.inf, previous.score)
            offering -= kept
    # What a server left behind is for all the others, not only for those that are new.
    left = favourite == NOBODY if len(offering) < len(names) else np.zeros(slots, dtype=np.bool_)
    alike: dict[int, list[int]] = {}
    for index, weight in enumerate(weights):
        if names[index] in offering:
            alike.setdefault(weight, []).append(index)
    total = sum(weights)
    for weight, members in alike.items():
        if len(members) >= _MANY:
            _offer_together(favourite, score, everything, names, weight, members)
        else:
            for index in members:
                _offer(favourite, score, everything, names[index], weight, index, total)
    (empty,) = np.nonzero(left | (favourite == NOBODY))
    if len(empty):
        choices = _matrix(empty.astype(np.uint32), names, weights)
        favourite[empty] = np.argmin(choices, axis=0)
        score[empty] = np.min(choices, axis=0)
    return favourite, score


def _offer(
    favourite: NDArray[np.int32],
    score: NDArray[np.float64],
    everything: NDArray[np.uint32],
    name: str,
    weight: int,
    index: int,
    total: int,
) -> None:
    numbers = _numbers(everything, name)
    least = np.uint32(np.exp(-_PLAUSIBLE * weight / total) * 2.0**32)
    (plausible,) = np.nonzero(numbers >= least)
    _take(favourite, score, plausible, _scores(numbers[plausible], weight), np.int32(index))


def _offer_together(
    favourite: NDArray[np.int32],
    score: NDArray[np.float64],
    everything: NDArray[np.uint32],
    names: tuple[str, ...],
    weight: int,
    members: list[int],
) -> None:
    """Among servers of one weight the number itself decides: one score a slot is computed, not one a server."""
    best = _numbers(everything, names[members[0]])
    who = np.full(len(best), members[0], dtype=np.int32)
    numbers, spare, more = np.empty_like(best), np.empty_like(best), np.empty(len(best), dtype=np.bool_)
    for index in members[1:]:
        _numbers(everything, names[index], numbers, spare)
        # Fewer and fewer: the k-th server wins one slot of k.
        better = np.flatnonzero(np.greater(numbers, best, out=more))
        best[better] = numbers[better]
        who[better] = index
    _take(favourite, score, np.arange(len(best)), _scores(best, weight), who)


def _take(
    favourite: NDArray[np.int32],
    score: NDArray[np.float64],
    slots: NDArray[np.intp],
    offered: NDArray[np.float64],
    who: NDArray[np.int32] | np.int32,
) -> None:
    """Less is better; where two scores are the same, the earlier name, whoever asked first."""
    known = score[slots]
    better = (offered < known) | ((offered == known) & (who < favourite[slots]))
    taken = slots[better]
    favourite[taken] = who if isinstance(who, np.int32) else who[better]
    score[taken] = offered[better]


def _matrix(slots: NDArray[np.uint32], names: tuple[str, ...], weights: tuple[int, ...]) -> NDArray[np.float64]:
    """Scores by server and slot."""
    spread = _spread(slots)
    return np.stack([_scores(_numbers(spread, name), weight) for name, weight in zip(names, weights, strict=True)])


def _shares(names: tuple[str, ...], weights: tuple[int, ...], slots: int) -> NDArray[np.int64]:
    """Exact shares by largest remainder, ties to the earlier name."""
    total = sum(weights)
    shares = [weight * slots // total for weight in weights]
    remainders = sorted(range(len(names)), key=lambda index: (-(weights[index] * slots % total), index))
    for index in remainders[: slots - sum(shares)]:
        shares[index] += 1
    return np.array(shares, dtype=np.int64)


def _hold_to_shares(
    names: tuple[str, ...], weights: tuple[int, ...], favourite: NDArray[np.int32], score: NDArray[np.float64]
) -> NDArray[np.int32]:
    if not names:
        return favourite.copy()
    owner = favourite.copy()
    shares = _shares(names, weights, len(owner))
    counts = np.bincount(owner, minlength=len(names))
    by_owner = np.argsort(owner.astype(np.uint16 if len(names) <= 0xFFFF else np.int32), kind="stable")
    ends = np.cumsum(counts)
    # Past its share a server gives away the slots it wanted least.
    given = [
        held[np.argpartition(score[held], shares[index])[shares[index] :]]
        for index in np.nonzero(counts > shares)[0]
        for held in (by_owner[ends[index] - counts[index] : ends[index]],)
    ]
    (open_,) = np.nonzero(counts < shares)
    if not given:
        return owner
    loose = np.concatenate(given)
    room = (shares - counts)[open_]
    chosen_names = tuple(names[index] for index in open_)
    chosen_weights = tuple(weights[index] for index in open_)
    offers = _matrix(loose.astype(np.uint32), chosen_names, chosen_weights)
    owner[loose] = open_[_fill(offers, room)]
    return owner


def _fill(offers: NDArray[np.float64], room: NDArray[np.int64]) -> NDArray[np.intp]:
    """For each slot (column) a server (row) with room left, best offers first."""
    servers, slots = offers.shape
    chosen = np.full(slots, NOBODY, dtype=np.intp)
    room = room.copy()
    left = np.arange(slots)
    while len(left):
        within = np.where(room[:, None] > 0, offers[:, left], np.inf)
        best = np.argmin(within, axis=0)
        value = within[best, np.arange(len(left))]
        order = np.lexsort((left, value, best))
        sorted_best = best[order]
        counts = np.bincount(sorted_best, minlength=servers)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        accepted = order[rank < room[sorted_best]]
        chosen[left[accepted]] = best[accepted]
        room -= np.bincount(best[accepted], minlength=servers)
        left = left[chosen[left] == NOBODY]
    return chosen
