"""Pins similar to those in the history, by who acted on both."""

import numpy as np
import scipy.sparse as sp

from convcg.baselines.interface import Histories, Scores, TrainingLog

_PINS_AT_ONCE = 2048


class ItemItem:
    """The cosine between the columns of the person x pin matrix of all actions, summed over the history.

    Each pin keeps its `num_neighbours` most similar ones (None: all).
    """

    def __init__(self, log: TrainingLog, *, num_neighbours: int | None) -> None:
        weights = log.matrix().tocsc()
        norm = np.sqrt(np.asarray(weights.multiply(weights).sum(0)).ravel())
        unit = (weights @ sp.diags(1 / np.maximum(norm, 1e-12))).tocsc().astype(np.float32)
        self._similarity = _similarities(unit, num_neighbours)

    def scores(self, histories: Histories) -> Scores:
        """See `Baseline`."""
        weight_BN = histories.matrix(self._similarity.shape[0])
        scores: Scores = (weight_BN @ self._similarity).toarray()
        return scores


def _similarities(unit: sp.csc_matrix, num_neighbours: int | None) -> sp.csr_matrix:
    """[N, N] sparse cosines without the diagonal, worked out some rows at a time."""
    rows = []
    for start in range(0, unit.shape[1], _PINS_AT_ONCE):
        block = (unit[:, start : start + _PINS_AT_ONCE].T @ unit).tocoo()
        other = block.row + start != block.col
        apart = sp.csr_matrix((block.data[other], (block.row[other], block.col[other])), shape=block.shape)
        rows.append(apart if num_neighbours is None else _strongest(apart, num_neighbours))
    return sp.vstack(rows, format="csr")


def _strongest(block: sp.csr_matrix, num_neighbours: int) -> sp.csr_matrix:
    """The largest entries of each row; of equal ones those that stand first."""
    row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    order = np.lexsort((-block.data, row))
    kept = order[np.arange(len(order)) - block.indptr[row] < num_neighbours]  # `order` keeps the rows where they are
    return sp.csr_matrix((block.data[kept], (row[kept], block.indices[kept])), shape=block.shape)
