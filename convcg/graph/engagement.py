"""Who acted on which pin, as a sparse matrix, and the graph of pins that follows from it.

Shape suffixes: U people, N catalogue.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

#: Rows of similarities that are held at once.
_CHUNK = 2048


def person_by_pin(interactions: Iterable[pa.Table], num_pins: int) -> sp.csr_matrix:
    """[U, N] float32: 1 where a person acted on a pin, however often.

    `interactions` are tables with the columns user (int32, distinct people within a table, and other people in another)
    and pin (int32 rows).
    """
    blocks = [_block(table, num_pins) for table in interactions]
    return sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix((0, num_pins), dtype=np.float32)


def _block(table: pa.Table, num_pins: int) -> sp.csr_matrix:
    user, pin = table["user"].to_numpy(), table["pin"].to_numpy()
    shape = (int(user.max(initial=-1)) + 1, num_pins)
    there = sp.csr_matrix((np.ones(len(user), np.float32), (user, pin)), shape=shape)
    there.data[:] = 1.0  # building it has added up what a person did with a pin
    return there


def degrees(acted_UN: sp.csr_matrix) -> NDArray[np.int64]:
    """[N] int64: how many people acted on each pin."""
    return np.asarray(acted_UN.getnnz(axis=0), np.int64)


def neighbors(acted_UN: sp.csr_matrix, count: int) -> sp.csr_matrix:
    """[N, N] float32, symmetric, without a diagonal: the cosine of the people of two pins, where one of them is among
    the `count` most similar pins of the other; of equals those with smaller rows.
    """
    nearest = cosines(acted_UN @ sp.diags_array(1 / np.sqrt(np.maximum(degrees(acted_UN), 1))), count)
    return sp.csr_matrix(nearest.maximum(nearest.T))


def cosines(unit_UN: sp.csr_matrix, count: int | None) -> sp.csr_matrix:
    """[N, N] float32 dot products of columns of length 1, without the diagonal: the `count` largest of each row, of
    equal ones those with smaller columns; None for all of them. Some rows at a time.
    """
    unit_UN = unit_UN.tocsc().astype(np.float32)
    rows = []
    for start in range(0, unit_UN.shape[1], _CHUNK):
        block = sp.csr_matrix(unit_UN[:, start : start + _CHUNK].T @ unit_UN)
        rows.append(_strongest(block, start, count))
    return sp.vstack(rows, format="csr") if rows else sp.csr_matrix((0, 0), dtype=np.float32)


def _strongest(cosine: sp.csr_matrix, first_row: int, count: int | None) -> sp.csr_matrix:
    """The `count` largest values of each row but its own, which stands at column `first_row` + row."""
    row = np.repeat(np.arange(cosine.shape[0]), np.diff(cosine.indptr))
    other = cosine.indices != row + first_row
    row, column, value = row[other], cosine.indices[other], cosine.data[other]
    if count is not None:
        order = np.lexsort((column, -value, row))
        row, column, value = row[order], column[order], value[order]
        kept = np.arange(len(row)) - np.searchsorted(row, row) < count
        row, column, value = row[kept], column[kept], value[kept]
    return sp.csr_matrix((value, (row, column)), shape=cosine.shape)
