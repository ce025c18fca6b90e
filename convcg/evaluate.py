"""Evaluation: the exact full-catalogue recall of a bundle on held-out conversions, beside the baselines.

The bundle is asked through the same `Retriever` that the service uses, one `Request` a held-out conversion: what is
measured is what is served, filters and policies included.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from convcg.baselines import Baseline, Histories, ItemItem, Popularity
from convcg.data import prepared
from convcg.data.feature_encoders import PREFIX
from convcg.data.prepared import Prepared
from convcg.data.split import MICROSECONDS
from convcg.data.tables import RowTable
from convcg.errors import GateError
from convcg.features import Kind
from convcg.log import progress
from convcg.metrics import rank_among_all, rank_in_list, recall_at, recall_of_users, standard_error
from convcg.retriever.policy import RetrievalConfig
from convcg.retriever.retriever import Retriever
from convcg.setting import Settings
from convcg.types import ACTIONS, SURFACES, HistoryEvent, Request
from convcg.validation import lists

_BATCH = 256


class EvaluateConfig(Settings):
    """What is measured, and the gate that a bundle must pass."""

    #: Recall is measured at each of these.
    ks: tuple[int, ...] = Field(default=(20, 100, 1000), min_length=1)
    #: k -> the least recall of a bundle that may be published.
    gate: dict[int, float] = {}
    #: Test queries at most, evenly spaced; None for all.
    max_queries: int | None = Field(default=None, ge=1)
    #: How many similar pins the item-item baseline keeps for each pin; None for all.
    item_item_neighbours: int | None = Field(default=None, ge=1)


def test_queries(data: Prepared, limit: int | None) -> pa.Table:
    """The held-out queries: see `convcg.data.partition`. `limit` takes that many, evenly spaced."""
    table = data.queries(prepared.TEST)
    if limit is None or table.num_rows <= limit:
        return table.combine_chunks()
    spaced = np.linspace(0, table.num_rows - 1, limit).astype(np.int64)
    return table.take(pa.array(spaced)).combine_chunks()


def requests(queries: pa.Table, pins: RowTable, *, k: int, counts: Sequence[str] = ()) -> Iterator[Request]:
    """Each held-out query as the request that a client would have sent at that time, with the person's counts of that
    day: `counts` names the user features that count.
    """
    for row in queries.to_pylist():
        then = row["time"] / MICROSECONDS
        columns = ("history_pin", "history_action", "history_surface", "history_age", "history_dwell")
        events = zip(*(row[name] for name in columns), strict=True)
        yield Request(
            surface=SURFACES[row["surface"]],
            k=k,
            user_id=row["user_id"],
            user_features={name: round(math.expm1(row[PREFIX + name])) for name in counts},
            history=tuple(
                HistoryEvent(
                    pin_id=pins.ids[pin].as_py(),
                    action=ACTIONS[action],
                    surface=SURFACES[surface] if surface >= 0 else None,
                    timestamp=then - age,
                    dwell_seconds=None if math.isnan(dwell) else dwell,
                )
                for pin, action, surface, age, dwell in events
            ),
            subject_pin_id=pins.ids[row["subject_pin"]].as_py() if row["subject_pin"] >= 0 else None,
            query=row["query"],
            exclude_pin_ids=tuple(pins.ids[pin].as_py() for pin in row["purchased"]),
            timestamp=then,
        )


def ranks_of_bundle(
    retriever: Retriever, queries: pa.Table, pins: RowTable, *, max_k: int, counts: Sequence[str] = ()
) -> NDArray[np.int64]:
    """[B] int64 ranks of the targets, exact up to `max_k`."""
    ranks = []
    with progress("retrieving", total=queries.num_rows) as meter:
        for start in range(0, queries.num_rows, _BATCH):
            batch = queries.slice(start, _BATCH)
            # One more than asked about: only so is a tie across the cut seen.
            answers = retriever.retrieve(list(requests(batch, pins, k=max_k + 1, counts=counts)))
            for answer, target in zip(answers, batch["target"].to_pylist(), strict=True):
                wanted = pins.ids[target].as_py()
                score = np.array([candidate.score for candidate in answer.candidates], np.float32)
                is_target = np.array([candidate.pin_id == wanted for candidate in answer.candidates], bool)
                ranks.append(rank_in_list(score, is_target))
            meter.advance(batch.num_rows)
    return np.array(ranks, np.int64)


def ranks_of_baseline(baseline: Baseline, queries: pa.Table) -> NDArray[np.int64]:
    """[B] int64 ranks of the targets among the whole catalogue, what was bought before left out."""
    ranks = []
    with progress(baseline.name, total=queries.num_rows) as meter:
        for start in range(0, queries.num_rows, _BATCH):
            batch = queries.slice(start, _BATCH)
            histories = Histories(pins=lists(batch["history_pin"]), actions=lists(batch["history_action"]))
            target = batch["target"].to_numpy()
            ranks.append(rank_among_all(baseline.scores(histories), target, lists(batch["purchased"])))
            meter.advance(batch.num_rows)
    return np.concatenate(ranks) if ranks else np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured: recall of the bundle and of every baseline at each k, with standard errors, as plain types;
    and every query's rank: columns user_id, time, target, and an int64 rank for each of the systems.
    """

    metrics: dict[str, Any]
    ranks: pa.Table


