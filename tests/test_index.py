"""The index against brute force: every backend, mask, k and cut into shards gives the same rows in the same order."""

import numpy as np
import pytest

from convcg.index.backends import BackendKind
from convcg.index.shard import Hits, Shard, merge, shard_bounds

BACKENDS = list(BackendKind)


def unit_vectors(rng, count, dim=16):
    vectors = rng.normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def oracle(vectors, query, k, allowed=None):
    """Rows and scores by sorting everything: float64 scores rounded to float32, ties by row."""
    score = np.array(
        [[(vector.astype(np.float64) * one).sum() for vector in vectors] for one in query.astype(np.float64)]
    )
    score = score.astype(np.float32).reshape(len(query), len(vectors))
    if allowed is not None:
        score[:, ~allowed] = -np.inf
    row = np.tile(np.arange(len(vectors)), (len(query), 1))
    row[np.isneginf(score)] = -1
    order = np.lexsort((row, -score), axis=1)[:, :k]
    return np.take_along_axis(row, order, 1), np.take_along_axis(score, order, 1)


def sharded(vectors, query, k, *, num_shards, backend, allowed=None) -> Hits:
    parts = []
    for first, end in shard_bounds(len(vectors), num_shards):
        shard = Shard(vectors[first:end], first_row=first, backend=backend)
        parts.append(shard.search(query, k, None if allowed is None else allowed[first:end]))
    return merge(parts, k)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
@pytest.mark.parametrize("share_allowed", [None, 0.5, 0.02, 0.0])
@pytest.mark.parametrize("k", [1, 10, 400])
def test_agrees_with_brute_force(rng, backend, num_shards, share_allowed, k):
    vectors, query = unit_vectors(rng, 300), unit_vectors(rng, 5)
    allowed = None if share_allowed is None else rng.random(300) < share_allowed
    hits = sharded(vectors, query, k, num_shards=num_shards, backend=backend, allowed=allowed)
    row, score = oracle(vectors, query, k, allowed)
    np.testing.assert_array_equal(hits.row, row)
    np.testing.assert_array_equal(hits.score, score)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
def test_ties_go_to_the_lower_row_however_many_there_are(rng, backend, num_shards):
    few = unit_vectors(rng, 4)
    vectors = few[rng.integers(0, 4, 1000)]  # about 250 identical pins each: far more than any spare
    query = unit_vectors(rng, 6)
    hits = sharded(vectors, query, 30, num_shards=num_shards, backend=backend)
    row, score = oracle(vectors, query, 30)
    np.testing.assert_array_equal(hits.row, row)
    np.testing.assert_array_equal(hits.score, score)


@pytest.mark.parametrize("backend", BACKENDS)
def test_near_ties_beyond_float32_are_settled_alike(rng, backend):
    base = unit_vectors(rng, 1)
    vectors = (base + rng.normal(size=(500, 16)) * 1e-7).astype(np.float32)
    row, score = oracle(vectors, base, 20)
    for num_shards in (1, 3):
        hits = sharded(vectors, base, 20, num_shards=num_shards, backend=backend)
        np.testing.assert_array_equal(hits.row, row)
        np.testing.assert_array_equal(hits.score, score)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_shards", [1, 4])
@pytest.mark.parametrize("longest", [6.0, 1e-3])
def test_vectors_of_any_length_are_found_exactly(rng, backend, num_shards, longest):
    vectors = unit_vectors(rng, 600) * (rng.random((600, 1)) * longest).astype(np.float32)
    vectors[rng.integers(0, 600, 60)] = 0
    query = unit_vectors(rng, 20)
    for k in (1, 30, 600):
        hits = sharded(vectors, query, k, num_shards=num_shards, backend=backend)
        row, score = oracle(vectors, query, k)
        np.testing.assert_array_equal(hits.row, row)
        np.testing.assert_array_equal(hits.score, score)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [6.0, 1000.0])
def test_near_ties_of_long_vectors_are_settled_alike(rng, backend, length):
    """They differ by no more than the rounding error of a float32 dot product, which grows with the length."""
    base, query = unit_vectors(rng, 1, dim=64), unit_vectors(rng, 3, dim=64)
    vectors = (length * (base + rng.normal(size=(3000, 64)) * 3e-8)).astype(np.float32)
    row, score = oracle(vectors, query, 20)
    for num_shards in (1, 4):
        hits = sharded(vectors, query, 20, num_shards=num_shards, backend=backend)
        np.testing.assert_array_equal(hits.row, row)
        np.testing.assert_array_equal(hits.score, score)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_changes_nothing(rng, backend):
    vectors, query = unit_vectors(rng, 500), unit_vectors(rng, 40)
    shard = Shard(vectors, first_row=100, backend=backend)
    together = shard.search(query, 25)
    for place in range(len(query)):
        alone = shard.search(query[place : place + 1], 25)
        np.testing.assert_array_equal(alone.row[0], together.row[place])
        np.testing.assert_array_equal(alone.score[0], together.score[place])


@pytest.mark.parametrize("backend", BACKENDS)
def test_asking_for_nothing_finds_nothing(rng, backend):
    hits = Shard(unit_vectors(rng, 10), first_row=0, backend=backend).search(unit_vectors(rng, 3), 0)
    assert hits.row.shape == hits.score.shape == (3, 0)


@pytest.mark.parametrize(("num_pins", "num_shards"), [(1, 1), (1, 5), (7, 7), (10, 3), (1_000_003, 16)])
def test_bounds_cover_every_row_once(num_pins, num_shards):
    bounds = shard_bounds(num_pins, num_shards)
    assert [bounds[0][0], bounds[-1][1]] == [0, num_pins]
    assert all(end == first for (_, end), (first, _) in zip(bounds, bounds[1:], strict=False))
    lengths = [end - first for first, end in bounds]
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1
