"""Tables in files, such as the pin table and the user table: columnar, mapped, one row a pin or person, sorted by id.

A pin's row number is its identity everywhere behind `prepare`: examples, histories, negatives and index carry rows.
Sorting by id makes the row of an id a binary search, so that opening a table costs nothing, whatever its size.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from convcg.data.feature_encoders import PREFIX, FeatureEncoder
from convcg.errors import DataError
from convcg.features import Kind
from convcg.storage import Location, read_bytes, write_bytes


class RowTable:
    """A memory-mapped Arrow file whose first column is a sorted, distinct string id."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        self._ids = single_chunk(self.table.column(0))

    @classmethod
    def open(cls, location: Location) -> "RowTable":
        """Open a file that `write_table` wrote: mapped where it is local, read into memory where it is remote.

        Raises:
            DataError: the file is missing or no Arrow file.
        """
        try:
            source = pa.memory_map(location.path) if location.is_local else pa.py_buffer(read_bytes(location))
            return cls(pa.ipc.open_file(source).read_all())
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"cannot open the table {location.uri}: {error}. Run the stage that writes it again."
            ) from error

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> pa.Array:
        """The ids, in row order."""
        return self._ids

    def row(self, key: str) -> int | None:
        """The row of one id, by binary search; None where it is unknown."""
        row = bisect_left(self._ids, key, key=_text)
        return row if row < len(self) and self._ids[row].as_py() == key else None

    def rows(self, keys: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
        """The rows of many ids, -1 where unknown or null."""
        found = pc.fill_null(pc.index_in(keys, value_set=self._ids, skip_nulls=True), -1)
        return np.asarray(found, dtype=np.int32)

    def column(self, name: str) -> pa.Array | None:
        """A column by name, or None where the table lacks it."""
        return single_chunk(self.table[name]) if name in self.table.column_names else None


def _text(scalar: Any) -> str:
    return str(scalar.as_py())


def single_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; without a copy, which `combine_chunks` would make, where it is one already."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def write_table(table: pa.Table, location: Location) -> None:
    """Write an uncompressed Arrow file in one record batch, which is what memory-mapping wants.

    Raises:
        StorageError: it cannot be written.
    """
    write_batches(table.combine_chunks().to_batches(), table.schema, location)


def write_batches(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, location: Location, *, compression: str | None = None
) -> None:
    """Write an Arrow file of record batches, each of which can be read by its number.

    Raises:
        StorageError: it cannot be written.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    write_bytes(location, sink.getvalue())


def write_parquet(table: pa.Table, location: Location, *, use_dictionary: bool | list[str] = True) -> None:
    """Write a compressed Parquet file, which appears whole or not at all. `use_dictionary`: for all columns, or these.

    Raises:
        StorageError: it cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=use_dictionary)
    write_bytes(location, sink.getvalue())


def build_pin_table(pins: pa.Table, encoders: Sequence[FeatureEncoder]) -> pa.Table:
    """Canonical pins, sorted by id, with an encoded column for each feature; raw vectors are not kept twice.

    Raises:
        DataError: no pins.
    """
    if pins.num_rows == 0:
        raise DataError("there is no pin; events or a pins table must name at least one.")
    pins = pins.take(pc.array_sort_indices(pins["pin_id"].combine_chunks()))
    encoded = {
        PREFIX + encoder.feature.name: encoder.encode(pins[encoder.feature.name])
        for encoder in encoders
        if encoder.feature.kind.has_column
    }
    vectors = [encoder.feature.name for encoder in encoders if encoder.feature.kind is Kind.VECTOR]
    table = pins.select(["pin_id", *(name for name in pins.column_names if name not in ("pin_id", *vectors))])
    for name, column in encoded.items():
        table = table.append_column(name, column)
    return table


def build_user_table(users: pa.Table) -> pa.Table:
    """User states joined with canonical user rows, sorted by id."""
    return users.take(pc.array_sort_indices(users["user_id"].combine_chunks()))
