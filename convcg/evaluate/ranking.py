"""Where the targets of held-out queries rank, by a bundle or by any scores of the whole catalogue.

Shape suffixes: B queries, N catalogue, n length of a list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from convcg.data.tables import RowTable
from convcg.evaluate.queries import requests
from convcg.log import progress
from convcg.metrics import NOT_RETRIEVED, ListCounts, left_out, rank_in_lists, rank_of_target
from convcg.retriever.retriever import Retriever
from convcg.types import Answer
from convcg.validation import lists

Ints = NDArray[np.int64]
Scores = NDArray[np.float32]

_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One system's ranks of the targets ([B] int64), in the catalogue and among the served pins (None where the log
    does not say which they are), and how often it lists each pin. Ranks among served pins are exact up to `served_to`.
    """

    rank: Ints
    served: Ints | None
    served_to: int
    lists: ListCounts


def rank_bundle(
    retriever: Retriever,
    queries: pa.Table,
    pins: RowTable,
    *,
    ks: Sequence[int],
    counts: Sequence[str],
    served_N: NDArray[np.bool_] | None,
    deepest: int,
) -> Ranked:
    """The ranks that the retriever gives, exact up to the largest k and `NOT_RETRIEVED` beyond.

    For the ranks among served pins the lists are made longer by as many pins as were never served, up to `deepest` in
    all: where that is too short, those ranks are exact for a smaller k only, or for none.
    """
    # One more than asked about: only so is a tie across the cut seen.
    enough = max(ks) + 1
    unserved = 0 if served_N is None else int((~served_N).sum())
    length = max(enough, min(enough + unserved, deepest))
    ranks, served, counted = [], [], ListCounts(len(pins), ks)
    with progress("retrieving", total=queries.num_rows) as meter:
        for start in range(0, queries.num_rows, _BATCH):
            batch = queries.slice(start, _BATCH)
            answers = retriever.retrieve(list(requests(batch, pins, k=length, counts=counts)))
            score_Bn, row_Bn = _as_arrays(answers, pins)
            target = batch["target"].to_numpy()
            ranks.append(rank_in_lists(score_Bn, row_Bn, target))
            if served_N is not None:
                served.append(rank_in_lists(score_Bn, row_Bn, target, served_N))
            counted.add(score_Bn[:, :enough], row_Bn[:, :enough])
            meter.advance(batch.num_rows)
    cut = [np.where(rank <= max(ks), rank, NOT_RETRIEVED) for rank in (_joined(ranks), _joined(served))]
    return Ranked(
        rank=cut[0],
        served=None if served_N is None else cut[1],
        served_to=max(0, length - 1 - unserved),
        lists=counted,
    )


def _as_arrays(answers: Sequence[Answer], pins: RowTable) -> tuple[Scores, Ints]:
    """[B, n] scores and catalogue rows of the candidates; shorter lists are filled up with -inf and row -1."""
    length = np.array([len(answer.candidates) for answer in answers])
    there = np.arange(length.max(initial=0)) < length[:, None]
    ids = [candidate.pin_id for answer in answers for candidate in answer.candidates]
    score_Bn, row_Bn = np.full(there.shape, -np.inf, np.float32), np.full(there.shape, -1, np.int64)
    score_Bn[there] = [candidate.score for answer in answers for candidate in answer.candidates]
    row_Bn[there] = pins.rows(pa.array(ids, pa.string()))
    return score_Bn, row_Bn


def rank_scores(
    name: str,
    score: Callable[[pa.Table], Scores],
    queries: pa.Table,
    *,
    num_pins: int,
    ks: Sequence[int],
    served_N: NDArray[np.bool_] | None,
    eligible: Callable[[pa.Table], NDArray[np.bool_]] | None = None,
) -> Ranked:
    """The ranks that follow from the scores of the whole catalogue ([B, N]), what was bought before left out, and what
    is not `eligible` ([B, N]), as the retriever leaves it out.
    """
    ranks, served, counted = [], [], ListCounts(num_pins, ks)
    with progress(name, total=queries.num_rows) as meter:
        for start in range(0, queries.num_rows, _BATCH):
            batch = queries.slice(start, _BATCH)
            target = batch["target"].to_numpy()
            score_BN = left_out(score(batch), lists(batch["purchased"]))
            if eligible is not None:
                score_BN[~eligible(batch)] = -np.inf
            ranks.append(rank_of_target(score_BN, target))
            counted.add_scores(score_BN)
            if served_N is not None:
                score_BN[:, ~served_N] = -np.inf
                served.append(rank_of_target(score_BN, target))
            meter.advance(batch.num_rows)
    return Ranked(
        rank=_joined(ranks), served=None if served_N is None else _joined(served), served_to=num_pins, lists=counted
    )


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
