"""Served and not engaged: impressions that are negatives, as all that could follow them has had its time."""

import numpy as np
from numpy.typing import NDArray

from convcg.data.log import Log
from convcg.data.pairs import first_of, joined, ragged
from convcg.data.text_hash import NO_HASH, mixed
from convcg.types import ACTION_CODE, Action

Ints = NDArray[np.int64]

_TIME_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_PIN_FACTOR = np.uint64(0xC2B2AE3D27D4EB4F)


def draw(time: Ints, pin: NDArray[np.integer]) -> NDArray[np.uint64]:
    """A number in [0, 2^64) for each (time in microseconds, pin row): like chance, and the same anywhere."""
    return mixed(time.astype(np.uint64) * _TIME_FACTOR + pin.astype(np.uint64) * _PIN_FACTOR)


def not_engaged(log: Log, *, until: int, maturity: int) -> tuple[Ints, int]:
    """Positions of the impressions that are negatives as of `until`, and how many impressions were too young to tell.

    An impression is one once it is `maturity` microseconds old, if the person neither engaged with its pin or another
    of its advertiser nor bought one within that time, before it or after.
    """
    shown = np.flatnonzero(log.action == ACTION_CODE[Action.IMPRESSION])
    mature = shown[log.time[shown] + maturity <= until]
    acted = np.flatnonzero(log.action != ACTION_CODE[Action.IMPRESSION])
    clean = ~_acted_on(log, mature, acted, log.pin, maturity)
    of_advertiser = acted[log.advertiser[acted] >= 0]
    clean &= ~(_acted_on(log, mature, of_advertiser, log.advertiser, maturity) & (log.advertiser[mature] >= 0))
    return mature[clean], len(shown) - len(mature)


def _acted_on(log: Log, shown: Ints, acted: Ints, group: NDArray[np.int32], maturity: int) -> NDArray[np.bool_]:
    """Whether an action of the same person and group lies within `maturity` of each impression, on either side."""
    if len(shown) == 0 or len(acted) == 0:
        return np.zeros(len(shown), bool)
    span = int(group.max()) + 2
    keys = np.unique(joined(log.user[acted], group[acted], span))
    wanted = joined(log.user[shown], group[shown], span)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    candidate = np.flatnonzero(keys[place] == wanted)  # few: most impressions are of what a person never touched
    result = np.zeros(len(shown), bool)
    if len(candidate) == 0:
        return result
    # Groups are put far apart in time, so that one search serves them all.
    group_of = np.searchsorted(keys, joined(log.user[acted], group[acted], span))
    time = log.time - min(log.time[acted].min(), log.time[shown].min())
    stride = int(time.max()) + 2 * maturity + 2
    if stride * len(keys) >= np.iinfo(np.int64).max:
        raise OverflowError(f"{len(keys)} groups of {stride} microseconds do not fit; use more partitions")
    moments = np.sort(group_of * stride + maturity + time[acted])
    at = place[candidate] * stride + maturity + time[shown[candidate]]
    first = np.searchsorted(moments, at - maturity, side="left")
    result[candidate] = np.searchsorted(moments, at + maturity, side="right") > first
    return result


def negatives_of_requests(
    log: Log, served: Ints, queries: Ints, targets: tuple[Ints, NDArray[np.int32]], *, most: int
) -> tuple[Ints, NDArray[np.int32]]:
    """Up to `most` distinct pins that were served in the same request as each query event and not engaged.

    `queries`: [Q] distinct positions of query events. `targets`: parallel (index into `queries`, pin); left out.
    Returns parallel (index into `queries`, ascending; pin), in the order of `draw`.
    """
    no_pairs = np.zeros(0, np.int64), np.zeros(0, np.int32)
    asked = np.flatnonzero(log.request[queries] != NO_HASH)
    if most == 0 or len(asked) == 0 or len(served) == 0:
        return no_pairs
    served = served[log.request[served] != NO_HASH]
    served = served[first_of(log.user[served], log.request[served], log.pin[served])]
    served = served[np.lexsort((served, log.request[served], log.user[served]))]
    user, request = log.user[served], log.request[served]
    first, after = _equal_range(user, request, log.user[queries[asked]], log.request[queries[asked]])
    row, place = ragged(first, after - first)
    query, pin = asked[row], log.pin[served[place]]
    span = int(log.pin.max()) + 1
    own = np.isin(joined(query, pin, span), joined(targets[0], targets[1], span))
    query, pin = query[~own], pin[~own]
    order = np.lexsort((draw(log.time[queries[query]], pin), query))
    query, pin = query[order], pin[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query, side="left")
    return query[rank < most], pin[rank < most]


def _equal_range(user: Ints, request: Ints, want_user: Ints, want_request: Ints) -> tuple[Ints, Ints]:
    """Start and end of the entries, sorted by (user, request), that equal each wanted pair."""
    both = np.r_[user, want_user], np.r_[request, want_request]
    order = np.lexsort((both[1], both[0]))
    new = np.ones(len(order), bool)
    new[1:] = (both[0][order][1:] != both[0][order][:-1]) | (both[1][order][1:] != both[1][order][:-1])
    code = np.empty(len(order), np.int64)
    code[order] = np.cumsum(new)
    entries, wanted = code[: len(user)], code[len(user) :]
    return np.searchsorted(entries, wanted, side="left"), np.searchsorted(entries, wanted, side="right")
