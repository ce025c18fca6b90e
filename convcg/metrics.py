"""Retrieval metrics over the whole catalogue, exact, with ties counted against us; and what tells them from chance.

The rank of a target is the number of candidates that score at least as high, itself included: a model that gives every
pin the same score has recall 0, not 1.

Shape suffixes: B queries, N catalogue, n length of a list.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Scores = NDArray[np.float32]

#: The rank of a target that was not retrieved at all.
NOT_RETRIEVED = np.iinfo(np.int64).max
#: Draws of the bootstrap held in memory at once, in numbers drawn.
_DRAWN_AT_ONCE = 1 << 24


def left_out(score_BN: NDArray[np.floating], excluded: Sequence[NDArray[np.integer]]) -> Scores:
    """A float32 copy of the scores in which the rows `excluded[b]` of query b are -inf."""
    score_BN = np.array(score_BN, dtype=np.float32)
    query = np.repeat(np.arange(len(excluded)), [len(rows) for rows in excluded])
    if len(query):
        score_BN[query, np.concatenate(excluded)] = -np.inf
    return score_BN


def rank_of_target(score_BN: Scores, target_B: NDArray[np.integer]) -> Ints:
    """[B] int64 ranks from the scores of the whole catalogue. A target of no finite score is `NOT_RETRIEVED`."""
    target_score = score_BN[np.arange(len(target_B)), target_B]
    # "not below" rather than "at least": NaN anywhere counts against us, too.
    rank: Ints = score_BN.shape[1] - np.count_nonzero(score_BN < target_score[:, None], axis=1).astype(np.int64)
    rank[~np.isfinite(target_score)] = NOT_RETRIEVED
    return rank


def rank_among_all(
    score_BN: NDArray[np.floating], target_B: NDArray[np.integer], excluded: Sequence[NDArray[np.integer]]
) -> Ints:
    """[B] int64 ranks from the scores of the whole catalogue. `excluded[b]` are rows left out for query b.

    An excluded or non-finite target is `NOT_RETRIEVED`.
    """
    return rank_of_target(left_out(score_BN, excluded), target_B)


def rank_in_lists(
    score_Bn: Scores,
    row_Bn: NDArray[np.integer],
    target_B: NDArray[np.integer],
    counted_N: NDArray[np.bool_] | None = None,
) -> Ints:
    """[B] int64 ranks of targets in retrieved lists, best first; a list that ends early is filled up with row -1.

    Exact for every rank below the list's length. A target tied with the last entry is `NOT_RETRIEVED`, because the tie
    may go on. With `counted_N` the rank is among those pins alone, and a target that is none of them `NOT_RETRIEVED`.
    """
    if row_Bn.shape[1] == 0:
        return np.full(len(target_B), NOT_RETRIEVED, np.int64)
    query, present_Bn = np.arange(len(target_B)), row_Bn >= 0
    is_target = row_Bn == target_B[:, None]
    target_score = score_Bn[query, is_target.argmax(1)]
    last = score_Bn[query, np.maximum(present_Bn.sum(1) - 1, 0)]
    tied = ((score_Bn == target_score[:, None]) & present_Bn).sum(1) > 1
    found = is_target.any(1) & np.isfinite(target_score) & ~((target_score == last) & tied)
    ahead = present_Bn & ~(score_Bn < target_score[:, None])
    if counted_N is not None:
        found &= counted_N[target_B]
        ahead &= counted_N[row_Bn]
    return np.where(found, ahead.sum(1).astype(np.int64), NOT_RETRIEVED)


def recall_at(rank: Ints, k: int) -> float:
    """The share of queries whose target has rank <= k; 0 for no queries."""
    return float((rank <= k).mean()) if len(rank) else 0.0


def reciprocal_rank(rank: Ints, cut: int) -> float:
    """MRR@cut: the mean of 1 / rank, where a rank beyond `cut` counts 0; 0 for no queries."""
    return float(np.where(rank <= cut, 1 / rank, 0.0).mean()) if len(rank) else 0.0


def hit_rate(rank: Ints, user: ArrayLike, k: int) -> float:
    """The share of users with at least one query whose target has rank <= k; 0 for no queries."""
    if len(rank) == 0:
        return 0.0
    _, number = np.unique(np.asarray(user), return_inverse=True)
    return float((np.bincount(number, rank <= k) > 0).mean())


def recall_of_users(rank: Ints, user: ArrayLike, target: NDArray[np.integer], k: int) -> float:
    """The mean over users of: distinct targets with rank <= k, out of the k that could be, or all where they are fewer.

    A target that a user has more than one query for counts once, by its best rank. 0 for no queries.
    """
    if len(rank) == 0:
        return 0.0
    _, number = np.unique(np.asarray(user), return_inverse=True)
    order = np.lexsort((rank, target, number))
    first = np.ones(len(order), bool)  # of a user and target: the best rank
    first[1:] = (np.diff(number[order]) != 0) | (np.diff(np.asarray(target, np.int64)[order]) != 0)
    owner, best = number[order][first], rank[order][first]
    return float((np.bincount(owner, best <= k) / np.minimum(np.bincount(owner), k)).mean())


class ListCounts:
    """How often each pin stands in the top k of somebody's list, for several k.

    A pin stands in the top k where its own rank is at most k, ties against it: a list of equal scores has no top.
    """

    def __init__(self, num_pins: int, ks: Sequence[int]) -> None:
        self._counts: dict[int, Ints] = {k: np.zeros(num_pins, np.int64) for k in ks}

    def add_scores(self, score_BN: Scores) -> None:
        """Count the lists that follow from scores of the whole catalogue; -inf is left out."""
        deepest = min(max(self._counts) + 1, score_BN.shape[1])
        row_Bn = np.argpartition(-score_BN, deepest - 1, axis=1)[:, :deepest]
        score_Bn = np.take_along_axis(score_BN, row_Bn, axis=1)
        order = np.argsort(-score_Bn, axis=1)
        self.add(np.take_along_axis(score_Bn, order, axis=1), np.take_along_axis(row_Bn, order, axis=1))

    def add(self, score_Bn: Scores, row_Bn: NDArray[np.integer]) -> None:
        """Count lists, best first, one longer than the largest k or complete; filled up with row -1."""
        there = (row_Bn >= 0) & np.isfinite(score_Bn)
        for k, counts in self._counts.items():
            inside = there
            if score_Bn.shape[1] > k:
                cut = np.where(there[:, k], score_Bn[:, k], -np.inf)
                inside = there & (score_Bn > cut[:, None])
            counts += np.bincount(row_Bn[inside], minlength=len(counts))

    def coverage(self, k: int) -> float:
        """The share of the catalogue that stands in at least one top k."""
        return float((self._counts[k] > 0).mean())

    def advertiser_entropy(self, k: int, advertiser_N: NDArray[np.integer]) -> float:
        """The entropy of the advertisers in all top k, as a share of its maximum: 1 where each has as many places.

        `advertiser_N`: each pin's advertiser, numbered from 0 without gaps; -1 for none, whose places do not count.
        """
        known = advertiser_N >= 0
        places = np.bincount(advertiser_N[known], weights=self._counts[k][known])
        share = places[places > 0] / max(places.sum(), 1)
        return float((share * np.log(1 / share)).sum() / np.log(len(places))) if len(places) > 1 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much larger one recall is than another, with the middle 95 % of the bootstrap, and its two-sided p value."""

    mean: float
    low: float
    high: float
    p_value: float


