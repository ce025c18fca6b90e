"""Shards of pin embeddings, and the merge of what they find.

An answer must not depend on the backend, on how many shards there are, or on which other requests happened to share a
batch. So backends only propose rows: a shard scores them again in float64 (rounded to float32), asks for more until no
row that was left out can belong to the answer, and breaks ties by row.

Shape suffixes: B queries, N pins of the shard, k results, d width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from convcg.index.backends import BackendKind, Float32, Int64, Mask, create_backend
from convcg.setting import Settings

#: Proposed beyond k, so that near-ties at the cut are seldom left unsettled.
_SPARE = 16
#: By how much a proposal grows that did leave one unsettled (many pins of nearly the same score).
_GROWTH = 8
#: Rows whose lengths are taken at once.
_BLOCK = 65_536


class IndexConfig(Settings):
    """How the catalogue is cut and searched."""

    backend: BackendKind = BackendKind.FAISS
    num_shards: int = Field(default=2, ge=1)
    #: Index this many of an embedding's first numbers, one of `model.prefixes`: less memory, a faster search, a little
    #: less recall. None for all of them.
    dim: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """Search results, best first. score: [B, k] float32, -inf where there is none. row: [B, k] int64, -1 there."""

    score: Float32
    row: Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Bonus:
    """What is added to the scores of some rows for one query.

    row: [R] int64, distinct rows of the catalogue.  amount: 0 or more.
    """

    row: Int64
    amount: float


class Shard:
    """A contiguous range of the catalogue's rows, starting at `first_row`."""

    def __init__(self, vectors_Nd: Float32, *, first_row: int, backend: BackendKind) -> None:
        self.first_row = first_row
        self._vectors = np.asarray(vectors_Nd)  # a memory map's own indexing is several times slower
        self._backend = create_backend(backend, self._vectors)
        # A float32 dot product, whatever its order of summation, is off by at most d / 2^24 of the product of the two
        # lengths (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1), and rounding it adds one
        # more. Twice, because the worst proposed row and the best row left out may be off in opposite directions.
        longest = np.sqrt(max((_squares(block).max() for block in _blocks(self._vectors)), default=0.0))
        self._uncertainty = 2 * (vectors_Nd.shape[1] + 2) * 2.0**-24 * longest

    def __len__(self) -> int:
        return len(self._vectors)

    def search(
        self, query_Bd: Float32, k: int, allowed_N: Mask | None = None, bonuses: Sequence[Bonus | None] = ()
    ) -> Hits:
        """The k rows (catalogue numbering) with the largest dot products, of all or of `allowed_N` ([N] bool).

        `bonuses`, one a query where there are any, are added to the scores before the best are taken.
        """
        found = self._nearest(query_Bd, k, allowed_N)
        for place, bonus in enumerate(bonuses):
            if bonus is not None:
                best = self._with_bonus(found, place, query_Bd, allowed_N, bonus)
                found.score[place], found.row[place] = best.score[0], best.row[0]
        return found

    def _nearest(self, query_Bd: Float32, k: int, allowed_N: Mask | None) -> Hits:
        k = min(k, len(self))
        found = Hits(
            score=np.full((len(query_Bd), k), -np.inf, np.float32), row=np.full((len(query_Bd), k), -1, np.int64)
        )
        width, open_queries = k + _SPARE, np.arange(len(query_Bd))
        uncertainty_B = self._uncertainty * np.sqrt(_squares(query_Bd))
        while k and len(open_queries):
            proposed = self._backend.search(query_Bd[open_queries], width, allowed_N)
            score = self._score(query_Bd[open_queries], proposed)
            best = _best(score, np.where(proposed < 0, -1, proposed + self.first_row), k)
            found.score[open_queries], found.row[open_queries] = best.score, best.row
            settled = best.score[:, -1] > score.min(1) + uncertainty_B[open_queries]
            settled |= (proposed < 0).any(1) | (proposed.shape[1] == len(self))
            open_queries, width = open_queries[~settled], width * _GROWTH
        return found

    def _with_bonus(self, found: Hits, place: int, query_Bd: Float32, allowed_N: Mask | None, bonus: Bonus) -> Hits:
        """[1, k]: what was found for one query, and all rows that have the bonus, with it.

        No other row can belong to it: the k that were found still outrank it, as none of them has lost anything.
        """
        own_R = bonus.row[(bonus.row >= self.first_row) & (bonus.row < self.first_row + len(self))] - self.first_row
        if allowed_N is not None:
            own_R = own_R[allowed_N[own_R]]
        score_R = self._score(query_Bd[place : place + 1], own_R[None])[0] + np.float32(bonus.amount)
        row_R = own_R + self.first_row
        is_other = ~np.isin(found.row[place], row_R)
        score = np.concatenate([np.where(is_other, found.score[place], np.float32(-np.inf)), score_R])
        row = np.concatenate([np.where(is_other, found.row[place], -1), row_R])
        return _best(score[None], row[None], found.row.shape[1])

    def _score(self, query_Bd: Float32, rows: Int64) -> Float32:
        """Dot products summed row by row, since a matrix product's last bits depend on how many rows it has."""
        score = np.full(rows.shape, -np.inf, np.float32)
        for query, proposed, out in zip(query_Bd.astype(np.float64), rows, score, strict=True):
            present = proposed >= 0
            out[present] = (self._vectors[proposed[present]] * query).sum(1)
        return score


def _blocks(vectors_Nd: Float32) -> Iterator[Float32]:
    """All rows, some at a time."""
    for first in range(0, len(vectors_Nd), _BLOCK):
        yield vectors_Nd[first : first + _BLOCK]


def _squares(vectors_Nd: Float32) -> NDArray[np.float64]:
    """[N]: the squares of their lengths."""
    squares: NDArray[np.float64] = np.square(vectors_Nd, dtype=np.float64).sum(1)
    return squares


def _best(score: NDArray[np.float32], row: Int64, k: int) -> Hits:
    order = np.lexsort((row, -score), axis=1)[:, :k]
    return Hits(score=np.take_along_axis(score, order, 1), row=np.take_along_axis(row, order, 1))


def merge(parts: Sequence[Hits], k: int) -> Hits:
    """The best k of several shards' results, ties by row: what one shard over all rows would have returned."""
    return _best(np.concatenate([part.score for part in parts], 1), np.concatenate([part.row for part in parts], 1), k)


def shard_bounds(num_pins: int, num_shards: int) -> list[tuple[int, int]]:
    """Cut rows 0..num_pins into contiguous ranges of nearly equal length, (first, end) each; no empty ones."""
    borders = np.linspace(0, num_pins, num_shards + 1).astype(int)
    return [(int(first), int(end)) for first, end in zip(borders[:-1], borders[1:], strict=True) if end > first]
