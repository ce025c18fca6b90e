"""`evaluate`: a bundle and the baselines on every held-out query."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convcg.baselines import Baseline, TrainingLog, build
from convcg.data.prepared import Prepared
from convcg.data.tables import RowTable
from convcg.data.world import Oracle, WorldConfig
from convcg.errors import ConfigError
from convcg.evaluate.config import ORACLE, EvaluateConfig
from convcg.evaluate.queries import Eligible, as_served, asked_of_world, histories, test_queries
from convcg.evaluate.ranking import Ints, Ranked, Scores, rank_bundle, rank_scores
from convcg.evaluate.samples import samples
from convcg.evaluate.slices import Names, Past, advertisers_of, slices_of
from convcg.features import Kind
from convcg.metrics import hit_rate, recall_at, recall_of_users, reciprocal_rank, standard_error
from convcg.retriever.policy import RetrievalConfig
from convcg.retriever.retriever import Retriever
from convcg.types import ACTIONS, SURFACES

MODEL = "model"
#: Where the mean reciprocal rank is cut.
MRR_CUT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured.

    metrics: plain types: for the model and every baseline recall with its standard error, recall of users, hit rate,
        MRR, the coverage of the lists, recall by slice and among served pins; and the model's share of the oracle's.
    ranks: every query: user_id, time, target, surface, action; `slice:NAME` (string), see `convcg.evaluate.slices`; and
        for each system `rank:NAME` and, where the log says what was served, `served:NAME` (int64).
    samples: some queries with the model's answers, see `convcg.evaluate.samples`.
    """

    metrics: dict[str, Any]
    ranks: pa.Table
    samples: list[dict[str, Any]]


def evaluate(
    retriever: Retriever,
    data: Prepared,
    pins: RowTable,
    users: RowTable,
    retrieval: RetrievalConfig,
    config: EvaluateConfig,
    world: WorldConfig | None = None,
) -> Evaluation:
    """Ask the bundle and the baselines every held-out query. `world` is the built-in one, where the data are of it.

    `pins` and `users` are the bundle's tables. What the retriever leaves out is left out for the baselines, too: pins
    that are not eligible, and, where the surface's policy says so, pins that the person bought before.

    Raises:
        ConfigError: a baseline cannot be made of these data, or here.
    """
    held_out = test_queries(data, config.max_queries)
    queries = as_served(held_out, retrieval)
    past = Past.read(data, len(pins))
    systems: dict[str, Ranked] = {}
    ask = partial(rank_scores, num_pins=len(pins), ks=config.ks, served_N=past.served_N, eligible=Eligible(pins, users))
    for name, score in scorers(data, pins, config, world):
        systems[name] = ask(name, score, queries)
    counts = [each.feature.name for each in data.encoders().user if each.feature.kind is Kind.COUNT]
    started = time.monotonic()
    model = rank_bundle(
        retriever,
        queries,
        pins,
        ks=config.ks,
        counts=counts,
        served_N=past.served_N,
        deepest=min(retrieval.policy(surface).max_k for surface in SURFACES),
    )
    seconds = time.monotonic() - started
    systems = {MODEL: model, **systems}
    slices = slices_of(held_out, pins, past)
    metrics = {
        "model_version": retriever.model_version,
        "num_queries": queries.num_rows,
        "num_pins": len(pins),
        "retriever_requests_per_second": round(queries.num_rows / seconds, 1) if queries.num_rows else 0.0,
        **_of_systems(systems, queries, config.ks),
        "coverage": _coverage(systems, pins, config.ks),
        "slices": _by_slice(systems, slices, config.ks),
        **_among_served(systems, past, queries, config.ks),
        **_share_of_oracle(systems, config.ks),
    }
    return Evaluation(
        metrics=metrics,
        ranks=ranks_table(queries, slices, systems),
        samples=samples(retriever, queries, pins, model.rank, counts=counts),
    )


def scorers(
    data: Prepared, pins: RowTable, config: EvaluateConfig, world: WorldConfig | None
) -> Iterator[tuple[str, Callable[[pa.Table], Scores]]]:
    """Each baseline's name and what gives every pin a score for a table of queries; made when its turn has come, the
    oracle last.

    Raises:
        ConfigError: as `evaluate`.
    """
    if ORACLE in config.baselines and world is None:
        raise ConfigError(
            f"evaluate.baselines names {ORACLE!r}, which only the built-in world has, and data.events brings a log. "
            "Take it out."
        )
    log = TrainingLog(tables=data.interactions, num_pins=len(pins), until=data.summary().times.train)
    names = [name for name in config.baselines if name != ORACLE]
    for name, baseline in build(names, log, item_item_neighbours=config.item_item_neighbours):
        yield name, _from_histories(baseline)
    if ORACLE in config.baselines and world is not None:
        yield ORACLE, _from_world(Oracle(world), pins)


