"""Retrieval metrics over the whole catalogue, exact, with ties counted against us.

The rank of a target is the number of candidates that score at least as high, itself included: a model that gives every
pin the same score has recall 0, not 1.

Shape suffixes: B queries, N catalogue.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: The rank of a target that was not retrieved at all.
NOT_RETRIEVED = np.iinfo(np.int64).max


def rank_among_all(
    score_BN: NDArray[np.floating], target_B: NDArray[np.integer], excluded: Sequence[NDArray[np.integer]]
) -> NDArray[np.int64]:
    """[B] int64 ranks from the scores of the whole catalogue. `excluded[b]` are rows left out for query b.

    An excluded or non-finite target is `NOT_RETRIEVED`.
    """
    score_BN = np.array(score_BN, dtype=np.float32)
    for row, left_out in enumerate(excluded):
        score_BN[row, left_out] = -np.inf
    target_score = score_BN[np.arange(len(target_B)), target_B]
    # "not below" rather than "at least": NaN anywhere counts against us, too.
    rank: NDArray[np.int64] = (~(score_BN < target_score[:, None])).sum(1).astype(np.int64)
    rank[~np.isfinite(target_score)] = NOT_RETRIEVED
    return rank


def rank_in_list(score: NDArray[np.floating], is_target: NDArray[np.bool_]) -> int:
    """The rank of a target from a retrieved list, best first: [n] scores and which entry is the target.

    Exact for every rank below n. A target tied with the last entry is `NOT_RETRIEVED`, because the tie may go on.
    """
    place = np.flatnonzero(is_target)
    if len(place) == 0:
        return NOT_RETRIEVED
    target_score = score[place[0]]
    may_go_on = target_score == score[-1] and (score == target_score).sum() > 1
    if may_go_on or not np.isfinite(target_score):
        return NOT_RETRIEVED
    return int((~(score < target_score)).sum())


def recall_at(rank: NDArray[np.int64], k: int) -> float:
    """The share of queries whose target has rank <= k; 0 for no queries."""
    return float((rank <= k).mean()) if len(rank) else 0.0


def recall_of_users(rank: NDArray[np.int64], user: Sequence[str], target: NDArray[np.integer], k: int) -> float:
    """The mean over users of: distinct targets with rank <= k, out of the k that could be, or all where they are fewer.

    A target that a user has more than one query for counts once, by its best rank. 0 for no queries.
    """
    best: dict[str, dict[int, int]] = {}
    for who, what, place in zip(user, target.tolist(), rank.tolist(), strict=True):
        found = best.setdefault(who, {})
        found[what] = min(place, found.get(what, place))
    shares = [sum(place <= k for place in found.values()) / min(k, len(found)) for found in best.values()]
    return float(np.mean(shares)) if shares else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much larger one recall is than another, with the middle 95 % of the bootstrap."""

    mean: float
    low: float
    high: float


def paired_difference(
    hit: NDArray[np.floating], other: NDArray[np.floating], user: Sequence[str], *, draws: int = 10_000, seed: int = 0
) -> Difference:
    """The recall of `hit` minus that of `other`, both [B] hits (or shares of seeds that hit) of the same queries.

    The interval is the percentile bootstrap over users, whose queries stay together (Efron & Tibshirani, 1993, ch. 13).
    """
    _, number = np.unique(np.asarray(user), return_inverse=True)
    gain = np.bincount(number, np.asarray(hit, np.float64) - np.asarray(other, np.float64))
    size = np.bincount(number).astype(np.float64)
    rng = np.random.default_rng(seed)
    drawn = np.empty(draws)
    for draw in range(draws):
        times = np.bincount(rng.integers(len(size), size=len(size)), minlength=len(size))
        drawn[draw] = (times @ gain) / (times @ size)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Difference(mean=float(gain.sum() / size.sum()), low=float(low), high=float(high))


def standard_error(rank: NDArray[np.int64], k: int) -> float:
    """The binomial standard error of `recall_at`; 0 for no queries."""
    recall = recall_at(rank, k)
    return float(np.sqrt(recall * (1 - recall) / len(rank))) if len(rank) else 0.0
