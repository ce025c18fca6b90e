"""Ranks and recall: ties, NaN and exclusions always count against us."""

import numpy as np
import pytest

from convcg.metrics import (
    NOT_RETRIEVED,
    paired_difference,
    rank_among_all,
    rank_in_list,
    recall_at,
    recall_of_users,
    standard_error,
)

NAN, INF = float("nan"), float("inf")
NOTHING = np.array([], np.int64)


def rank_of(scores: list[float], target: int, *, excluded: list[int] | None = None) -> int:
    [rank] = rank_among_all(np.array([scores]), np.array([target]), [np.array(excluded or [], np.int64)])
    return int(rank)


def listed(scores: list[float], target: int) -> int:
    return rank_in_list(np.array(scores, np.float32), np.arange(len(scores)) == target)


def test_the_rank_counts_what_scores_at_least_as_high() -> None:
    assert [rank_of([0.3, 0.9, 0.5], target) for target in range(3)] == [3, 1, 2]
    assert [rank_of([0.5, 0.9, 0.5], target) for target in range(3)] == [3, 1, 3]


def test_a_model_that_scores_all_pins_alike_has_recall_zero() -> None:
    rank = rank_among_all(np.ones((5, 100)), np.arange(5), [NOTHING] * 5)
    assert recall_at(rank, 99) == 0
    assert recall_at(rank, 100) == 1


def test_scores_that_float32_cannot_tell_apart_are_tied() -> None:
    assert rank_of([0.5, 0.5 + 1e-12], 1) == 2


def test_a_nan_ranks_above_the_target_and_is_never_retrieved_itself() -> None:
    assert rank_of([NAN, 0.5, 0.1], 1) == 2
    assert rank_of([NAN, 0.5, 0.1], 0) == NOT_RETRIEVED
    assert rank_of([-INF, 0.5, INF], 0) == rank_of([-INF, 0.5, INF], 2) == NOT_RETRIEVED


def test_excluded_pins_do_not_count_and_are_not_retrieved() -> None:
    assert rank_of([0.9, 0.8, 0.7], 2, excluded=[0]) == 2
    assert rank_of([0.9, 0.8, 0.7], 2, excluded=[0, 1, 1]) == 1
    assert rank_of([0.9, 0.8, 0.7], 0, excluded=[0]) == NOT_RETRIEVED
    assert rank_of([NAN, 0.8, 0.7], 1, excluded=[0]) == 1


def test_each_query_has_its_own_exclusions_and_the_callers_scores_stay() -> None:
    scores = np.array([[0.9, 0.8], [0.9, 0.8]], np.float32)
    rank = rank_among_all(scores, np.array([1, 1]), [np.array([0]), NOTHING])
    assert rank.tolist() == [1, 2]
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("seed", range(20))
def test_a_list_gives_the_rank_among_all_or_a_worse_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(50):
        scores = rng.integers(0, 12, 30) / 8.0
        length = int(rng.integers(1, 30))
        order = np.argsort(-scores, kind="stable")[:length]
        target = int(rng.integers(30))
        exact = rank_of(scores.tolist(), target)
        found = rank_in_list(scores[order], order == target)
        if exact < length:
            assert found == exact
        elif exact > length + 1:
            # A target in the last place with nothing tied before it ranks last in the list: what follows is unseen.
            assert found == NOT_RETRIEVED or (found == length and order[-1] == target)


def test_what_is_not_in_the_list_is_not_retrieved() -> None:
    assert rank_in_list(np.array([0.9, 0.8]), np.zeros(2, bool)) == NOT_RETRIEVED
    assert rank_in_list(np.array([]), np.zeros(0, bool)) == NOT_RETRIEVED


def test_ties_inside_a_list_count_against_us() -> None:
    assert [listed([0.9, 0.5, 0.5, 0.1], target) for target in range(4)] == [1, 3, 3, 4]


def test_a_tie_at_the_end_of_a_list_may_go_on_whatever_the_targets_place_in_it() -> None:
    assert [listed([0.9, 0.5, 0.5], target) for target in range(3)] == [1, NOT_RETRIEVED, NOT_RETRIEVED]
    assert listed([0.5], 0) == 1


def test_a_score_that_is_not_finite_is_not_retrieved_from_a_list() -> None:
    assert listed([NAN, 0.5], 0) == listed([0.5, -INF], 1) == NOT_RETRIEVED
    assert listed([NAN, 0.5, 0.1], 1) == 2


def test_recall_is_the_share_of_ranks_up_to_k() -> None:
    rank = np.array([1, 10, 11, NOT_RETRIEVED])
    assert [recall_at(rank, k) for k in (1, 9, 10, 11, 10**9)] == [0.25, 0.25, 0.5, 0.75, 0.75]
    assert standard_error(rank, 10) == pytest.approx(0.25)
    assert standard_error(rank, 1) == pytest.approx((0.25 * 0.75 / 4) ** 0.5)


def test_no_queries_have_recall_zero() -> None:
    assert recall_at(np.array([], np.int64), 10) == standard_error(np.array([], np.int64), 10) == 0


def test_recall_of_users_counts_each_user_and_each_target_once() -> None:
    user = ["a", "a", "a", "a", "b"]
    target, rank = np.array([1, 2, 2, 3, 1]), np.array([1, 9, 2, NOT_RETRIEVED, 5])
    assert recall_of_users(rank, user, target, 2) == pytest.approx((2 / 2 + 0) / 2)
    assert recall_of_users(rank, user, target, 5) == pytest.approx((2 / 3 + 1) / 2)
    assert recall_of_users(rank[:0], [], target[:0], 5) == 0


def test_a_paired_difference_covers_what_was_planted() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        users = [f"u{number}" for number in rng.integers(200, size=600)]
        base = rng.random(600) < 0.3
        better = base | (rng.random(600) < 0.1 / 0.7)
        found = paired_difference(better.astype(float), base.astype(float), users, draws=300, seed=trial)
        assert found.low <= found.mean <= found.high
        covered += found.low <= 0.1 <= found.high
    assert covered >= 50


def test_equal_systems_differ_by_nothing() -> None:
    hit = np.array([1.0, 0.0, 1.0])
    same = paired_difference(hit, hit, ["a", "b", "b"], draws=50)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_the_queries_of_a_user_are_drawn_together() -> None:
    gain = np.tile([1.0, -1.0], 50)
    together = paired_difference(gain, np.zeros(100), [f"u{row // 2}" for row in range(100)], draws=200)
    assert together.low == together.high == 0
    apart = paired_difference(gain, np.zeros(100), [f"u{row}" for row in range(100)], draws=200)
    assert apart.low < -0.1 < 0.1 < apart.high
