"""From the events of some users to training examples, evaluation queries and user states, point in time.

Everything a query carries happened strictly before the query: its history, what was bought, its context. The query of a
conversion is asked at the time of the click (else the impression) that led to it, never at the time of the purchase.
Pure NumPy on the events of whole users, so that any number of users can be worked on in any number of processes.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from convcg.setting import Settings
from convcg.types import ACTION_CODE, CONVERSIONS, SURFACE_CODE, Action, Surface

_CHECKOUT = ACTION_CODE[Action.CHECKOUT]
_CONVERSION_CODES = [ACTION_CODE[action] for action in CONVERSIONS]
_HOME_FEED = SURFACE_CODE[Surface.HOME_FEED]
MICROSECONDS = 1_000_000
DAY = 86_400 * MICROSECONDS


class SplitConfig(Settings):
    """The split by global time, in whole UTC days counted back from the end of the log."""

    validation_days: int = Field(default=1, ge=1)
    test_days: int = Field(default=1, ge=1)


class HistoryCutoff(StrEnum):
    """Where the history of an evaluation query ends."""

    REQUEST = "request"  # strictly before the request: a history that is refreshed at once
    SPLIT = "split"  # at the end of the training time: a user table that is as old as the model


class HistoryConfig(Settings):
    """What a query knows of the past."""

    length: int = Field(default=100, ge=1, le=10_000)
    actions: tuple[Action, ...] = (Action.CLICK, Action.REPIN, Action.ADD_TO_CART, Action.CHECKOUT)
    #: Leave the target's own earlier events out of the history: for discovery, not revisits.
    exclude_target: bool = False
    evaluation_cutoff: HistoryCutoff = HistoryCutoff.REQUEST


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ExamplesConfig(Settings):
    """Which events are positives, and how much each weighs."""

    #: Action -> weight. Actions that are not named, or weigh 0, are no positives.
    weights: dict[Action, Weight] = Field(default={Action.CHECKOUT: 1.0, Action.ADD_TO_CART: 1.0}, min_length=1)
    #: Only the first positive of a person on a pin becomes an example.
    once_per_pin: bool = True
    #: What evaluation queries ask for.
    evaluation_actions: tuple[Action, ...] = (Action.CHECKOUT,)
    #: A conversion belongs to the last click (else impression) on the same pin that is at most this old.
    attribution_days: float = Field(default=7.0, gt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTimes:
    """The borders of the split, in microseconds since the epoch: each part ends where the next one begins."""

    validation: int
    test: int
    end: int

    @classmethod
    def of(cls, last_event: int, config: SplitConfig) -> "SplitTimes":
        """Count whole days back from the midnight after `last_event` (microseconds since the epoch)."""
        end = (last_event // DAY + 1) * DAY
        test = end - config.test_days * DAY
        return cls(validation=test - config.validation_days * DAY, test=test, end=end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Events of whole users, sorted by user and time; one entry an event.

    user: int64, 0, 1, 2... in the order of `user_ids`.  time, reported: int64 microseconds.  pin, subject: int32 rows,
    -1 where none.  action, surface: int8 codes, surface -1 where unknown.  query: Arrow strings.
    """

    user_ids: pa.Array
    user: NDArray[np.int64]
    time: NDArray[np.int64]
    reported: NDArray[np.int64]
    pin: NDArray[np.int32]
    action: NDArray[np.int8]
    surface: NDArray[np.int8]
    subject: NDArray[np.int32]
    query: pa.Array

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def of(cls, events: pa.Table) -> "Log":
        """Sort encoded events (columns user_id, time, reported, pin, action, surface, subject, query).

        By every column, so that the order in which events arrive never decides between equal times.
        """
        user_ids, user = _ranked(events["user_id"])
        _, query = _ranked(events["query"])
        names = ("time", "action", "pin", "surface", "subject", "reported")
        columns = {name: events[name].to_numpy() for name in names}
        order = np.lexsort((query, *reversed(columns.values()), user))
        return cls(
            user_ids=user_ids,
            user=user[order],
            query=events["query"].combine_chunks().take(pa.array(order)),
            **{name: column[order] for name, column in columns.items()},
        )


