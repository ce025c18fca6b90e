"""All that comes of one partition of users: each fact once, in tables that refer to each other by row.

people    user_id and encoded features, one row a person
actions   what they did, one row an action: histories are stretches of it
requests  the queries of the training examples, one row a query event, with the negatives of the request
conversion, engagement    training examples: a request, a target, a weight
validation, test          evaluation queries, with what they asked for
states    each person's history and purchases as of the end of the training time, for serving
counts    training targets and served negatives by pin
pin_days  events by pin and day, of those actions of the training time that pin features count
"""

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg.data.attribution import TOUCHES, UNATTRIBUTED, Attributed, attribute
from convcg.data.day_counts import UserCounts, day_counts
from convcg.data.examples import (
    Dropped,
    Examples,
    ExamplesConfig,
    conversions,
    engagements,
    evaluation_queries,
    latest_of_each_user,
)
from convcg.data.feature_encoders import PREFIX, FeatureEncoder
from convcg.data.history import Actions, HistoryConfig, HistoryCutoff, Moments, histories, purchases, spans
from convcg.data.log import CONVERSION_CODES, Log, read_log
from convcg.data.served import negatives_of_requests, not_engaged
from convcg.data.split import MICROSECONDS, SplitTimes
from convcg.data.survey import DELAY_HOURS
from convcg.data.tables import RowTable
from convcg.features import Kind
from convcg.types import ACTION_CODE, SURFACE_CODE, Action, Surface, Task

Ints = NDArray[np.int64]

