"""The contract's rules about single values and rows, as masks: true marks a broken row."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg import schema
from convcg.data.canonical import Kind, cast, is_list, kind_of
from convcg.data.violation import Rule
from convcg.types import ACTIONS, SURFACES

_EARLIEST = 946_684_800.0  # 2000-01-01T00:00:00Z
_DAY = 86_400.0
_UNITS_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_NEVER_NEGATIVE = ("price", "dwell_seconds")

#: The columns of the events that name pins.
PIN_COLUMNS = ("pin_id", "subject_pin_id")

Broken = tuple[Rule, pa.BooleanArray | pa.ChunkedArray]
BrokenColumn = tuple[str, Rule, pa.BooleanArray | pa.ChunkedArray]


def broken_rows(rows: pa.RecordBatch | pa.Table, table: schema.Table, *, now: float) -> Iterator[BrokenColumn]:
    """Each column of the contract and rule that applies to its values, with its mask, in the order of the contract.

    The columns have accepted types; further ones are left alone. `now` (seconds since the epoch) says where the future
    begins: one moment for all batches, so that a row that is broken once is broken always.
    """
    present = [column for column in table.columns if column.name in rows.schema.names]
    for column in present:
        for rule, bad in _broken_values(column, rows.column(column.name), now):
            yield column.name, rule, bad
    if {"reported_at", "timestamp"} <= {column.name for column in present}:
        early = pc.less(_epoch_seconds(rows.column("reported_at")), _epoch_seconds(rows.column("timestamp")))
        yield "reported_at", Rule.REPORTED_BEFORE, early


def unknown_pins(rows: pa.RecordBatch | pa.Table, pin_ids: pa.Array) -> Iterator[BrokenColumn]:
    """Each column of the events that names pins, with the mask of those that are not among `pin_ids` (strings)."""
    for name in PIN_COLUMNS:
        if name in rows.schema.names:
            ids = cast(rows.column(name), schema.EVENTS.by_name[name])
            yield name, Rule.UNKNOWN_PIN, pc.and_(pc.invert(pc.is_in(ids, value_set=pin_ids)), ids.is_valid())


def as_mask(bad: pa.BooleanArray | pa.ChunkedArray) -> NDArray[np.bool_]:
    """A mask of this module for NumPy: a rule that cannot be decided for a null is not broken by it."""
    return np.asarray(pc.fill_null(bad, False), dtype=bool)


def count_broken(found: Iterable[BrokenColumn], num_rows: int) -> int:
    """How many of `num_rows` rows break at least one of the rules: a row that breaks several counts once."""
    broken = np.zeros(num_rows, dtype=bool)
    for _, _, bad in found:
        broken |= as_mask(bad)
    return int(broken.sum())


def _broken_values(column: schema.Column, values: pa.Array | pa.ChunkedArray, now: float) -> Iterator[Broken]:
    kind = kind_of(column)
    if "or null" not in column.accepts:
        yield Rule.NULL, values.is_null()
    if kind is Kind.TIME:
        seconds = _epoch_seconds(values)
        too_late = pc.greater(seconds, now + _DAY)
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


def _epoch_seconds(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    # In float64, because milliseconds taken for seconds would overflow a cast to microseconds.
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not pa.types.is_timestamp(values.type):
        return values.cast(pa.float64(), safe=False)
    return pc.divide(values.cast(pa.int64()).cast(pa.float64(), safe=False), _UNITS_PER_SECOND[values.type.unit])


def _not_among(values: pa.Array | pa.ChunkedArray, allowed: Sequence[str]) -> pa.BooleanArray | pa.ChunkedArray:
    return pc.invert(pc.is_in(values, value_set=pa.array(allowed, pa.string())))


def _rows_with(lists: pa.Array, bad_items: pa.BooleanArray) -> pa.BooleanArray:
    # `bad_items` is aligned with the flattened lists.
    rows = np.zeros(len(lists), dtype=bool)
    rows[pc.list_parent_indices(lists).to_numpy()[bad_items.to_numpy(zero_copy_only=False)]] = True
    return pa.array(rows)
