"""How often something was done with a pin, or by a person, in the days before a day: point in time, and sparse.

An event counts from the midnight (UTC) after it became known. A query of day D therefore sees whole days before D and
nothing of its own day, so that a count can never hold the event that it is to predict.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from convcg.data.feature_encoders import PREFIX, FeatureEncoder
from convcg.data.log import Log
from convcg.data.pairs import joined
from convcg.data.split import DAY
from convcg.features import FeatureShape, Kind
from convcg.types import ACTION_CODE, Action

Ints = NDArray[np.int64]

#: One row for each action, key and UTC day number on which an event became known, in that order; `count` is 1 or more.
DAY_COUNTS = pa.schema([("key", pa.int32()), ("day", pa.int32()), ("action", pa.int8()), ("count", pa.int64())])
#: Rows that are added up at once, at least.
_HELD_ROWS = 1 << 22
_SORTED = [("action", "ascending"), ("key", "ascending"), ("day", "ascending")]


def day_counts(key: NDArray[np.integer], known: Ints, action: NDArray[np.int8]) -> pa.Table:
    """The `DAY_COUNTS` of events: their keys (0 or more), when they became known (microseconds), and action codes."""
    columns = {"key": key, "day": known // DAY, "action": action, "count": np.ones(len(key), np.int64)}
    return merged([pa.table(columns).cast(DAY_COUNTS)])


def merged(tables: Iterable[pa.Table]) -> pa.Table:
    """The `DAY_COUNTS` of all that was counted apart; of an iterator, little more is held than comes of it."""
    summed, held = DAY_COUNTS.empty_table(), []
    for table in tables:
        held.append(table)
        if sum(each.num_rows for each in held) > max(_HELD_ROWS, summed.num_rows):
            summed, held = _summed([summed, *held]), []
    return _summed([summed, *held]).sort_by(_SORTED).cast(DAY_COUNTS)


def _summed(tables: Sequence[pa.Table]) -> pa.Table:
    grouped = pa.concat_tables(tables).group_by(["key", "day", "action"]).aggregate([("count", "sum")])
    return grouped.rename_columns(DAY_COUNTS.names)


class DayCounts:
    """Sparse day counts with running totals: a sum over any stretch of days costs two binary searches."""

    def __init__(self, counts: pa.Table) -> None:
        """`counts`: `DAY_COUNTS`, as `merged` sorts them."""
        day, action = counts["day"].to_numpy(), counts["action"].to_numpy()
        self._first_day = int(day.min(initial=0))
        # One day more than there are, for all days after the last one.
        self._span = int(day.max(initial=0)) - self._first_day + 2
        self._place = joined(counts["key"].to_numpy(), day.astype(np.int64) - self._first_day, self._span)
        self._total = np.r_[0, np.cumsum(counts["count"].to_numpy())]
        self._borders = np.searchsorted(action, np.arange(len(ACTION_CODE) + 1))

    def before(self, key: NDArray[np.integer], day: Ints, action: Action, window: int) -> Ints:
        """[N] int64: each key's events of an action that became known in the `window` days before a day.

        `key`: [N] integers, 0 or more; `day`: [N] int64 UTC day numbers. An event of the day itself does not count.
        """
        first, end = self._borders[ACTION_CODE[action] :][:2].tolist()
        place = self._place[first:end]
        until = np.searchsorted(place, self._at(key, day))
        since = np.searchsorted(place, self._at(key, day - window))
        counted: Ints = self._total[first + until] - self._total[first + since]
        return counted

    def feature(self, shape: FeatureShape, key: NDArray[np.integer], day: Ints) -> Ints:
        """[N] int64: `before`, for what a feature of kind `count` counts."""
        assert shape.action is not None, f"{shape.name!r} does not say which action it counts"
        assert shape.days is not None, f"{shape.name!r} does not say of how many days"
        return self.before(key, day, shape.action, shape.days)

    def _at(self, key: NDArray[np.integer], day: Ints) -> Ints:
        return joined(key, np.clip(day - self._first_day, 0, self._span - 1), self._span)


@dataclass(frozen=True, slots=True)
class UserCounts:
    """The features that count what the people of a log did."""

    encoders: tuple[FeatureEncoder, ...]
    counts: DayCounts

    @classmethod
    def of(cls, log: Log, encoders: Sequence[FeatureEncoder]) -> "UserCounts":
        """Those of the encoders that count; people are known by their number in the log."""
        counting = tuple(encoder for encoder in encoders if encoder.feature.kind is Kind.COUNT)
        actions = {encoder.feature.action for encoder in counting}
        counted = np.flatnonzero(log.did(*(ACTION_CODE[action] for action in actions if action)))
        return cls(counting, DayCounts(day_counts(log.user[counted], log.known[counted], log.action[counted])))

    def at(self, user: Ints, time: Ints) -> dict[str, pa.Array]:
        """By feature, the counts (int32) as of the days of these moments (microseconds)."""
        return {
            encoder.feature.name: pa.array(self.counts.feature(encoder.shape, user, time // DAY), pa.int32())
            for encoder in self.encoders
        }

    def encoded_at(self, user: Ints, time: Ints) -> dict[str, pa.Array]:
        """The same as encoded columns."""
        counts = self.at(user, time)
        return {PREFIX + each.feature.name: each.encode(counts[each.feature.name]) for each in self.encoders}
