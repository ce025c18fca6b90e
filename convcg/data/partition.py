"""All that comes of one partition of users: examples, evaluation queries, user states and interactions."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convcg.data.examples import (
    MICROSECONDS,
    ExamplesConfig,
    HistoryConfig,
    HistoryCutoff,
    Log,
    Queries,
    SplitTimes,
    context,
    evaluation_queries,
    histories,
    purchases,
    training_queries,
)
from convcg.data.feature_encoders import PREFIX, FeatureEncoder
from convcg.data.tables import RowTable
from convcg.schema import EVENTS
from convcg.types import ACTION_CODE, ACTIONS, SURFACE_CODE, SURFACES, Action

#: Columns of encoded events: what a partition is built from.
ENCODED_EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("time", pa.int64()),
        ("reported", pa.int64()),
        ("pin", pa.int32()),
        ("action", pa.int8()),
        ("surface", pa.int8()),
        ("subject", pa.int32()),
        ("query", pa.string()),
    ]
)


#: Examples are mixed once within their partition, always in the same way; training mixes them again.
_SHUFFLE_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionConfig:
    """What decides the content of a partition."""

    times: SplitTimes
    examples: ExamplesConfig
    history: HistoryConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The tables of one partition."""

    train: pa.Table
    validation: pa.Table
    test: pa.Table
    interactions: pa.Table
    users: pa.Table


def encode_events(events: pa.Table, pins: RowTable) -> pa.Table:
    """Canonical events (see `convcg.schema`) with rows and codes in place of ids and names."""
    assert set(EVENTS.by_name) <= set(events.column_names)
    time = events["timestamp"].cast(pa.int64())
    columns = {
        "user_id": events["user_id"],
        "time": time,
        "reported": pc.coalesce(events["reported_at"].cast(pa.int64()), time),
        "pin": pa.array(pins.rows(events["pin_id"])),
        "action": _code(events["action"], [action.value for action in ACTIONS]),
        "surface": _code(events["surface"], [surface.value for surface in SURFACES]),
        "subject": pa.array(pins.rows(events["subject_pin_id"])),
        "query": events["query"],
    }
    assert len(ACTIONS) == len(ACTION_CODE)
    assert len(SURFACES) == len(SURFACE_CODE)
    return pa.table(columns).cast(ENCODED_EVENTS)


def distinct_events(events: pa.Table) -> pa.Table:
    """The events without those whose `event_id` came before: one purchase may be reported by a tag and by an API.

    Events without an id are all kept.
    """
    ids = pc.dictionary_encode(events["event_id"].combine_chunks())
    if ids.null_count == len(ids):
        return events
    code = np.asarray(pc.fill_null(ids.indices, -1))
    _, first = np.unique(code, return_index=True)
    kept = np.union1d(first, np.flatnonzero(code < 0))
    return events.take(pa.array(kept))


def _code(names: pa.ChunkedArray, values: list[str]) -> pa.ChunkedArray:
    return pc.fill_null(pc.index_in(names, value_set=pa.array(values), skip_nulls=True), -1).cast(pa.int8())


def build_partition(
    events: pa.Table, config: PartitionConfig, users: RowTable | None, encoders: tuple[FeatureEncoder, ...]
) -> Partition:
    """Everything that comes of the encoded events of some whole users.

    `users` is the raw user table, from which the encoded user features of each query are taken.
    """
    log = Log.of(events)
    train, action = training_queries(log, config.times, config.examples)
    weight = np.zeros(len(ACTIONS), np.float32)
    for kind, value in config.examples.weights.items():
        weight[ACTION_CODE[kind]] = value
    examples = _query_table(log, train, config, users, encoders)
    examples = examples.append_column("target", pa.array(train.target))
    examples = examples.append_column("weight", pa.array(weight[action]))
    shuffled = np.random.default_rng(_SHUFFLE_SEED).permutation(examples.num_rows)
    times = config.times
    return Partition(
        train=examples.take(pa.array(shuffled)),
        validation=_evaluation_table(log, times.validation, times.test, config, users, encoders),
        test=_evaluation_table(log, times.test, times.end, config, users, encoders),
        interactions=_interactions(log, times),
        users=_user_states(log, config),
    )


def _query_table(
    log: Log, queries: Queries, config: PartitionConfig, users: RowTable | None, encoders: tuple[FeatureEncoder, ...]
) -> pa.Table:
    columns = {**context(log, queries), **histories(log, queries, config.history)}
    if encoders:
        assert users is not None, "user features need a user table"
        row = users.rows(log.user_ids)
        taken = pa.array(row[queries.user], mask=row[queries.user] < 0)
        for encoder in encoders:
            raw = users.column(encoder.feature.name)
            assert raw is not None, f"the user table lacks {encoder.feature.name!r}"
            columns[PREFIX + encoder.feature.name] = encoder.encode(raw.take(taken))
    return pa.table(columns)


def _evaluation_table(
    log: Log,
    start: int,
    end: int,
    config: PartitionConfig,
    users: RowTable | None,
    encoders: tuple[FeatureEncoder, ...],
) -> pa.Table:
    """The queries of a time range with what they asked for: user_id, time, target, action, purchased.

    Where the history leaves the target out, so do the queries: a pin that was bought before the query is no discovery.
    """
    asked, action = evaluation_queries(log, start, end, config.examples)
    known = asked
    if config.history.evaluation_cutoff is HistoryCutoff.SPLIT:
        known = replace(asked, time=np.minimum(asked.time, config.times.validation))
    table = _query_table(log, known, config, users, encoders)
    table = table.append_column("user_id", log.user_ids.take(pa.array(asked.user)))
    table = table.append_column("time", pa.array(known.time))
    table = table.append_column("target", pa.array(asked.target))
    table = table.append_column("action", pa.array(action))
    bought = purchases(log, known)
    table = table.append_column("purchased", bought)
    if not config.history.exclude_target:
        return table
    flat, parent = np.asarray(pc.list_flatten(bought)), np.asarray(pc.list_parent_indices(bought))
    again = np.unique(parent[flat == asked.target[parent]])
    return table.take(pa.array(np.setdiff1d(np.arange(table.num_rows), again)))


def _interactions(log: Log, times: SplitTimes) -> pa.Table:
    kept = (log.time < times.validation) & (log.action != ACTION_CODE[Action.IMPRESSION])
    return pa.table({"user": log.user[kept].astype(np.int32), "pin": log.pin[kept], "action": log.action[kept]})


def _user_states(log: Log, config: PartitionConfig) -> pa.Table:
    """What a server knows of each person: the last history and all purchases as of the end of the training time."""
    everyone = np.arange(len(log.user_ids))
    cutoff = config.times.validation
    nobody = np.full(len(everyone), -1)
    queries = Queries(user=everyone, time=np.full(len(everyone), cutoff), event=nobody, target=nobody.astype(np.int32))
    state = histories(log, queries, config.history)
    age = state.pop("history_age")
    then = cutoff / MICROSECONDS - age.values.to_numpy().astype(np.float64)
    return pa.table(
        {
            "user_id": log.user_ids,
            **state,
            "history_time": pa.ListArray.from_arrays(age.offsets, pa.array(then)),
            "purchased": purchases(log, queries),
        }
    )
