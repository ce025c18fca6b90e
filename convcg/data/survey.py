"""A first look over all events: what must be known before any of them can be worked on, and what the data card shows.

Counts of whole days, added up over any number of blocks: which block an event stands in decides nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg.data.engagement import is_dwell
from convcg.data.event_codes import code_of, times_of
from convcg.data.split import DAY, MICROSECONDS
from convcg.types import ACTION_CODE, ACTIONS, CONVERSIONS, SURFACES, Action

Ints = NDArray[np.int64]

#: Hours between a conversion and its report: the borders that the data card draws.
DELAY_HOURS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 48.0, 96.0, 168.0, 336.0, 672.0, 1e9)
_MISSING, _ABSURD = -1, -2
_CONVERSIONS = [ACTION_CODE[action] for action in CONVERSIONS]


class Fact(StrEnum):
    """What is counted. `day`: the UTC day number of the event; of `DWELL` the day on which it was known."""

    ACTION = "action"  # key: the action's code
    SURFACE = "surface"  # key: the surface's code, -1 for none
    DWELL = "dwell"  # of clicks; key: whole seconds, -1 where it is missing, -2 where it cannot be believed
    DELAY = "delay"  # of conversions; key: which of `DELAY_HOURS` the report's delay lies in
    LAST = "last"  # one row a block: the day of its last event
    UNSEEN = "unseen"  # events that were known too late for `split.as_of`
    BROKEN = "broken"  # events that were set aside


def survey_block(events: pa.Table, seen_until: int | None) -> pa.Table:
    """Count a block of canonical events: columns fact (string), day, key, count (int64)."""
    time, known = times_of(events)
    seen = np.ones(len(time), bool) if seen_until is None else known < seen_until
    action = np.asarray(code_of(events["action"], [each.value for each in ACTIONS]))[seen]
    surface = np.asarray(code_of(events["surface"], [each.value for each in SURFACES]))[seen]
    dwell = np.asarray(pc.fill_null(events["dwell_seconds"], float("nan")))[seen]
    time, known = time[seen], known[seen]
    click = action == ACTION_CODE[Action.CLICK]
    bought = np.isin(action, _CONVERSIONS)
    hours = (known[bought] - time[bought]) / (3600 * MICROSECONDS)
    parts = [
        _counted(Fact.ACTION, time // DAY, action),
        _counted(Fact.SURFACE, time // DAY, surface),
        _counted(Fact.DWELL, known[click] // DAY, _whole_seconds(dwell[click])),
        _counted(Fact.DELAY, time[bought] // DAY, np.searchsorted(DELAY_HOURS, hours, side="right") - 1),
    ]
    if len(time):
        parts.append(_row(Fact.LAST, int(time.max()), 1))
    if not seen.all():
        parts.append(_row(Fact.UNSEEN, 0, int((~seen).sum())))
    return pa.concat_tables(parts)


def _whole_seconds(dwell: NDArray[np.float32]) -> Ints:
    believed = is_dwell(dwell)
    seconds = np.floor(np.where(believed, dwell, 0)).astype(np.int64)
    return np.where(believed, seconds, np.where(np.isnan(dwell), _MISSING, _ABSURD))


def _counted(fact: Fact, day: Ints, key: NDArray[np.integer]) -> pa.Table:
    table = pa.table({"day": pa.array(day, pa.int64()), "key": pa.array(key.astype(np.int64))})
    counted = table.group_by(["day", "key"]).aggregate([([], "count_all")])
    count = counted["count_all"].cast(pa.int64())
    names = pa.array([fact.value] * counted.num_rows, pa.string())
    return pa.table({"fact": names, "day": counted["day"], "key": counted["key"], "count": count})


def _row(fact: Fact, key: int, count: int) -> pa.Table:
    return pa.table({"fact": [fact.value], "day": [0], "key": [key], "count": [count]})


@dataclass(frozen=True, slots=True)
class Survey:
    """The counts of all blocks together, one row for each fact, day and key."""

    counts: pa.Table

    @classmethod
    def of(cls, blocks: Iterable[pa.Table]) -> "Survey":
        """Add up blocks."""
        summed = pa.concat_tables(blocks).group_by(["fact", "day", "key"]).aggregate([("count", "sum")])
        return cls(summed.rename_columns(["fact", "day", "key", "count"]))

    def _where(self, fact: Fact) -> tuple[Ints, Ints, Ints]:
        rows = self.counts.filter(pc.equal(self.counts["fact"], fact.value))
        day, key, count = (rows[name].to_numpy() for name in ("day", "key", "count"))
        return day, key, count

    @property
    def num_events(self) -> int:
        """Events that are seen."""
        return int(self._where(Fact.ACTION)[2].sum())

    @property
    def num_unseen(self) -> int:
        """Events that were known too late."""
        return int(self._where(Fact.UNSEEN)[2].sum())

    @property
    def num_broken(self) -> int:
        """Events that were set aside."""
        return int(self._where(Fact.BROKEN)[2].sum())

    @property
    def last_event(self) -> int:
        """When the last event happened, in microseconds since the epoch; 0 without events."""
        return int(self._where(Fact.LAST)[1].max(initial=0))

    @property
    def first_day(self) -> int:
        """The UTC day number of the first event; 0 without events."""
        days = self._where(Fact.ACTION)[0]
        return int(days.min()) if len(days) else 0

    def median_dwell(self, until: int) -> float | None:
        """The lower median of the clicks' dwells that can be believed and were known before `until` (a midnight), in
        whole seconds; None without any.
        """
        day, key, count = self._where(Fact.DWELL)
        inside = (day < until // DAY) & (key >= 0)
        order = np.argsort(key[inside])
        running = np.cumsum(count[inside][order])
        if len(running) == 0:
            return None
        return float(key[inside][order][np.searchsorted(running, (running[-1] + 1) // 2)])

    def by_day(self) -> list[dict[str, int | str]]:
        """A row a day: the day (ISO) and the number of events of each action."""
        day, key, count = self._where(Fact.ACTION)
        rows: list[dict[str, int | str]] = []
        for each in np.unique(day):
            of_day = day == each
            total = np.bincount(key[of_day], count[of_day], minlength=len(ACTIONS)).astype(int).tolist()
            rows.append({"day": str(np.datetime64(int(each), "D")), **dict(zip(map(str, ACTIONS), total, strict=True))})
        return rows

    def by_key(self, fact: Fact) -> dict[int, int]:
        """The counts of a fact over all days."""
        _, key, count = self._where(fact)
        return {int(each): int(count[key == each].sum()) for each in np.unique(key)}