def _ranked(strings: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """The distinct strings, sorted, and where among them each entry stands; -1 for null."""
    distinct = pc.unique(strings).drop_null().sort()
    rank = pc.fill_null(pc.index_in(strings, value_set=distinct), -1)
    return distinct, rank.to_numpy().astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """Who asks when: parallel arrays; `event` is the position in the log that the context is read from, -1 for none."""

    user: NDArray[np.int64]
    time: NDArray[np.int64]
    event: NDArray[np.int64]
    target: NDArray[np.int32]

    def take(self, positions: NDArray[np.int64] | NDArray[np.bool_]) -> "Queries":
        """The queries at these positions."""
        return Queries(
            user=self.user[positions],
            time=self.time[positions],
            event=self.event[positions],
            target=self.target[positions],
        )


def attributed_touch(log: Log, window: int) -> NDArray[np.int64]:
    """For each event, the position of the touch that led to it.

    For a conversion: the last click, else the last impression, of the same person on the same pin, not later than the
    conversion and at most `window` microseconds earlier. For every other event, and a conversion without such a touch:
    the event itself.
    """
    order = np.lexsort((np.arange(len(log)), log.pin, log.user))
    user, pin, action = log.user[order], log.pin[order], log.action[order]
    starts = np.r_[True, (user[1:] != user[:-1]) | (pin[1:] != pin[:-1])] if len(log) else np.zeros(0, bool)
    group_start = np.maximum.accumulate(np.where(starts, np.arange(len(log)), 0)) if len(log) else np.zeros(0, np.int64)
    touch = np.arange(len(log))
    for kind in (Action.IMPRESSION, Action.CLICK):  # a click, where there is one, replaces the impression
        last = (
            np.maximum.accumulate(np.where(action == ACTION_CODE[kind], np.arange(len(log)), -1)) if len(log) else touch
        )
        found = last >= group_start
        position = order[np.where(found, last, 0)]
        recent = found & (log.time[order] - log.time[position] <= window)
        touch[order] = np.where(recent & np.isin(action, _CONVERSION_CODES), position, touch[order])
    return touch


def training_queries(log: Log, times: SplitTimes, config: ExamplesConfig) -> tuple[Queries, NDArray[np.int8]]:
    """The queries whose positive happened, and was known, before the validation time; and each positive's action."""
    positive = np.isin(log.action, [ACTION_CODE[action] for action, weight in config.weights.items() if weight])
    positive &= (log.time < times.validation) & (log.reported < times.validation)
    queries, action = _queries(log, np.flatnonzero(positive), config)
    if config.once_per_pin:
        _, first = np.unique(np.stack([queries.user, queries.target.astype(np.int64)]), axis=1, return_index=True)
        first = np.sort(first)
        queries, action = queries.take(first), action[first]
    return queries, action


def evaluation_queries(log: Log, start: int, end: int, config: ExamplesConfig) -> tuple[Queries, NDArray[np.int8]]:
    """The queries asked at `start` <= time < `end` (microseconds) that led to one of the evaluation actions."""
    asked = np.isin(log.action, [ACTION_CODE[action] for action in config.evaluation_actions])
    queries, action = _queries(log, np.flatnonzero(asked), config)
    inside = (queries.time >= start) & (queries.time < end)
    return queries.take(inside), action[inside]


def _queries(log: Log, events: NDArray[np.int64], config: ExamplesConfig) -> tuple[Queries, NDArray[np.int8]]:
    touch = attributed_touch(log, int(config.attribution_days * DAY))[events]
    queries = Queries(user=log.user[events], time=log.time[touch], event=touch, target=log.pin[events])
    return queries, log.action[events]


def histories(log: Log, queries: Queries, config: HistoryConfig) -> dict[str, pa.Array]:
    """The last `config.length` history actions strictly before each query, oldest first, as Arrow lists.

    Returns the columns history_pin (int32), history_action, history_surface (int8), history_age (float32 seconds).
    With `exclude_target` the target's own events do not count towards the length.
    """
    kept = np.flatnonzero(np.isin(log.action, [ACTION_CODE[action] for action in config.actions]))
    user, time, pin = log.user[kept], log.time[kept], log.pin[kept]
    start, end = _before(user, time, queries)
    length = np.minimum(end - start, config.length)
    if config.exclude_target:
        own = _own_events_before(user, time, pin, queries)
        length = np.minimum(end - start, config.length + own)
    query, position = _ragged(end - length, length)
    if config.exclude_target:
        other = pin[position] != queries.target[query]
        query, position = query[other], position[other]
        from_the_end = _rank_from_the_end(query, len(queries.user))
        query, position = query[from_the_end < config.length], position[from_the_end < config.length]
    age = ((queries.time[query] - time[position]) / MICROSECONDS).astype(np.float32)
    event = kept[position]
    flat = {
        "history_pin": log.pin[event],
        "history_action": log.action[event],
        "history_surface": log.surface[event],
        "history_age": age,
    }
    offsets = np.searchsorted(query, np.arange(len(queries.user) + 1)).astype(np.int32)
    return {name: pa.ListArray.from_arrays(pa.array(offsets), pa.array(column)) for name, column in flat.items()}


def purchases(log: Log, queries: Queries) -> pa.Array:
    """The distinct pins that each query's person checked out strictly before it, as Arrow lists of int32 rows."""
    kept = np.flatnonzero(log.action == _CHECKOUT)
    user, time, pin = log.user[kept], log.time[kept], log.pin[kept]
    start, end = _before(user, time, queries)
    query, position = _ragged(start, end - start)
    pairs = np.unique(np.stack([query, pin[position].astype(np.int64)]), axis=1)
    offsets = np.searchsorted(pairs[0], np.arange(len(queries.user) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(pairs[1].astype(np.int32)))


def context(log: Log, queries: Queries) -> dict[str, pa.Array]:
    """Where each query was asked: surface (int8, home feed where unknown), subject_pin (int32, -1 for none), query."""
    surface = log.surface[queries.event]
    return {
        "surface": pa.array(np.where(surface < 0, _HOME_FEED, surface).astype(np.int8)),
        "subject_pin": pa.array(log.subject[queries.event]),
        "query": log.query.take(pa.array(queries.event)),
    }


def _before(
    user: NDArray[np.int64], time: NDArray[np.int64], queries: Queries
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end, in events sorted by user and time, of what lies strictly before each query."""
    return (
        np.searchsorted(user, queries.user, side="left"),
        _searchsorted_pairs(user, time, queries.user, queries.time),
    )


def _searchsorted_pairs(
    major: NDArray[np.int64], minor: NDArray[np.int64], want_major: NDArray[np.int64], want_minor: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`numpy.searchsorted` (left) for pairs in lexicographic order, by one joint stable sort; wanted pairs go first."""
    both_major, both_minor = np.r_[want_major, major], np.r_[want_minor, minor]
    order = np.lexsort((both_minor, both_major))
    is_event = order >= len(want_major)
    events_before = np.cumsum(is_event)
    result = np.empty(len(want_major), np.int64)
    result[order[~is_event]] = events_before[~is_event]
    return result


def _own_events_before(
    user: NDArray[np.int64], time: NDArray[np.int64], pin: NDArray[np.int32], queries: Queries
) -> NDArray[np.int64]:
    """How many events of the query's person on the query's target lie strictly before the query."""
    order = np.lexsort((time, pin, user))
    span = np.int64(max(pin.max(initial=0), queries.target.max(initial=0))) + 1
    pair = user[order] * span + pin[order]
    wanted = queries.user * span + queries.target
    end = _searchsorted_pairs(pair, time[order], wanted, queries.time)
    return end - np.searchsorted(pair, wanted, side="left")


def _ragged(start: NDArray[np.int64], length: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flatten the ranges start[i] .. start[i] + length[i]: the index i of each element, and the element."""
    row = np.repeat(np.arange(len(start)), length)
    within = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    return row, start[row] + within


def _rank_from_the_end(row: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """For sorted row numbers: how many elements of the same row follow each element."""
    return np.searchsorted(row, np.arange(num_rows), side="right")[row] - 1 - np.arange(len(row))