_IMPRESSION = ACTION_CODE[Action.IMPRESSION]
_CLICK, _REPIN = ACTION_CODE[Action.CLICK], ACTION_CODE[Action.REPIN]
_HOME_FEED = SURFACE_CODE[Surface.HOME_FEED]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionConfig:
    """What decides the content of a partition. `median_dwell`: of the training time's clicks, seconds; None: none.
    `pin_counts`: the actions that features count of pins.
    """

    times: SplitTimes
    examples: ExamplesConfig
    history: HistoryConfig
    median_dwell: float | None
    pin_counts: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The tables of one partition, and a tally for the data card: `dropped.RULE`, `level.TOUCH`, `delay.BIN` (of
    `convcg.data.survey.DELAY_HOURS`, from touch to conversion), and of the clicks' dwell weights, sum and number.
    """

    people: pa.Table
    actions: pa.Table
    requests: pa.Table
    conversion: pa.Table
    engagement: pa.Table
    validation: pa.Table
    test: pa.Table
    states: pa.Table
    counts: pa.Table
    pin_days: pa.Table
    tally: dict[str, float]


def build_partition(
    events: pa.Table,
    advertiser_N: NDArray[np.int32],
    config: PartitionConfig,
    users: RowTable | None = None,
    encoders: tuple[FeatureEncoder, ...] = (),
) -> Partition:
    """Everything that comes of the encoded events (`convcg.data.log.ENCODED_EVENTS`) of some whole users.

    `advertiser_N`: the advertiser's number of each pin, -1 for none. `encoders` are those of the users: `users` is the
    raw user table, from which the encoded features of the people are taken; counts are taken from the events.
    """
    log, duplicates = read_log(events, advertiser_N, duplicate_minutes=config.examples.duplicate_minutes)
    actions = Actions.of(log, config.history)
    attributed = attribute(log, config.examples.attribution)
    known = log.where(log.known < config.times.train)
    conversion, dropped_conversions = conversions(known, attribute(known, config.examples.attribution), config.examples)
    engagement, dropped_engagements = engagements(known, config.examples, config.median_dwell)
    bought = latest_of_each_user(known, conversion, config.examples.per_user)
    engaged = latest_of_each_user(known, engagement, config.examples.per_user)
    maturity = config.examples.attribution.maturity
    served, too_young = not_engaged(known, until=config.times.train, maturity=maturity)
    num_impressions = int(known.did(_IMPRESSION).sum())
    query = np.unique(np.r_[bought.event, engaged.event])
    counts = UserCounts.of(log, encoders)
    return Partition(
        people=_people(log, users, encoders),
        actions=actions.table(),
        requests=_requests(known, query, (conversion, engagement), served, config, counts),
        conversion=_examples(known, actions, query, bought, config),
        engagement=_examples(known, actions, query, engaged, config),
        validation=_evaluation(log, attributed, actions, config.times.validation, config.times.test, config, counts),
        test=_evaluation(log, attributed, actions, config.times.test, config.times.end, config, counts),
        states=_states(log, actions, config, counts),
        counts=_counts({Task.CONVERSION: bought.target, Task.ENGAGEMENT: engaged.target, "served": known.pin[served]}),
        pin_days=_pin_days(known, config.pin_counts),
        tally={
            "dropped.same_event_id": duplicates.same_event_id,
            "dropped.same_purchase": duplicates.same_purchase,
            "dropped.too_young": too_young,
            "dropped.engaged_around": num_impressions - too_young - len(served),
            "dropped.over_user_cap": len(conversion) + len(engagement) - len(bought) - len(engaged),
            **_dropped(dropped_conversions, dropped_engagements),
            **_attribution(known, bought),
            "served": len(served),
            "reported_conversions": np.isin(events["action"].to_numpy(), CONVERSION_CODES).sum(),
            "impressions": num_impressions,
            "conversions": known.did(*CONVERSION_CODES).sum(),
            "engagements": known.did(_CLICK, _REPIN).sum(),
            "clicks": np.isfinite(engaged.dwell_weight).sum(),
            "dwell_weights": np.nansum(engaged.dwell_weight),
        },
    )


def _dropped(*counts: Dropped) -> dict[str, float]:
    return {f"dropped.{field.name}": sum(getattr(each, field.name) for each in counts) for field in fields(Dropped)}


def _attribution(log: Log, examples: Examples) -> dict[str, float]:
    levels = np.bincount(examples.level, minlength=UNATTRIBUTED + 1).tolist()
    hours = (log.time[examples.positive] - log.time[examples.event]) / (3600 * MICROSECONDS)
    attributed = hours[examples.level != UNATTRIBUTED]
    bins = np.bincount(np.searchsorted(DELAY_HOURS, attributed, side="right") - 1, minlength=len(DELAY_HOURS) - 1)
    return {
        **{f"level.{name}": count for name, count in zip((*TOUCHES, "none"), levels, strict=True)},
        **{f"delay.{number}": count for number, count in enumerate(bins.tolist())},
    }


def _pin_days(log: Log, actions: tuple[Action, ...]) -> pa.Table:
    counted = np.flatnonzero(log.did(*(ACTION_CODE[action] for action in actions)))
    return day_counts(log.pin[counted], log.known[counted], log.action[counted])


def _people(log: Log, users: RowTable | None, encoders: tuple[FeatureEncoder, ...]) -> pa.Table:
    columns = {"user_id": log.user_ids}
    encoders = tuple(encoder for encoder in encoders if encoder.feature.kind is not Kind.COUNT)
    if encoders:
        assert users is not None, "user features need a user table"
        row = users.rows(log.user_ids)
        taken = pa.array(row, mask=row < 0)
        for encoder in encoders:
            raw = users.column(encoder.feature.name)
            assert raw is not None, f"the user table lacks {encoder.feature.name!r}"
            columns[PREFIX + encoder.feature.name] = encoder.encode(raw.take(taken))
    return pa.table(columns)


def _context(log: Log, event: Ints) -> dict[str, pa.Array]:
    """Where each query was asked: surface (int8, home feed where unknown), subject_pin (int32, -1 for none), query."""
    surface = log.surface[event]
    return {
        "surface": pa.array(np.where(surface < 0, _HOME_FEED, surface).astype(np.int8)),
        "subject_pin": pa.array(log.subject[event]),
        "query": log.query.take(pa.array(event)),
    }


def _requests(
    log: Log,
    event: Ints,
    examples: tuple[Examples, ...],
    served: Ints,
    config: PartitionConfig,
    counts: UserCounts,
) -> pa.Table:
    """user (int32 row of `people`), time (int64), context, negatives (lists of int32 pin rows), and encoded counts."""
    asked, target = (np.concatenate([getattr(each, name) for each in examples]) for name in ("event", "target"))
    kept = np.isin(asked, event)
    targets = np.searchsorted(event, asked[kept]), target[kept]
    query, pin = negatives_of_requests(log, served, event, targets, most=config.examples.negatives_per_request)
    offsets = np.searchsorted(query, np.arange(len(event) + 1)).astype(np.int32)
    return pa.table(
        {
            "user": log.user[event].astype(np.int32),
            "time": log.time[event],
            **_context(log, event),
            "negatives": pa.ListArray.from_arrays(pa.array(offsets), pa.array(pin)),
            **counts.encoded_at(log.user[event], log.time[event]),
        }
    )


def _examples(log: Log, actions: Actions, query: Ints, examples: Examples, config: PartitionConfig) -> pa.Table:
    """request (int32 row of `requests`), target, action, level, weight, dwell_weight, and the history's stretch."""
    moments = Moments(user=log.user[examples.event], time=log.time[examples.event], target=examples.target)
    first, end = spans(actions, moments, config.history)
    return pa.table(
        {
            "request": np.searchsorted(query, examples.event).astype(np.int32),
            "target": examples.target,
            "action": examples.action,
            "level": examples.level,
            "weight": examples.weight.astype(np.float32),
            "dwell_weight": examples.dwell_weight,
            "history_first": first.astype(np.int32),
            "history_end": end.astype(np.int32),
        }
    )


