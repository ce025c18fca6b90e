"""Co-engagement vectors against a dense singular value decomposition, and on planted communities."""

import numpy as np
import pyarrow as pa

from convcg.data.co_engagement import spectral_vectors

NUM_PINS, NUM_PEOPLE = 24, 60


def random_interactions(seed: int) -> tuple[list[pa.Table], np.ndarray]:
    """Two partitions of people with repeats, and the same as a dense 0/1 matrix; nobody acts on the last pin."""
    rng = np.random.default_rng(seed)
    tables, dense = [], []
    for _ in range(2):
        user, pin = rng.integers(0, NUM_PEOPLE // 2, 200), rng.integers(0, NUM_PINS - 1, 200)
        user[:1] = NUM_PEOPLE // 2 - 1  # so that the partition has all its people
        tables.append(pa.table({"user": user.astype(np.int32), "pin": pin.astype(np.int32)}))
        acted = np.zeros((NUM_PEOPLE // 2, NUM_PINS))
        acted[user, pin] = 1
        dense.append(acted)
    return tables, np.concatenate(dense)


def test_dot_products_are_those_of_a_dense_decomposition() -> None:
    tables, acted = random_interactions(0)
    with np.errstate(divide="ignore"):
        by_person, by_pin = (np.where(d > 0, d**-0.5, 0) for d in (acted.sum(1), acted.sum(0)))
    _, values, components = np.linalg.svd(by_person[:, None] * acted * by_pin[None, :])
    wanted = components[:5].T * np.sqrt(values[:5]) * by_pin[:, None]
    wanted /= np.linalg.norm(wanted[:-1], axis=1).mean()
    found = spectral_vectors(tables, num_pins=NUM_PINS, dim=5, seed=0)
    np.testing.assert_allclose(found[:-1] @ found[:-1].T, wanted[:-1] @ wanted[:-1].T, atol=1e-5)


def test_a_pin_that_nobody_acted_on_is_zero_and_the_others_have_mean_length_one() -> None:
    found = spectral_vectors(random_interactions(1)[0], num_pins=NUM_PINS, dim=5, seed=0)
    length = np.linalg.norm(found, axis=1)
    assert length[-1] == 0
    assert length[:-1].min() > 0
    assert abs(length[:-1].mean() - 1) < 1e-6


def test_the_same_seed_gives_the_same_bits() -> None:
    tables, _ = random_interactions(2)
    first, again = (spectral_vectors(tables, num_pins=NUM_PINS, dim=5, seed=3) for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_pins_of_one_community_lie_close_together() -> None:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(NUM_PEOPLE, dtype=np.int32), 5)
    pin = (user % 2 * (NUM_PINS // 2) + rng.integers(0, NUM_PINS // 2, len(user))).astype(np.int32)
    found = spectral_vectors([pa.table({"user": user, "pin": pin})], num_pins=NUM_PINS, dim=2, seed=0)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosine = unit @ unit.T
    half = NUM_PINS // 2
    assert cosine[:half, :half].min() > 0.99
    assert cosine[half:, half:].min() > 0.99
    assert np.abs(cosine[:half, half:]).max() < 0.01


def test_fewer_people_than_directions_leave_the_last_ones_empty() -> None:
    found = spectral_vectors(random_interactions(0)[0], num_pins=NUM_PINS, dim=40, seed=0)
    assert found.shape == (NUM_PINS, 40)
    assert not found[:, NUM_PINS - 1 :].any()
    assert abs(np.linalg.norm(found[:-1], axis=1).mean() - 1) < 1e-6


def test_nobody_leaves_every_pin_without_a_vector() -> None:
    assert not spectral_vectors([], num_pins=NUM_PINS, dim=5, seed=0).any()
