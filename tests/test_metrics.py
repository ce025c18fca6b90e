"""Ranks and recall: ties, NaN and exclusions always count against us."""

import numpy as np
import pytest

from convcg.metrics import (
    NOT_RETRIEVED,
    ListCounts,
    hit_rate,
    holm,
    paired_difference,
    rank_among_all,
    rank_in_lists,
    recall_at,
    recall_of_users,
    reciprocal_rank,
    standard_error,
)

NAN, INF = float("nan"), float("inf")
NOTHING = np.array([], np.int64)


def rank_of(scores: list[float], target: int, *, excluded: list[int] | None = None) -> int:
    [rank] = rank_among_all(np.array([scores]), np.array([target]), [np.array(excluded or [], np.int64)])
    return int(rank)


def listed(scores: list[float], target: int, *, length: int | None = None, counted: list[bool] | None = None) -> int:
    """The rank in a list of rows 0, 1, ..., which may be filled up to a longer `length`."""
    row = np.full((1, length or len(scores)), -1)
    score = np.full(row.shape, -np.inf, np.float32)
    row[0, : len(scores)], score[0, : len(scores)] = np.arange(len(scores)), scores
    [rank] = rank_in_lists(score, row, np.array([target]), None if counted is None else np.array(counted))
    return int(rank)


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
        [found] = rank_in_lists(scores[None, order].astype(np.float32), order[None], np.array([target]))
        if exact < length:
            assert found == exact
        elif exact > length + 1:
            # A target in the last place with nothing tied before it ranks last in the list: what follows is unseen.
            assert found == NOT_RETRIEVED or (found == length and order[-1] == target)


def test_what_is_not_in_the_list_is_not_retrieved() -> None:
    assert listed([0.9, 0.8], 2) == NOT_RETRIEVED
    assert listed([], 0) == listed([], 0, length=3) == NOT_RETRIEVED


def test_a_list_that_ends_early_is_read_to_its_end() -> None:
    assert [listed([0.9, 0.5, 0.5], target, length=6) for target in range(3)] == [1, NOT_RETRIEVED, NOT_RETRIEVED]
    assert [listed([0.9, 0.7, 0.5], target, length=6) for target in range(4)] == [1, 2, 3, NOT_RETRIEVED]


def test_lists_of_several_queries_are_ranked_apart() -> None:
    score = np.array([[0.9, 0.8, 0.7], [0.9, 0.8, -np.inf]], np.float32)
    row = np.array([[4, 2, 0], [0, 4, -1]])
    assert rank_in_lists(score, row, np.array([0, 0])).tolist() == [3, 1]


@pytest.mark.parametrize("seed", range(5))
def test_the_rank_among_some_pins_is_that_of_the_catalogue_without_the_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, counted = (rng.integers(0, 40, (20, 30)) / 8.0).astype(np.float32), rng.random(30) < 0.5
    target = rng.integers(30, size=20)
    order = np.argsort(-scores, axis=1, kind="stable")
    found = rank_in_lists(np.take_along_axis(scores, order, 1), order, target, counted)
    exact = rank_among_all(scores, target, [np.flatnonzero(~counted)] * 20)
    last = np.take_along_axis(scores, order, 1)[:, -1]
    may_go_on = (scores[np.arange(20), target] == last) & ((scores == last[:, None]).sum(1) > 1)
    assert found[~may_go_on].tolist() == exact[~may_go_on].tolist()
    assert (found[may_go_on] == NOT_RETRIEVED).all()
    assert (found != NOT_RETRIEVED).any()


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


def test_the_p_value_is_small_for_what_differs_and_large_for_what_does_not() -> None:
    rng = np.random.default_rng(0)
    users, base = np.arange(2000), rng.random(2000) < 0.3
    better = (base | (rng.random(2000) < 0.05)).astype(float)
    assert paired_difference(better, base.astype(float), users).p_value < 0.001
    assert paired_difference(base.astype(float), base.astype(float), users).p_value == 1
    small = [
        paired_difference((rng.random(400) < 0.3) + 0.0, (rng.random(400) < 0.3) + 0.0, np.arange(400), draws=999)
        for _ in range(200)
    ]
    below = np.mean([each.p_value <= 0.1 for each in small])
    assert 0.03 < below < 0.2  # under no difference p is uniform
    # An interval that leaves 0 out and a p value below 5 % are the same statement.
    assert all(
        (each.p_value < 0.05) == (each.low > 0 or each.high < 0) for each in small if abs(each.p_value - 0.05) > 0.01
    )


