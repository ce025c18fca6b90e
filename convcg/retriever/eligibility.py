"""Which pins a request may see: eligibility for surface and country, stock, and the request's own filters, as bitmaps.

A bitmap is computed once for each distinct rule and kept, so that requests with the same rule share one search.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg.data.feature_encoders import PREFIX
from convcg.data.tables import RowTable
from convcg.errors import RequestError
from convcg.types import Filter, Range, Surface

#: Memory for the bitmaps that are kept, and how many that may be.
_BYTES_KEPT = 128 << 20
_FEWEST_KEPT, _MOST_KEPT = 16, 256
#: Columns that eligibility itself reads; a request cannot filter on them.
_RESERVED = frozenset({"pin_id", "surfaces", "countries", "in_stock"})


@dataclass(frozen=True, slots=True)
class Rule:
    """What a pin must satisfy. Hashable, so that equal rules share one bitmap."""

    surface: Surface
    country: str | None
    filters: tuple[tuple[str, Filter], ...]


class Eligibility:
    """Evaluates rules over the rows first..end of a pin table."""

    def __init__(self, pins: RowTable, first: int = 0, end: int | None = None) -> None:
        self._table = pins.table.slice(first, (len(pins) if end is None else end) - first)
        names = (field.name for field in self._table.schema if not pa.types.is_nested(field.type))
        self._filterable = [name for name in names if not name.startswith(PREFIX) and name not in _RESERVED]
        kept = _BYTES_KEPT // max(self._table.num_rows, 1)
        self.mask = lru_cache(maxsize=min(max(kept, _FEWEST_KEPT), _MOST_KEPT))(self._mask)

    def rule(self, surface: Surface, country: str | None, filters: Mapping[str, Filter]) -> Rule:
        """Check a request's filters and make them a rule.

        Raises:
            RequestError: a filter names a column that pins do not have, or does not fit its type.
        """
        for name, wanted in filters.items():
            if name not in self._filterable:
                known = ", ".join(self._filterable) or "none"
                raise RequestError(f"filter {name!r} is no column of the pins. Filterable columns: {known}.")
            _check_fits(name, wanted, self._table.schema.field(name).type)
        limited = country if "countries" in self._table.column_names else None
        return Rule(surface, limited, tuple(sorted(filters.items())))

    def _mask(self, rule: Rule) -> NDArray[np.bool_] | None:
        """[rows] bool, True where the pin is allowed; None where all are."""
        allowed = np.ones(self._table.num_rows, bool)
        if "in_stock" in self._table.column_names:
            allowed &= np.asarray(pc.fill_null(self._table["in_stock"], True))
        allowed &= self._lists_hold("surfaces", rule.surface.value)
        if rule.country is not None:
            allowed &= self._lists_hold("countries", rule.country)
        for name, wanted in rule.filters:
            allowed &= _matches(self._table[name], wanted)
        allowed.flags.writeable = False
        return None if allowed.all() else allowed

    def _lists_hold(self, name: str, value: str) -> NDArray[np.bool_]:
        """True where the list holds the value or is null; all True without the column."""
        if name not in self._table.column_names:
            return np.ones(self._table.num_rows, bool)
        column = self._table[name].combine_chunks()
        held = np.array(column.is_null())
        held[np.asarray(pc.list_parent_indices(column))[np.asarray(pc.equal(pc.list_flatten(column), value))]] = True
        return held


def _check_fits(name: str, wanted: Filter, column: pa.DataType) -> None:
    text = pa.types.is_string(_decoded(column)) or pa.types.is_large_string(_decoded(column))
    values = wanted if isinstance(wanted, tuple) else (wanted,)
    if isinstance(wanted, Range):
        fits, rule = not text and not pa.types.is_boolean(column), "a range needs a numeric column"
    elif text:
        fits, rule = all(isinstance(value, str) for value in values), "give a string or a list of strings"
    else:
        fits, rule = not any(isinstance(value, str) for value in values), "give a number, or min and max"
    if fits:
        try:  # on no rows: Arrow looks at types alone
            _matches(pa.chunked_array([], column), wanted)
            return
        except (pa.ArrowException, OverflowError) as error:
            rule = str(error)
    raise RequestError(f"filter {name!r} = {wanted!r} does not fit its column of type {column}: {rule}.")


def _matches(column: pa.ChunkedArray, wanted: Filter) -> NDArray[np.bool_]:
    column = column.cast(_decoded(column.type))
    if isinstance(wanted, Range):
        result = np.ones(len(column), bool)
        if wanted.min is not None:
            result &= np.asarray(pc.fill_null(pc.greater_equal(column, _bound(wanted.min, column.type)), False))
        if wanted.max is not None:
            result &= np.asarray(pc.fill_null(pc.less_equal(column, _bound(wanted.max, column.type)), False))
        return result
    values = list(wanted) if isinstance(wanted, tuple) else [wanted]
    return np.asarray(pc.is_in(column, value_set=pa.array(values).cast(column.type)))


def _bound(value: float, column: pa.DataType) -> pa.Scalar:
    """A bound as a float column would hold it, so that 19.99 as a float32 is not below 19.99."""
    return pa.scalar(value).cast(column) if pa.types.is_floating(column) else pa.scalar(value)


def _decoded(column: pa.DataType) -> pa.DataType:
    return column.value_type if pa.types.is_dictionary(column) else column
