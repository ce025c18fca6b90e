"""Searches over pairs and ranges, against plain Python."""

from bisect import bisect_left

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convcg.data.pairs import first_of, from_the_end, joined, ragged, searchsorted_pairs
from convcg.data.text_hash import NO_HASH, text_hash

SMALL = st.integers(0, 3)
#: The second kind does not fit into one 64-bit number with its neighbours.
PAIRS = st.one_of(
    st.lists(st.tuples(SMALL, SMALL), max_size=12),
    st.lists(st.tuples(SMALL, st.integers(-(2**61), 2**61)), max_size=12),
)


@given(pairs=PAIRS, wanted=PAIRS)
def test_pairs_are_found_as_bisect_finds_tuples(pairs: list[tuple[int, int]], wanted: list[tuple[int, int]]) -> None:
    pairs.sort()
    columns = np.array(pairs, np.int64).reshape(-1, 2).T
    asked = np.array(wanted, np.int64).reshape(-1, 2).T
    found = searchsorted_pairs(columns[0], columns[1], asked[0], asked[1])
    assert found.tolist() == [bisect_left(pairs, pair) for pair in wanted]


@given(st.lists(st.tuples(SMALL, SMALL, SMALL), max_size=20))
def test_the_first_of_each_key_is_kept(rows: list[tuple[int, int, int]]) -> None:
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    assert first_of(*columns).tolist() == sorted(
        {row: place for place, row in reversed(list(enumerate(rows)))}.values()
    )


def test_ranges_become_rows_and_elements() -> None:
    row, element = ragged(np.array([5, 0, 9]), np.array([2, 0, 3]))
    assert row.tolist() == [0, 0, 2, 2, 2]
    assert element.tolist() == [5, 6, 9, 10, 11]
    assert from_the_end(row, 3).tolist() == [1, 0, 2, 1, 0]


def test_joined_pairs_compare_as_pairs() -> None:
    assert joined(np.array([0, 1, 1], np.int32), np.array([9, 0, 3], np.int32), 10).tolist() == [9, 10, 13]


def by_hand(text: str) -> int:
    hashed = 1
    for byte in text.encode():
        hashed = (hashed * 0x9E3779B97F4A7C15 + byte) % 2**64
    hashed ^= hashed >> 32
    hashed = hashed * 0xD6E8FEB86659FD93 % 2**64
    return (hashed ^ (hashed >> 32)) >> 1


@given(st.lists(st.one_of(st.none(), st.text(max_size=12)), max_size=12), st.integers(0, 3))
def test_strings_are_hashed_as_their_bytes_say(texts: list[str | None], start: int) -> None:
    array = pa.array(texts, pa.string())[start:]
    expected = [NO_HASH if text is None else by_hand(text) for text in texts[start:]]
    assert text_hash(array).tolist() == expected
    assert text_hash(pa.chunked_array([array, array])).tolist() == expected * 2


def test_hashes_never_change() -> None:
    # They decide the partition of a person and the order of tied events: a literal value, for every platform.
    assert text_hash(pa.array(["user_000042"]))[0] == by_hand("user_000042") == 7_567_953_221_159_225_294


@pytest.mark.parametrize("count", [200_000])
def test_different_ids_get_different_hashes(count: int) -> None:
    assert len(np.unique(text_hash(pa.array([f"req_{number:07d}" for number in range(count)])))) == count
