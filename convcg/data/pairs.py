"""Searches over sorted pairs of integers and over ragged ranges: the vectorised grammar of "the last one before"."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def searchsorted_pairs(major: Ints, minor: Ints, want_major: Ints, want_minor: Ints) -> Ints:
    """`numpy.searchsorted` (left) for pairs in lexicographic order; all numbers are whole, majors 0 or more."""
    if len(minor) == 0 or len(want_minor) == 0:
        return np.zeros(len(want_minor), np.int64)
    lowest = min(int(minor.min()), int(want_minor.min()))
    span = max(int(minor.max()), int(want_minor.max())) - lowest + 1
    if (max(int(major.max()), int(want_major.max())) + 1) * span < np.iinfo(np.int64).max:
        return np.searchsorted(joined(major, minor - lowest, span), joined(want_major, want_minor - lowest, span))
    # Too large for one number: one joint stable sort, in which wanted pairs go first.
    order = np.lexsort((np.r_[want_minor, minor], np.r_[want_major, major]))
    is_event = order >= len(want_major)
    before = np.cumsum(is_event)
    result = np.empty(len(want_major), np.int64)
    result[order[~is_event]] = before[~is_event]
    return result


def joined(major: NDArray[np.integer], minor: NDArray[np.integer], span: int) -> Ints:
    """One number for each pair with 0 <= minor < span; pairs compare as their numbers do."""
    return major.astype(np.int64) * span + minor


def ragged(start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """Flatten the ranges start[i] .. start[i] + length[i]: the index i of each element, and the element."""
    row = np.repeat(np.arange(len(start)), length)
    within = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    return row, start[row] + within


def from_the_end(row: Ints, num_rows: int) -> Ints:
    """For sorted row numbers: how many elements of the same row follow each element."""
    return np.searchsorted(row, np.arange(num_rows), side="right")[row] - 1 - np.arange(len(row))


def first_of(*keys: NDArray[np.generic]) -> Ints:
    """Positions of the first entry of each distinct tuple of keys, ascending."""
    if len(keys[0]) == 0:
        return np.zeros(0, np.int64)
    order = np.lexsort(tuple(reversed(keys)))
    new = np.ones(len(order), bool)
    new[1:] = False
    for key in keys:
        new[1:] |= key[order][1:] != key[order][:-1]
    return np.sort(order[new])
