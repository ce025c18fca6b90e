"""One row a pin (or person) from rows that come in any number of batches: the last known value of each column."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

_FEWEST_PENDING = 1 << 18


class Latest:
    """Holds the distinct ids in memory, with the last value of each column that was not null, in the order of `add`.

    `types` has the id's column first. Only as many rows as there are distinct ids stay, give or take a factor of three.
    """

    def __init__(self, types: Mapping[str, pa.DataType]) -> None:
        self._schema = pa.schema(list(types.items()))
        self._parts = [self._schema.empty_table()]
        self._kept = 0

    def add(self, rows: Mapping[str, pa.Array | pa.ChunkedArray]) -> None:
        """Take rows; columns that are not given count as null. Ids must not be null."""
        count = len(rows[self._schema.names[0]])
        columns = [
            rows[field.name].cast(field.type) if field.name in rows else pa.nulls(count, field.type)
            for field in self._schema
        ]
        self._parts.append(self._last_of(pa.table(columns, schema=self._schema)))
        if sum(part.num_rows for part in self._parts[1:]) > max(_FEWEST_PENDING, self._kept):
            self._compact()

    def table(self) -> pa.Table:
        """One row an id, in the order of the ids."""
        self._compact()
        return self._parts[0].sort_by(self._schema.names[0])

    def _compact(self) -> None:
        self._parts = [self._last_of(pa.concat_tables(self._parts))]
        self._kept = self._parts[0].num_rows

    def _last_of(self, rows: pa.Table) -> pa.Table:
        key, *others = self._schema.names
        encoded = rows[key].combine_chunks().dictionary_encode()
        code, count = encoded.indices.to_numpy(), len(encoded.dictionary)
        columns = [encoded.dictionary]
        for name in others:
            values = rows[name].combine_chunks()
            known = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
            last = np.full(count, -1)
            last[code[known]] = known  # where an id occurs more than once, NumPy keeps the last
            columns.append(values.take(pa.array(last, mask=last < 0)))
        return pa.table(columns, schema=self._schema)
