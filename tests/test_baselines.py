"""Baselines against NumPy written out in full, and those that are trained against what was planted."""

import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from convcg.baselines import BASELINES, Histories, TrainingLog, build
from convcg.baselines.co_visitation import CoVisitation
from convcg.baselines.ease import MAX_PINS, Ease
from convcg.baselines.item_item import ItemItem
from convcg.baselines.popularity import Popularity, RecentPopularity
from convcg.baselines.revisits import Revisits
from convcg.baselines.sasrec import SasRec
from convcg.data.split import DAY
from convcg.errors import ConfigError
from convcg.types import ACTION_CODE, Action

CLICK, CART, BUY = (ACTION_CODE[action] for action in (Action.CLICK, Action.ADD_TO_CART, Action.CHECKOUT))
NUM_PINS, UNTIL = 5, 20 * DAY
#: Days before the end of the training time, of the seven actions of `log`.
AGES = [19, 9, 8, 7, 0.5, 6.5, 1]


def table(user: Sequence[int], pin: Sequence[int], action: Sequence[int], days_ago: Sequence[float]) -> pa.Table:
    types = pa.schema([("user", pa.int32()), ("known", pa.int64()), ("pin", pa.int32()), ("action", pa.int8())])
    known = [UNTIL - int(days * DAY) for days in days_ago]
    return pa.table({"user": user, "known": known, "pin": pin, "action": action}, schema=types)


def log() -> TrainingLog:
    """Two partitions: persons 0 and 1 of the first, person 0 of the second."""
    first = table([0, 0, 0, 1, 1], [0, 0, 1, 1, 2], [CLICK, BUY, CLICK, CART, CLICK], AGES[:5])
    second = table([0, 0], [0, 3], [CLICK, BUY], AGES[5:])
    return TrainingLog(tables=lambda: [first, second], num_pins=NUM_PINS, until=UNTIL)


def strongest() -> np.ndarray:
    """Person x pin by hand: click 1, cart 2, checkout 3, the strongest action counts."""
    return np.array([[3, 1, 0, 0, 0], [0, 2, 1, 0, 0], [1, 0, 0, 3, 0]], np.float64)


def history_matrix() -> np.ndarray:
    return np.array([[2, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 3, 0]], np.float64)


def histories_of(*queries: Sequence[tuple[int, int]]) -> Histories:
    return Histories(
        pins=[np.array([pin for pin, _ in query], np.int32) for query in queries],
        actions=[np.array([action for _, action in query], np.int8) for query in queries],
    )


def histories() -> Histories:
    return histories_of([(0, CLICK), (0, CART)], [], [(1, CLICK), (3, BUY)])


def test_popularity_counts_checkouts_alone_and_is_the_same_for_everybody() -> None:
    assert Popularity(log()).scores(histories()).tolist() == [[1, 0, 0, 1, 0]] * 3


def test_recent_popularity_counts_checkouts_and_carts_of_the_last_seven_days() -> None:
    # The checkout of pin 0 is nine days old, the cart of pin 1 exactly seven; the clicks do not count.
    assert RecentPopularity(log()).scores(histories()).tolist() == [[0, 1, 0, 1, 0]] * 3


def test_revisits_are_the_history_by_recency_and_then_what_is_popular() -> None:
    asked = histories_of([(4, CLICK), (1, BUY), (4, CLICK), (2, CLICK)], [])
    scores = Revisits(log()).scores(asked)
    assert np.argsort(-scores[0], kind="stable").tolist() == [2, 4, 1, 0, 3]
    assert scores[0, 0] == scores[0, 3] < 1  # pins 0 and 3 were bought once each
    assert scores[1].tolist() == [0.5, 0, 0, 0.5, 0]


def test_item_item_is_the_cosine_of_columns_without_the_diagonal() -> None:
    columns = strongest() / np.maximum(np.linalg.norm(strongest(), axis=0), 1e-12)
    cosine = columns.T @ columns
    np.fill_diagonal(cosine, 0)
    scores = ItemItem(log(), num_neighbours=None).scores(histories())
    np.testing.assert_allclose(scores, history_matrix() @ cosine, atol=1e-6)


@pytest.mark.parametrize("num_neighbours", [1, 2])
def test_item_item_keeps_the_most_similar_pins_of_each(num_neighbours: int) -> None:
    full = ItemItem(log(), num_neighbours=None)
    kept = ItemItem(log(), num_neighbours=num_neighbours)
    everyone = histories_of(*([(pin, CLICK)] for pin in range(NUM_PINS)))
    for all_scores, kept_scores in zip(full.scores(everyone), kept.scores(everyone), strict=True):
        strongest_first = np.sort(all_scores)[::-1][:num_neighbours]
        assert np.sort(kept_scores)[::-1][:num_neighbours].tolist() == strongest_first.tolist()
        assert np.count_nonzero(kept_scores) <= num_neighbours