def paired_difference(
    hit: NDArray[np.floating], other: NDArray[np.floating], user: ArrayLike, *, draws: int = 10_000, seed: int = 0
) -> Difference:
    """The recall of `hit` minus that of `other`, both [B] hits (or shares of seeds that hit) of the same queries.

    The interval is the percentile bootstrap over users, whose queries stay together (Efron & Tibshirani, 1993, ch. 13).
    The p value is the one at which that interval begins to touch 0: twice the smaller share of draws on one side of 0,
    one draw added to either count (Davison & Hinkley, 1997, eq. 4.11).
    """
    _, number = np.unique(np.asarray(user), return_inverse=True)
    gain = np.bincount(number, np.asarray(hit, np.float64) - np.asarray(other, np.float64))
    size = np.bincount(number).astype(np.float64)
    # Users of equal gain and size are exchangeable: how many of each kind are drawn is one multinomial number.
    kinds, count = np.unique(np.stack([gain, size]), axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // len(count))
    drawn = np.empty(draws)
    for start in range(0, draws, at_once):
        times = rng.multinomial(len(size), count / len(size), size=min(at_once, draws - start))
        sums = times @ kinds.T
        drawn[start : start + len(times)] = sums[:, 0] / sums[:, 1]
    low, high = np.quantile(drawn, (0.025, 0.975))
    one_side = 1 + min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Difference(
        mean=float(gain.sum() / size.sum()),
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2 * float(one_side) / (draws + 1)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of several tests, corrected for their number, in the order given.

    Holm's step-down procedure: the i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_(j)) (Holm, 1979,
    Scand. J. Statist. 6:65-70; the adjusted form: Wright, 1992, Biometrics 48:1005-1013). Rejecting what is at most
    alpha keeps the chance of any false rejection at alpha, whatever the tests' dependence.
    """
    found = np.asarray(p_values, np.float64)
    order = np.argsort(found, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(1.0, np.arange(len(found), 0, -1) * found[order]))
    corrected = np.empty_like(stepped)
    corrected[order] = stepped
    return [float(value) for value in corrected]


def standard_error(rank: Ints, k: int) -> float:
    """The binomial standard error of `recall_at`; 0 for no queries."""
    recall = recall_at(rank, k)
    return float(np.sqrt(recall * (1 - recall) / len(rank))) if len(rank) else 0.0
