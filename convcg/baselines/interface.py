"""What every baseline is given, and what it returns.

Shape suffixes: B queries, N catalogue.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from convcg.types import ACTIONS, Action

Scores = NDArray[np.float32]

#: What an action says about interest, for baselines that use all of them.
ACTION_WEIGHT = {Action.CLICK: 1.0, Action.REPIN: 1.0, Action.ADD_TO_CART: 2.0, Action.CHECKOUT: 3.0}
WEIGHT_BY_CODE = np.array([ACTION_WEIGHT.get(action, 0.0) for action in ACTIONS], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """What everybody did in the training time, impressions left out.

    `tables` gives, each time it is called, tables of some whole people: user (int32, distinct people within a table,
    and other people in another), pin (int32 rows), action (int8 codes) and known (int64 microseconds since the epoch),
    a person's rows together, in the order of `known`. `until` is the end of the training time, likewise.
    """

    tables: Callable[[], Iterable[pa.Table]]
    num_pins: int
    until: int

    def matrix(self) -> sp.csr_matrix:
        """[people, N] float32: the weight of each person's strongest action on each pin."""
        parts = []
        for table in self.tables():
            user = table["user"].to_numpy()
            shape = (int(user.max(initial=-1)) + 1, self.num_pins)
            parts.append(_strongest_action(user, table["pin"].to_numpy(), table["action"].to_numpy(), shape=shape))
        return sp.vstack(parts, format="csr") if parts else sp.csr_matrix((0, self.num_pins), dtype=np.float32)

    def counts(self, actions: Iterable[int], *, since: int | None = None) -> Scores:
        """[N] float32: how often each pin was acted on in one of these ways (codes), from `since` on."""
        total = np.zeros(self.num_pins, np.float32)
        codes = list(actions)
        for table in self.tables():
            counted = np.isin(table["action"].to_numpy(), codes)
            if since is not None:
                counted &= table["known"].to_numpy() >= since
            total += np.bincount(table["pin"].to_numpy()[counted], minlength=self.num_pins)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """The histories of some queries: parallel lists of arrays, pin rows (int32) and action codes (int8), oldest first.

    They are what the model is shown, too: as long as the recipe's history, with its choice of actions.
    """

    pins: Sequence[NDArray[np.int32]]
    actions: Sequence[NDArray[np.int8]]

    def __len__(self) -> int:
        return len(self.pins)

    def flat(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int8], NDArray[np.int64]]:
        """Parallel arrays, one entry an action: its query, pin, action, and how many later ones the query knows."""
        length = np.array([len(pins) for pins in self.pins], np.int64)
        query = np.repeat(np.arange(len(self)), length)
        later = np.repeat(np.cumsum(length), length) - 1 - np.arange(length.sum())
        pins = np.concatenate(self.pins) if len(self) else np.zeros(0, np.int32)
        actions = np.concatenate(self.actions) if len(self) else np.zeros(0, np.int8)
        return query, pins, actions, later

    def matrix(self, num_pins: int) -> sp.csr_matrix:
        """[B, N] float32: the weight of each query's strongest action on each pin."""
        query, pins, actions, _ = self.flat()
        return _strongest_action(query, pins, actions, shape=(len(self), num_pins))


class Baseline(Protocol):
    """Scores the catalogue."""

    def scores(self, histories: Histories) -> Scores:
        """[B, N] float32, larger is better."""
        ...


def _strongest_action(
    row: NDArray[np.integer], pin: NDArray[np.integer], action: NDArray[np.integer], *, shape: tuple[int, int]
) -> sp.csr_matrix:
    """The largest weight for each (row, pin). Buying what was clicked is one interest, not two: not the sum."""
    strongest = sp.csr_matrix(shape, dtype=np.float32)
    for code in np.unique(action):
        chosen = action == code
        there = sp.csr_matrix((np.ones(chosen.sum(), np.float32), (row[chosen], pin[chosen])), shape=shape)
        there.data[:] = WEIGHT_BY_CODE[code]
        strongest = strongest.maximum(there)
    return strongest