def test_co_visitation_counts_what_follows_by_action_and_distance_in_one_direction_only() -> None:
    sequence = [(0, CLICK), (1, CART), (1, CLICK), (2, BUY), (3, CLICK), (4, CLICK), (0, CLICK)]
    pins, actions = zip(*sequence, strict=True)
    other = table([0] * 7 + [1], [*pins, 3], [*actions, BUY], list(range(19, 11, -1)))
    found = CoVisitation(TrainingLog(tables=lambda: [other], num_pins=NUM_PINS, until=UNTIL))
    weights, by_hand = {CLICK: 1.0, CART: 2.0, BUY: 3.0}, np.zeros((NUM_PINS, NUM_PINS))
    for place, (pin, _) in enumerate(sequence):
        for steps, (later, action) in enumerate(sequence[place + 1 : place + 6], start=1):
            if later != pin:
                by_hand[pin, later] += weights[action] / steps
    assert by_hand[0, 1] > 0 == by_hand[4, 1]
    by_hand /= np.maximum(by_hand.sum(1, keepdims=True), 1e-12)
    asked = histories_of([(1, BUY), (4, CLICK), (0, CART)], [])
    wanted = 3 * 0.5**0.2 * by_hand[1] + 0.5**0.1 * by_hand[4] + 2 * by_hand[0]
    np.testing.assert_allclose(found.scores(asked), [wanted, np.zeros(NUM_PINS)], atol=1e-6)


def test_ease_is_the_closed_form_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    acted = (strongest() > 0).astype(float)
    inverse = np.linalg.inv(acted.T @ acted + 0.5 * np.eye(NUM_PINS))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    wanted = (history_matrix() > 0) @ weights
    np.testing.assert_allclose(Ease(log(), regularisation=0.5).scores(histories()), wanted, atol=1e-6)
    monkeypatch.setattr("convcg.baselines.ease._PINS_AT_ONCE", 2)
    np.testing.assert_allclose(Ease(log(), regularisation=0.5).scores(histories()), wanted, atol=1e-6)


def test_ease_refuses_a_catalogue_that_is_too_large() -> None:
    large = TrainingLog(tables=list, num_pins=MAX_PINS + 1, until=UNTIL)
    with pytest.raises(ConfigError, match="20001 pins, and 20000 is the most"):
        Ease(large)


def two_tastes(num_users: int = 120, length: int = 12) -> TrainingLog:
    """People of two tastes, each of whom walks round its ten pins in order, from anywhere."""
    rng = np.random.default_rng(0)
    taste, start = np.arange(num_users) % 2, rng.integers(10, size=num_users)
    pin = taste[:, None] * 10 + (start[:, None] + np.arange(length)) % 10
    user = np.repeat(np.arange(num_users), length)
    walk = table(user.tolist(), pin.ravel().tolist(), [CLICK] * user.size, np.full(user.size, 1.0).tolist())
    return TrainingLog(tables=lambda: [walk], num_pins=20, until=UNTIL)


@pytest.mark.parametrize("name", ["item_item", "co_visitation", "ease", "als"])
def test_every_personal_baseline_knows_two_tastes_apart(name: str) -> None:
    if name == "als":
        pytest.importorskip("implicit")
    [(built, baseline)] = build([name], two_tastes(), item_item_neighbours=None)
    assert built == name
    scores = baseline.scores(histories_of([(3, CLICK), (4, CLICK)], [(13, CLICK), (14, CLICK)], []))
    assert scores.shape == (3, 20)
    assert scores.dtype == np.float32
    unseen = [5, 6, 7, 8, 9]
    assert scores[0, unseen].min() > scores[0, 10:].max()
    assert scores[1, [10 + pin for pin in unseen]].min() > scores[1, :10].max()
    assert len(set(scores[2].tolist())) == 1 or name == "als"


def test_sasrec_foretells_the_next_pin_from_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convcg.baselines.sasrec._LEAST_STEPS", 120)
    sasrec = SasRec(two_tastes())
    forwards = [(pin, CLICK) for pin in (1, 2, 3, 4)]
    scores = sasrec.scores(histories_of(forwards, [(pin + 10, action) for pin, action in forwards]))
    assert scores.argmax(1).tolist() == [5, 15]
    again = sasrec.scores(histories_of([*forwards, (4, BUY), (4, CLICK)]))  # repeats in a row are one action
    np.testing.assert_allclose(again[0], scores[0], atol=1e-6)


def test_sasrec_is_trained_alike_with_sampled_pins_and_twice_with_one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = histories_of([(1, CLICK), (2, CLICK)], [(17, CLICK)])
    monkeypatch.setattr("convcg.baselines.sasrec._LEAST_STEPS", 120)
    monkeypatch.setattr("convcg.baselines.sasrec._NUM_SAMPLED", 8)
    first, second = (SasRec(two_tastes(), seed=3).scores(asked) for _ in range(2))
    assert first.argmax(1).tolist() == [3, 18]
    assert first.tolist() == second.tolist()


def test_als_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("implicit.cpu.als", "implicit"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install 'convcg\[eval\]'"):
        next(build(["als"], log(), item_item_neighbours=None))


@pytest.mark.parametrize("name", BASELINES)
def test_a_log_of_no_actions_and_no_queries_are_no_errors(name: str) -> None:
    if name == "als":
        pytest.importorskip("implicit")
    nothing = table([], [], [], [])
    [(_, baseline)] = build(
        [name], TrainingLog(tables=lambda: [nothing], num_pins=6, until=UNTIL), item_item_neighbours=2
    )
    assert np.isfinite(baseline.scores(histories_of([(3, CLICK)], []))).all()
    assert baseline.scores(histories_of()).shape == (0, 6)