def _from_histories(baseline: Baseline) -> Callable[[pa.Table], Scores]:
    return lambda queries: baseline.scores(histories(queries))


def _from_world(oracle: Oracle, pins: RowTable) -> Callable[[pa.Table], Scores]:
    column = pc.index_in(pins.ids, value_set=oracle.pin_ids)
    if column.null_count:
        raise ConfigError(
            f"evaluate.baselines names {ORACLE!r}, but the bundle has pins that are not of the world's settings. "
            "Run the stages with one recipe."
        )
    return lambda queries: oracle.logged(asked_of_world(queries, pins))[:, column.to_numpy()]


def _of_systems(systems: dict[str, Ranked], queries: pa.Table, ks: tuple[int, ...]) -> dict[str, Any]:
    _, user = np.unique(queries["user_id"].to_numpy(), return_inverse=True)
    target = queries["target"].to_numpy()
    ranks = {name: system.rank for name, system in systems.items()}
    return {
        "recall": {name: _recalls(rank, ks) for name, rank in ranks.items()},
        "standard_error": {name: {f"recall@{k}": standard_error(rank, k) for k in ks} for name, rank in ranks.items()},
        "recall_of_users": {
            name: {f"recall@{k}": recall_of_users(rank, user, target, k) for k in ks} for name, rank in ranks.items()
        },
        "hit_rate": {name: {f"hit_rate@{k}": hit_rate(rank, user, k) for k in ks} for name, rank in ranks.items()},
        "mrr": {name: {f"mrr@{MRR_CUT}": reciprocal_rank(rank, MRR_CUT)} for name, rank in ranks.items()},
    }


def _recalls(ranks: Ints, ks: tuple[int, ...]) -> dict[str, float]:
    return {f"recall@{k}": recall_at(ranks, k) for k in ks}


def _coverage(systems: dict[str, Ranked], pins: RowTable, ks: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """For each system `coverage@k` and, where pins have advertisers, `advertiser_entropy@k`."""
    advertiser_N = advertisers_of(pins)
    found = {name: {f"coverage@{k}": system.lists.coverage(k) for k in ks} for name, system in systems.items()}
    if advertiser_N is not None:
        for name, system in systems.items():
            found[name] |= {f"advertiser_entropy@{k}": system.lists.advertiser_entropy(k, advertiser_N) for k in ks}
    return found


def _by_slice(systems: dict[str, Ranked], slices: dict[str, Names], ks: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in slices.items():
        found[name] = {}
        for value in sorted(set(values.tolist())):
            chosen = values == value
            found[name][value] = {
                "num_queries": int(chosen.sum()),
                "recall": {each: _recalls(system.rank[chosen], ks) for each, system in systems.items()},
            }
    return found


def _among_served(systems: dict[str, Ranked], past: Past, queries: pa.Table, ks: tuple[int, ...]) -> dict[str, Any]:
    """Recall among the pins that were ever served, of the queries whose target is one, at each k to which all systems'
    ranks are exact; nothing without impressions, or where that is none.
    """
    exact = tuple(k for k in ks if k <= min(system.served_to for system in systems.values()))
    if past.served_N is None or not exact:
        return {}
    chosen = past.served_N[queries["target"].to_numpy()]
    recall = {
        name: _recalls(system.served[chosen], exact) for name, system in systems.items() if system.served is not None
    }
    return {
        "num_served_pins": int(past.served_N.sum()),
        "num_served_queries": int(chosen.sum()),
        "served_recall": recall,
    }


def _share_of_oracle(systems: dict[str, Ranked], ks: tuple[int, ...]) -> dict[str, Any]:
    """The model's recall over the oracle's, where the oracle was asked and finds anything at all."""
    if ORACLE not in systems:
        return {}
    model, oracle = (_recalls(systems[name].rank, ks) for name in (MODEL, ORACLE))
    return {"oracle_share": {name: model[name] / oracle[name] for name in model if oracle[name]}}


def ranks_table(queries: pa.Table, slices: dict[str, Names], systems: dict[str, Ranked]) -> pa.Table:
    """`Evaluation.ranks`."""
    named = {"surface": SURFACES, "action": ACTIONS}
    values = {name: pa.array([str(value) for value in names]) for name, names in named.items()}
    columns: dict[str, Any] = {name: queries[name] for name in ("user_id", "time", "target")}
    columns |= {name: values[name].take(queries[name].combine_chunks()) for name in named}
    columns |= {f"slice:{name}": pa.array(values, pa.string()) for name, values in slices.items()}
    columns |= {f"rank:{name}": system.rank for name, system in systems.items()}
    columns |= {f"served:{name}": each.served for name, each in systems.items() if each.served is not None}
    return pa.table(columns)
