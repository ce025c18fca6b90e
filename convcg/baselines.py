"""Baselines that a trained model has to beat, behind one interface: a score for every pin, for each query.

Shape suffixes: B queries, N catalogue.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from convcg.types import ACTION_CODE, ACTIONS, Action

#: What an action says about interest, for baselines that use all of them.
ACTION_WEIGHT = {Action.CLICK: 1.0, Action.REPIN: 1.0, Action.ADD_TO_CART: 2.0, Action.CHECKOUT: 3.0}
_WEIGHT_BY_CODE = np.array([ACTION_WEIGHT.get(action, 0.0) for action in ACTIONS], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """The histories of some queries: parallel lists of arrays, pin rows (int32) and action codes (int8)."""

    pins: Sequence[NDArray[np.int32]]
    actions: Sequence[NDArray[np.int8]]

    def __len__(self) -> int:
        return len(self.pins)

    def matrix(self, num_pins: int) -> sp.csr_matrix:
        """[B, N] float32: the weight of each query's strongest action on each pin."""
        query = np.repeat(np.arange(len(self)), [len(pins) for pins in self.pins])
        pins = np.concatenate(self.pins) if len(self) else np.zeros(0, np.int32)
        actions = np.concatenate(self.actions) if len(self) else np.zeros(0, np.int8)
        return _strongest_action(query, pins, actions, shape=(len(self), num_pins))


class Baseline(Protocol):
    """Scores the catalogue."""

    name: str

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """[B, N] float32, larger is better."""
        ...


class Popularity:
    """The pins most often checked out in the training time; the same for everybody."""

    name = "popularity"

    def __init__(self, interactions: Iterable[pa.Table], num_pins: int) -> None:
        self._count = np.zeros(num_pins, np.float32)
        for table in interactions:
            bought = table["pin"].to_numpy()[table["action"].to_numpy() == ACTION_CODE[Action.CHECKOUT]]
            self._count += np.bincount(bought, minlength=num_pins)

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """See `Baseline`."""
        return np.tile(self._count, (len(histories), 1))


class ItemItem:
    """Pins similar to those in the history: the cosine between the columns of the person x pin matrix of all actions.

    Each pin keeps its `num_neighbours` most similar ones (None: all).
    """

    name = "item_item"

    def __init__(self, interactions: Iterable[pa.Table], num_pins: int, *, num_neighbours: int | None) -> None:
        parts = [_person_by_pin(table, num_pins) for table in interactions]
        weights = sp.vstack(parts, format="csc") if parts else sp.csc_matrix((0, num_pins), dtype=np.float32)
        norm = np.sqrt(np.asarray(weights.multiply(weights).sum(0)).ravel())
        unit = (weights @ sp.diags(1 / np.maximum(norm, 1e-12))).tocsc().astype(np.float32)
        self._similarity = _similarities(unit, num_neighbours)

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """See `Baseline`."""
        weight_BN = histories.matrix(self._similarity.shape[0])
        scores: NDArray[np.float32] = (weight_BN @ self._similarity).toarray()
        return scores


def _person_by_pin(table: pa.Table, num_pins: int) -> sp.csr_matrix:
    user = table["user"].to_numpy()
    shape = (int(user.max(initial=-1)) + 1, num_pins)
    return _strongest_action(user, table["pin"].to_numpy(), table["action"].to_numpy(), shape=shape)


def _strongest_action(
    row: NDArray[np.integer], pin: NDArray[np.integer], action: NDArray[np.integer], *, shape: tuple[int, int]
) -> sp.csr_matrix:
    """The largest weight for each (row, pin). Buying what was clicked is one interest, not two: not the sum."""
    strongest = sp.csr_matrix(shape, dtype=np.float32)
    for code in np.unique(action):
        chosen = action == code
        there = sp.csr_matrix((np.ones(chosen.sum(), np.float32), (row[chosen], pin[chosen])), shape=shape)
        there.data[:] = _WEIGHT_BY_CODE[code]
        strongest = strongest.maximum(there)
    return strongest


def _similarities(unit: Any, num_neighbours: int | None, chunk: int = 2048) -> sp.csr_matrix:
    """[N, N] sparse cosines without the diagonal, in chunks of rows."""
    rows = []
    for start in range(0, unit.shape[1], chunk):
        block = (unit[:, start : start + chunk].T @ unit).tolil()
        block.setdiag(0, k=start)
        rows.append(_strongest(block.tocsr(), num_neighbours))
    return sp.vstack(rows, format="csr")


def _strongest(block: sp.csr_matrix, num_neighbours: int | None) -> sp.csr_matrix:
    block.eliminate_zeros()
    if num_neighbours is None:
        return block
    kept = np.zeros(block.nnz, bool)
    for first, end in zip(block.indptr[:-1], block.indptr[1:], strict=True):
        strongest = np.argsort(-block.data[first:end], kind="stable")[:num_neighbours]
        kept[first + strongest] = True
    block.data[~kept] = 0
    block.eliminate_zeros()
    return block
