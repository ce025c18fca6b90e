"""The contract's rules about single values, as masks over one batch of one column: true marks a broken row."""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convcg import schema
from convcg.data.canonical import Kind, cast, is_list, kind_of
from convcg.data.violation import Rule
from convcg.types import ACTIONS, SURFACES

_EARLIEST = 946_684_800.0  # 2000-01-01T00:00:00Z
_DAY = 86_400.0
_UNITS_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_NEVER_NEGATIVE = ("price", "dwell_seconds")

Broken = tuple[Rule, pa.BooleanArray]


def broken_values(column: schema.Column, values: pa.Array) -> Iterator[Broken]:
    """Each rule that applies to a column of the contract, with its mask; `values` have an accepted type."""
    kind = kind_of(column)
    if "or null" not in column.accepts:
        yield Rule.NULL, values.is_null()
    if kind is Kind.TIME:
        seconds = _epoch_seconds(values)
        too_late = pc.greater(seconds, time.time() + _DAY)
        yield Rule.TIME_OUT_OF_RANGE, pc.or_(pc.less(seconds, _EARLIEST), too_late)
        return
    values = cast(values, column)
    if kind is Kind.ID:
        yield Rule.EMPTY_ID, pc.equal(values, "")
    elif kind is Kind.NUMBER:
        yield Rule.NOT_FINITE, pc.invert(pc.is_finite(values))
        if column.name in _NEVER_NEGATIVE:
            yield Rule.NEGATIVE, pc.and_(pc.less(values, 0), pc.is_finite(values))
    elif column.name == "action":
        yield Rule.UNKNOWN_ACTION, pc.and_(_not_among(values, ACTIONS), values.is_valid())
    elif column.name == "surface":
        yield Rule.UNKNOWN_SURFACE, pc.and_(_not_among(values, SURFACES), values.is_valid())
    elif column.name == "surfaces":
        yield Rule.UNKNOWN_SURFACE, _rows_with(values, _not_among(pc.list_flatten(values), SURFACES))


def reported_before(reported_at: pa.Array, timestamp: pa.Array) -> Broken:
    """The rows that are reported before they happen; both columns have types that a time column accepts."""
    return Rule.REPORTED_BEFORE, pc.less(_epoch_seconds(reported_at), _epoch_seconds(timestamp))


def is_vector(found: pa.DataType) -> bool:
    """Whether a type is a list of floats."""
    return is_list(found) and bool(pa.types.is_floating(found.value_type))


def vectors_not_finite(vectors: pa.Array) -> Broken:
    """The vectors with a NaN, an infinity or a null in them; `vectors` itself holds no null."""
    finite = pc.fill_null(pc.is_finite(pc.list_flatten(vectors)), False)
    return Rule.NOT_FINITE, _rows_with(vectors, pc.invert(finite))


def vectors_of_other_length(vectors: pa.Array, length: int) -> Broken:
    """The vectors that do not have `length` entries; `vectors` itself holds no null."""
    return Rule.UNEQUAL_VECTORS, pc.not_equal(pc.list_value_length(vectors), length)


def _epoch_seconds(values: pa.Array) -> pa.Array:
    # In float64, because milliseconds taken for seconds would overflow a cast to microseconds.
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not pa.types.is_timestamp(values.type):
        return values.cast(pa.float64(), safe=False)
    return pc.divide(values.cast(pa.int64()).cast(pa.float64(), safe=False), _UNITS_PER_SECOND[values.type.unit])


def _not_among(values: pa.Array, allowed: Sequence[str]) -> pa.BooleanArray:
    return pc.invert(pc.is_in(values, value_set=pa.array(allowed, pa.string())))


def _rows_with(lists: pa.Array, bad_items: pa.BooleanArray) -> pa.BooleanArray:
    # `bad_items` is aligned with the flattened lists.
    rows = np.zeros(len(lists), dtype=bool)
    rows[pc.list_parent_indices(lists).to_numpy()[bad_items.to_numpy(zero_copy_only=False)]] = True
    return pa.array(rows)