def _evaluation(
    log: Log,
    attributed: Attributed,
    actions: Actions,
    start: int,
    end: int,
    config: PartitionConfig,
    counts: UserCounts,
) -> pa.Table:
    """The queries of a time range: those columns of `requests` and of examples that they have, and purchased.

    Where the history leaves the target out, so do the queries: a pin that was bought before the query is no discovery.
    """
    asked = evaluation_queries(log, attributed, start, end, config.examples)
    time = log.time[asked.event]
    if config.history.evaluation_cutoff is HistoryCutoff.SPLIT:
        time = np.minimum(time, config.times.train)
    moments = Moments(user=log.user[asked.event], time=time, target=asked.target)
    first, last = spans(actions, moments, config.history)
    bought = purchases(actions, moments)
    table = pa.table(
        {
            "user": moments.user.astype(np.int32),
            "time": time,
            **_context(log, asked.event),
            "target": asked.target,
            "action": asked.action,
            "level": asked.level,
            "history_first": first.astype(np.int32),
            "history_end": last.astype(np.int32),
            "purchased": bought,
            **counts.encoded_at(moments.user, moments.time),
        }
    )
    if not config.history.exclude_target:
        return table
    flat, parent = np.asarray(pc.list_flatten(bought)), np.asarray(pc.list_parent_indices(bought))
    again = np.unique(parent[flat == asked.target[parent]])
    return table.take(pa.array(np.setdiff1d(np.arange(table.num_rows), again)))


def _states(log: Log, actions: Actions, config: PartitionConfig, counts: UserCounts) -> pa.Table:
    """What a server knows of each person as of the end of the training time: the last history, all purchases, and what
    features count, as plain numbers (int32).
    """
    everyone = np.arange(len(log.user_ids))
    cutoff = config.times.train
    moments = Moments(
        user=everyone, time=np.full(len(everyone), cutoff), target=np.full(len(everyone), -1, dtype=np.int32)
    )
    stretch = spans(actions, moments, config.history)
    return pa.table(
        {
            "user_id": log.user_ids,
            **histories(actions, moments, stretch, config.history),
            "purchased": purchases(actions, moments),
            **counts.at(moments.user, moments.time),
        }
    )


def _counts(pins: dict[str, NDArray[np.int32]]) -> pa.Table:
    """How often each pin occurs under each name: columns pin (int32, ascending) and one int64 column a name."""
    distinct = np.unique(np.concatenate(list(pins.values())))
    columns = {
        name: np.bincount(np.searchsorted(distinct, rows), minlength=len(distinct)) for name, rows in pins.items()
    }
    return pa.table({"pin": distinct.astype(np.int32), **columns})
