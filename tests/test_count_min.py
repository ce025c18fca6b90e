"""The count-min sketch against exact counts: never too low, seldom much too high, the same in every process."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcg.data.count_min import CountMin
from convcg.errors import DataError

LIMITS = np.iinfo(np.int64)
KEYS = st.one_of(st.integers(LIMITS.min, LIMITS.max), st.integers(-3, 3))
STREAMS = st.lists(st.tuples(KEYS, st.integers(0, 1000)), max_size=60)
STORED = [{297: 2, 389: 4, 858: 1, 991: 8}, {69: 2, 471: 4, 501: 8, 975: 1}]
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**64 - 1))


def sketch_of(stream: list[tuple[int, int]], shape: tuple[int, int, int]) -> CountMin:
    sketch = CountMin(*shape)
    sketch.add(np.array([key for key, _ in stream], np.int64), np.array([count for _, count in stream], np.int64))
    return sketch


@settings(deadline=None)
@given(STREAMS, SHAPES)
def test_an_estimate_lies_between_the_truth_and_the_total(stream, shape):
    truth: Counter[int] = Counter()
    for key, count in stream:
        truth[key] += count
    sketch = sketch_of(stream, shape)
    keys = np.array([*truth, 17], np.int64)
    estimate = sketch.estimate(keys)
    assert (estimate >= [truth[key] for key in keys.tolist()]).all()
    assert (estimate <= sketch.total).all()
    assert sketch.total == truth.total()


@settings(deadline=None)
@given(STREAMS, STREAMS, SHAPES)
def test_a_merge_is_the_sketch_of_both_streams(first, second, shape):
    merged = sketch_of(first, shape)
    merged.merge(sketch_of(second, shape))
    assert merged.to_bytes() == sketch_of(first + second, shape).to_bytes()
    assert merged.to_bytes() == sketch_of(second + first, shape).to_bytes()


@settings(deadline=None)
@given(STREAMS, SHAPES)
def test_bytes_bring_the_sketch_back(stream, shape):
    sketch = sketch_of(stream, shape)
    back = CountMin.from_bytes(sketch.to_bytes())
    assert (back.width, back.depth, back.seed, back.total) == (*shape, sketch.total)
    assert back.to_bytes() == sketch.to_bytes()
    back.add(np.array([5]))
    assert back.total == sketch.total + 1


@pytest.mark.parametrize("keys", ["consecutive", "strided", "random"])
def test_the_error_bound_holds_with_its_probability_over_the_seeds(keys):
    rng = np.random.default_rng(0)
    num_keys, width, depth = 2000, 100, 2
    key = {
        "consecutive": np.arange(num_keys),
        "strided": np.arange(num_keys) << 32,
        "random": rng.integers(LIMITS.min, LIMITS.max, num_keys),
    }[keys]
    truth = rng.zipf(1.3, num_keys).clip(max=10_000)
    too_high = []
    for seed in range(60):
        sketch = CountMin(width, depth, seed)
        sketch.add(key, truth)
        too_high.append(sketch.estimate(key) > truth + np.e / width * truth.sum())
    assert 0 < np.mean(too_high) <= np.exp(-depth)


def test_a_wide_sketch_is_exact():
    keys = np.repeat(np.arange(100, dtype=np.int64), np.arange(100))
    sketch = CountMin(width=1 << 16, depth=4, seed=1)
    sketch.add(keys)
    np.testing.assert_array_equal(sketch.estimate(np.arange(100)), np.arange(100))
    assert sketch.estimate(np.array([1 << 40])).tolist() == [0]


def test_counts_beyond_the_precision_of_a_float_stay_exact():
    sketch = CountMin(width=8, depth=2, seed=0)
    sketch.add(np.array([1]), 2**60)
    sketch.add(np.array([1]), np.array([1], np.uint64))
    assert sketch.estimate(np.array([1])).tolist() == [2**60 + 1]


def test_no_keys_change_nothing():
    sketch = CountMin(width=8, depth=2, seed=0)
    sketch.add(np.array([], np.int64))
    assert sketch.total == 0
    assert sketch.estimate(np.array([], np.int64)).shape == (0,)


def test_another_process_makes_the_same_bytes():
    build = (
        "import numpy as np, sys; from convcg.data.count_min import CountMin; sketch = CountMin(50, 3, 7); "
        "sketch.add(np.arange(-500, 500, dtype=np.int64) ** 5); sys.stdout.write(sketch.to_bytes().hex())"
    )
    sketch = CountMin(50, 3, 7)
    sketch.add(np.arange(-500, 500, dtype=np.int64) ** 5)
    elsewhere = subprocess.run([sys.executable, "-c", build], capture_output=True, text=True, check=True)
    assert bytes.fromhex(elsewhere.stdout) == sketch.to_bytes()


def test_the_hash_stays_what_it_was_for_sketches_that_are_stored():
    sketch = CountMin(width=1000, depth=2, seed=42)
    sketch.add(np.array([0, 1, -1, 2**40]), np.array([1, 2, 4, 8]))
    counts = np.frombuffer(sketch.to_bytes()[-16_000:], "<i8").reshape(2, 1000)
    assert [{int(at): int(row[at]) for at in np.flatnonzero(row)} for row in counts] == STORED


def test_sketches_that_hash_differently_cannot_be_merged():
    for other in (CountMin(9, 2, 0), CountMin(8, 3, 0), CountMin(8, 2, 1)):
        with pytest.raises(AssertionError, match="cannot be merged"):
            CountMin(8, 2, 0).merge(other)


def test_counts_below_zero_and_keys_of_another_type_are_refused():
    sketch = CountMin(8, 2, 0)
    with pytest.raises(AssertionError, match="0 or more"):
        sketch.add(np.array([1]), -1)
    with pytest.raises(AssertionError, match="must be integers"):
        sketch.add(np.array([1]), 0.5)
    with pytest.raises(AssertionError, match="must be int64"):
        sketch.add(np.array([1.0]))  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: b"?" * 40, lambda c: c[:-8], lambda c: c[:-1] + b"\x01"])
def test_damaged_bytes_are_refused(damage):
    with pytest.raises(DataError, match="Build it again"):
        CountMin.from_bytes(damage(CountMin(4, 2, 0).to_bytes()))