def evaluate(
    retriever: Retriever, data: Prepared, pins: RowTable, retrieval: RetrievalConfig, config: EvaluateConfig
) -> Evaluation:
    """Ask the bundle and the baselines every held-out query.

    Pins that the person bought before are left out where the surface's policy says so, for the baselines, too.
    """
    queries = _as_served(test_queries(data, config.max_queries), retrieval)
    started = time.monotonic()
    counts = [each.feature.name for each in data.encoders().user if each.feature.kind is Kind.COUNT]
    results = {"model": ranks_of_bundle(retriever, queries, pins, max_k=max(config.ks), counts=counts)}
    seconds = time.monotonic() - started
    for baseline in (
        Popularity(data.interactions(), len(pins)),
        ItemItem(data.interactions(), len(pins), num_neighbours=config.item_item_neighbours),
    ):
        results[baseline.name] = ranks_of_baseline(baseline, queries)
    user, target = queries["user_id"].to_pylist(), queries["target"].to_numpy()
    metrics = {
        "model_version": retriever.model_version,
        "num_queries": queries.num_rows,
        "num_pins": len(pins),
        "retriever_requests_per_second": round(queries.num_rows / seconds, 1) if queries.num_rows else 0.0,
        "recall": {name: _recalls(ranks, config.ks) for name, ranks in results.items()},
        "standard_error": {
            name: {f"recall@{k}": standard_error(ranks, k) for k in config.ks} for name, ranks in results.items()
        },
        "recall_of_users": {
            name: {f"recall@{k}": recall_of_users(ranks, user, target, k) for k in config.ks}
            for name, ranks in results.items()
        },
    }
    return Evaluation(metrics=metrics, ranks=pa.table({**_asked(queries), **results}))


def _as_served(queries: pa.Table, retrieval: RetrievalConfig) -> pa.Table:
    """The queries without the purchases that their surface's policy does not leave out."""
    excludes = np.array([retrieval.policy(surface).exclude_purchased for surface in SURFACES])
    left_out = pa.array(excludes[queries["surface"].to_numpy()])
    purchased = queries["purchased"].combine_chunks()
    place = queries.column_names.index("purchased")
    return queries.set_column(place, "purchased", pc.if_else(left_out, purchased, pa.scalar([], purchased.type)))


def _asked(queries: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: queries[name] for name in ("user_id", "time", "target")}


def _recalls(ranks: NDArray[np.int64], ks: tuple[int, ...]) -> dict[str, float]:
    return {f"recall@{k}": recall_at(ranks, k) for k in ks}


def check_gate(metrics: dict[str, Any], gate: dict[int, float]) -> None:
    """Compare a bundle's recall with the gate.

    Raises:
        GateError: it is below, naming every k at which it is.
    """
    reached = {k: metrics["recall"]["model"].get(f"recall@{k}") for k in gate}
    missed = [
        f"recall@{k} is {'not measured' if value is None else format(value, '.4f')}, the gate asks for {gate[k]:.4f}"
        for k, value in reached.items()
        if value is None or value < gate[k]
    ]
    if missed:
        raise GateError(
            f"bundle {metrics['model_version']} does not pass: {'; '.join(missed)}. It is not to be published; "
            "train longer, look at the data, or change evaluate.gate."
        )
