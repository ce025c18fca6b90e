"""Which Arrow types a column of the contract may have, and the cast to the one type that the pipeline works with."""

from collections.abc import Callable
from enum import Enum

import pyarrow as pa

from convcg import schema
from convcg.errors import DataError


class Kind(Enum):
    """What a column of the contract holds, whatever its Arrow type in a file."""

    ID = "id"
    TIME = "time"
    TEXT = "text"
    NUMBER = "number"
    FLAG = "flag"
    TEXTS = "texts"


_KIND_OF_TYPE = {
    schema.TIMESTAMP: Kind.TIME,
    pa.string(): Kind.TEXT,
    pa.float32(): Kind.NUMBER,
    pa.bool_(): Kind.FLAG,
    pa.list_(pa.string()): Kind.TEXTS,
}


def _is_text(found: pa.DataType) -> bool:
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))


def _is_number(found: pa.DataType) -> bool:
    return bool(pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found))


def is_list(found: pa.DataType) -> bool:
    """Whether a type is a list of any layout."""
    return bool(pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found))


def _is_texts(found: pa.DataType) -> bool:
    return is_list(found) and _is_text(_decoded(found.value_type))


_FITS: dict[Kind, Callable[[pa.DataType], bool]] = {
    Kind.ID: lambda found: _is_text(found) or pa.types.is_integer(found),
    Kind.TIME: lambda found: pa.types.is_timestamp(found) or pa.types.is_integer(found),
    Kind.TEXT: _is_text,
    Kind.NUMBER: _is_number,
    Kind.FLAG: lambda found: pa.types.is_boolean(found),
    Kind.TEXTS: _is_texts,
}


def _decoded(found: pa.DataType) -> pa.DataType:
    return found.value_type if pa.types.is_dictionary(found) else found


def kind_of(column: schema.Column) -> Kind:
    """What a column of the contract holds."""
    return Kind.ID if column.name.endswith("_id") else _KIND_OF_TYPE[column.type]


def accepts(column: schema.Column, found: pa.DataType) -> bool:
    """Whether a file may hold `column` as `found`; dictionary encoding is fine, so is a column of nulls alone."""
    return bool(pa.types.is_null(found) or _FITS[kind_of(column)](_decoded(found)))


def cast(values: pa.Array | pa.ChunkedArray, column: schema.Column) -> pa.Array | pa.ChunkedArray:
    """Values of an accepted type as the canonical type of their column: same length, nulls stay null.

    Integers in a time column are seconds since the epoch; naive timestamps are UTC; finer units than
    microseconds are truncated.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if kind_of(column) is Kind.TIME and pa.types.is_integer(values.type):
        values = values.cast(pa.int64()).cast(pa.timestamp("s"))
    return values.cast(column.type, safe=False)


def canonical(rows: pa.Table, table: schema.Table) -> pa.Table:
    """The same rows: the contract's columns first, in its order and types, then the further columns as they are.

    Optional columns that are absent become nulls. Values are not checked: that is `validate_tables`' work.

    Raises:
        DataError: a required column is missing, or a column has a type that the contract does not accept.
    """
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for column in table.columns:
        if column.name in rows.column_names:
            values = rows.column(column.name)
            if not accepts(column, values.type):
                raise DataError(
                    f"{table.name}.{column.name} is {values.type}, but must be {column.accepts}. "
                    "Convert the column, then validate the tables again."
                )
            columns[column.name] = cast(values, column)
        elif column.required:
            raise DataError(f"{table.name} has no column {column.name}, which is required: {column.accepts}. Add it.")
        else:
            columns[column.name] = pa.nulls(rows.num_rows, column.type)
    further = {name: rows.column(name) for name in rows.column_names if name not in columns}
    return pa.table(columns | further)
