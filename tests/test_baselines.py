"""Baselines against NumPy written out in full."""

import numpy as np
import pyarrow as pa
import pytest

from convcg.baselines import Histories, ItemItem, Popularity
from convcg.types import ACTION_CODE, Action

CLICK, CART, BUY = (ACTION_CODE[action] for action in (Action.CLICK, Action.ADD_TO_CART, Action.CHECKOUT))
NUM_PINS = 5


def interactions() -> list[pa.Table]:
    """Two partitions: persons 0 and 1 of the first, person 0 of the second."""
    first = {"user": [0, 0, 0, 1, 1], "pin": [0, 0, 1, 1, 2], "action": [CLICK, BUY, CLICK, CART, CLICK]}
    second = {"user": [0, 0], "pin": [0, 3], "action": [CLICK, BUY]}
    types = pa.schema([("user", pa.int32()), ("pin", pa.int32()), ("action", pa.int8())])
    return [pa.table(part, schema=types) for part in (first, second)]


def strongest() -> np.ndarray:
    """Person x pin by hand: click 1, cart 2, checkout 3, the strongest action counts."""
    return np.array([[3, 1, 0, 0, 0], [0, 2, 1, 0, 0], [1, 0, 0, 3, 0]], np.float64)


def histories() -> Histories:
    return Histories(
        pins=[np.array([0, 0], np.int32), np.array([], np.int32), np.array([1, 3], np.int32)],
        actions=[np.array([CLICK, CART], np.int8), np.array([], np.int8), np.array([CLICK, BUY], np.int8)],
    )


def test_popularity_counts_checkouts_alone_and_is_the_same_for_everybody() -> None:
    scores = Popularity(interactions(), NUM_PINS).scores(histories())
    assert scores.tolist() == [[1, 0, 0, 1, 0]] * 3


def test_item_item_is_the_cosine_of_columns_without_the_diagonal() -> None:
    columns = strongest() / np.maximum(np.linalg.norm(strongest(), axis=0), 1e-12)
    cosine = columns.T @ columns
    np.fill_diagonal(cosine, 0)
    wanted = np.array([[2, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 3, 0]]) @ cosine
    scores = ItemItem(interactions(), NUM_PINS, num_neighbours=None).scores(histories())
    np.testing.assert_allclose(scores, wanted, atol=1e-6)


@pytest.mark.parametrize("num_neighbours", [1, 2])
def test_item_item_keeps_the_most_similar_pins_of_each(num_neighbours: int) -> None:
    full = ItemItem(interactions(), NUM_PINS, num_neighbours=None)
    kept = ItemItem(interactions(), NUM_PINS, num_neighbours=num_neighbours)
    everyone = Histories(
        pins=[np.array([pin], np.int32) for pin in range(NUM_PINS)],
        actions=[np.array([CLICK], np.int8)] * NUM_PINS,
    )
    for all_scores, kept_scores in zip(full.scores(everyone), kept.scores(everyone), strict=True):
        assert np.count_nonzero(kept_scores) <= num_neighbours
        assert kept_scores.max() == all_scores.max()
