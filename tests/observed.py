"""What the example pipeline makes of a small log in one process, as plain rows: what `reference_examples` returns."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from reference_log import Settings

from convcg import schema
from convcg.data.attribution import AttributionConfig
from convcg.data.canonical import canonical
from convcg.data.caps import final_weights, kept_shares, stays
from convcg.data.engagement import DwellConfig
from convcg.data.event_codes import advertiser_numbers, encode_events
from convcg.data.examples import ExamplesConfig
from convcg.data.flat import examples_with_requests, queries_of
from convcg.data.history import HistoryConfig
from convcg.data.partition import Partition, PartitionConfig, build_partition
from convcg.data.split import SplitConfig, SplitTimes
from convcg.data.survey import Survey, survey_block
from convcg.data.tables import RowTable
from convcg.types import ACTIONS, SURFACES, Action, Task


def examples_config(settings: Settings) -> ExamplesConfig:
    """The settings of the reference as those of the package."""
    return ExamplesConfig(
        weights={Action(name): weight for name, weight in settings.weights.items()},
        evaluation_actions=tuple(Action(name) for name in settings.evaluation_actions),
        attribution=AttributionConfig(
            levels=settings.levels,
            click_days=settings.click_days,
            impression_days=settings.impression_days,
            keep_unattributed=settings.keep_unattributed,
        ),
        dwell=DwellConfig(
            curve=settings.dwell_curve, cap_seconds=settings.dwell_cap_seconds, floor=settings.dwell_floor
        ),
        visit_minutes=settings.visit_minutes,
        duplicate_minutes=settings.duplicate_minutes,
        negatives_per_request=settings.negatives_per_request,
        per_user=settings.per_user,
        per_pin=settings.per_pin,
        per_advertiser=settings.per_advertiser,
    )


def history_config(settings: Settings) -> HistoryConfig:
    """The settings of the reference as those of the package."""
    return HistoryConfig(
        length=settings.history_length,
        actions=settings.history_actions,
        exclude_target=settings.exclude_target,
        evaluation_cutoff=settings.evaluation_cutoff,
    )


def as_tables(events: Sequence[dict[str, Any]], advertisers: Sequence[str | None]) -> tuple[pa.Table, RowTable]:
    """Plain events as the canonical table, and the pins that they name by row."""

    def pin_id(row: int) -> str | None:
        return f"pin{row:04d}" if row >= 0 else None

    def names(key: str, values: Sequence[str]) -> pa.Array:
        return pa.array([values[event[key]] if event[key] >= 0 else None for event in events], pa.string())

    raw = pa.table(
        {
            "timestamp": pa.array([event["time"] for event in events], pa.int64()).cast(schema.TIMESTAMP),
            "reported_at": pa.array([event["reported"] for event in events], pa.int64()).cast(schema.TIMESTAMP),
            "user_id": pa.array([event["user_id"] for event in events], pa.string()),
            "pin_id": pa.array([pin_id(event["pin"]) for event in events], pa.string()),
            "subject_pin_id": pa.array([pin_id(event["subject"]) for event in events], pa.string()),
            "action": names("action", ACTIONS),
            "surface": names("surface", SURFACES),
            "dwell_seconds": pa.array([event["dwell"] for event in events], pa.float32()),
            "request_id": pa.array([event["request_id"] for event in events], pa.string()),
            "event_id": pa.array([event["event_id"] for event in events], pa.string()),
            "query": pa.array([event["query"] for event in events], pa.string()),
        }
    )
    pins = pa.table(
        {
            "pin_id": [pin_id(row) for row in range(len(advertisers))],
            "advertiser_id": pa.array(advertisers, pa.string()),
        }
    )
    return canonical(raw, schema.EVENTS), RowTable(pins)


def observe(events: Sequence[dict[str, Any]], advertisers: Sequence[str | None], settings: Settings) -> dict[str, Any]:
    """Run every step of the pipeline on the events as one partition."""
    config = SplitConfig(
        as_of=settings.as_of,
        validation_days=settings.validation_days,
        test_days=settings.test_days,
        gap_days=settings.gap_days,
    )
    table, pins = as_tables(events, advertisers)
    advertiser = advertiser_numbers(pins)
    survey = Survey.of([survey_block(table, config.seen_until)])
    times = SplitTimes.of(survey.last_event, config)
    encoded = encode_events(table, pins)
    if config.seen_until is not None:
        encoded = encoded.filter(pa.array(encoded["known"].to_numpy() < config.seen_until))
    history = history_config(settings)
    built = build_partition(
        encoded,
        advertiser,
        PartitionConfig(
            times=times,
            examples=examples_config(settings),
            history=history,
            median_dwell=survey.median_dwell(times.train),
        ),
    )
    train = _train_rows(built, advertiser, settings, history)
    return {
        "median_dwell": survey.median_dwell(times.train),
        "train": train,
        "validation": _evaluation_rows(built.validation, built, history),
        "test": _evaluation_rows(built.test, built, history),
        "users": _users(built),
        "served": {row["pin"]: row["served"] for row in built.counts.to_pylist() if row["served"]},
        "targets": {
            task.value: dict(Counter(row["target"] for row in train if row["task"] == task.value)) for task in Task
        },
    }


def _train_rows(
    built: Partition, advertiser: np.ndarray, settings: Settings, history: HistoryConfig
) -> list[dict[str, Any]]:
    counts = built.counts
    count_N = np.zeros(len(advertiser), np.int64)
    count_N[counts["pin"].to_numpy()] = counts["conversion"].to_numpy() + counts["engagement"].to_numpy()
    share_N = kept_shares(count_N, advertiser, per_pin=settings.per_pin, per_advertiser=settings.per_advertiser)
    clicks = built.engagement["dwell_weight"].to_numpy()
    mean = float(np.nanmean(clicks)) if np.isfinite(clicks).any() else 1.0
    rows = []
    for task in Task:
        examples = getattr(built, task.value)
        asked = examples_with_requests(examples, built.requests)
        kept = stays(asked["time"].to_numpy(), asked["target"].to_numpy(), share_N)
        weight = final_weights(examples, settings.weights.get("click", 0.0), mean)
        flat = queries_of(asked, built.actions, built.people, history)
        for row, stayed, value in zip(flat.to_pylist(), kept, weight.tolist(), strict=True):
            if stayed:
                rows.append(
                    {
                        **_asked(row),
                        "task": task.value,
                        "action": row["action"],
                        "level": row["level"],
                        "weight": value,
                        "negatives": row["negatives"],
                    }
                )
    return rows


def _asked(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "user_id": row["user_id"],
        "time": row["time"],
        "surface": row["surface"],
        "subject": row["subject_pin"],
        "query": row["query"],
        "target": row["target"],
        "history": _history(row, row["history_age"]),
    }


def _history(row: dict[str, Any], age: list[float]) -> list[tuple[Any, ...]]:
    dwell = [None if np.isnan(each) else each for each in row["history_dwell"]]
    return list(zip(row["history_pin"], row["history_action"], row["history_surface"], age, dwell, strict=True))


def _evaluation_rows(rows: pa.Table, built: Partition, history: HistoryConfig) -> list[dict[str, Any]]:
    flat = queries_of(rows, built.actions, built.people, history).to_pylist()
    return [
        {**_asked(row), "action": row["action"], "level": row["level"], "purchased": row["purchased"]} for row in flat
    ]


def _users(built: Partition) -> dict[str, Any]:
    states = {}
    for row in built.states.to_pylist():
        ages = row["history_age"]
        states[row["user_id"]] = {"history": _history(row, ages), "purchased": row["purchased"]}
    return states