def test_kinds_of_users_are_drawn_as_the_users_are() -> None:
    rng = np.random.default_rng(3)
    user = rng.integers(60, size=200)
    hit, other = rng.random(200) < 0.4, rng.random(200) < 0.3
    found = paired_difference(hit.astype(float), other.astype(float), user, draws=20_000)
    gain, size = np.bincount(user, hit * 1.0 - other), np.bincount(user)
    drawn = rng.integers(len(size), size=(20_000, len(size)))
    low, high = np.quantile(gain[drawn].sum(1) / size[drawn].sum(1), (0.025, 0.975))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))


def test_holm_is_the_step_down_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []
    p_values = np.random.default_rng(0).random(7) ** 3
    corrected = np.array(holm(p_values.tolist()))
    for level in (0.01, 0.05, 0.2):
        rejected = np.zeros(7, bool)
        for step, place in enumerate(np.argsort(p_values)):
            if p_values[place] > level / (7 - step):
                break
            rejected[place] = True
        assert (corrected <= level).tolist() == rejected.tolist()


def test_the_reciprocal_rank_is_cut() -> None:
    rank = np.array([1, 4, 20, 21, NOT_RETRIEVED])
    assert reciprocal_rank(rank, 20) == pytest.approx((1 + 1 / 4 + 1 / 20) / 5)
    assert reciprocal_rank(rank[:0], 20) == 0


def test_the_hit_rate_counts_users_with_a_hit() -> None:
    user, rank = ["a", "a", "b", "c"], np.array([9, 2, NOT_RETRIEVED, 3])
    assert [hit_rate(rank, user, k) for k in (1, 2, 3)] == pytest.approx([0, 1 / 3, 2 / 3])
    assert hit_rate(rank[:0], [], 3) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_pin_is_listed_where_its_own_rank_is_within_k(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 30, (8, 25)) / 4.0).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    ks, counts = (1, 3, 40), ListCounts(25, (1, 3, 40))
    counts.add_scores(scores)
    as_lists = ListCounts(25, (1, 3))
    order = np.argsort(-scores, axis=1)[:, :4]
    cut = np.take_along_axis(scores, order, 1)
    as_lists.add(cut, np.where(np.isfinite(cut), order, -1))
    advertiser = np.arange(25) % 6 - 1
    for k in ks:
        listed_N = np.zeros(25, int)
        for pin in range(25):
            listed_N[pin] = (rank_among_all(scores, np.full(8, pin), [NOTHING] * 8) <= k).sum()
        assert counts.coverage(k) == (listed_N > 0).mean()
        share = np.array([listed_N[advertiser == each].sum() for each in range(5)]) / listed_N[advertiser >= 0].sum()
        entropy = -sum(part * np.log2(part) for part in share if part) / np.log2(5)
        assert counts.advertiser_entropy(k, advertiser) == pytest.approx(entropy)
        assert k == 40 or as_lists.coverage(k) == counts.coverage(k)
    assert counts.coverage(1) < counts.coverage(3) < counts.coverage(40)


def test_lists_of_equal_scores_cover_nothing_and_one_advertiser_has_no_entropy() -> None:
    counts = ListCounts(30, (5,))
    counts.add_scores(np.ones((4, 30), np.float32))
    assert counts.coverage(5) == counts.advertiser_entropy(5, np.arange(30)) == 0
    counts.add_scores(np.arange(30, dtype=np.float32)[None])
    assert counts.coverage(5) == 5 / 30
    assert counts.advertiser_entropy(5, np.zeros(30, np.int64)) == 0
