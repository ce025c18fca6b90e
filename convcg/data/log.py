"""The events of whole users in order, without what was reported twice."""

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg.data.text_hash import NO_HASH
from convcg.types import ACTION_CODE, CONVERSIONS

CONVERSION_CODES = tuple(ACTION_CODE[action] for action in CONVERSIONS)
MINUTE = 60_000_000

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: What a log is made of: rows and codes in place of ids and names, -1 for none; hashes as `convcg.data.text_hash` says.
ENCODED_EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("time", pa.int64()),  # microseconds since the epoch
        ("known", pa.int64()),  # when it was reported, at the earliest when it happened
        ("pin", pa.int32()),
        ("action", pa.int8()),
        ("surface", pa.int8()),
        ("dwell", pa.float32()),  # seconds, NaN for none
        ("request", pa.int64()),  # a hash
        ("event", pa.int64()),  # a hash of the event_id
        ("subject", pa.int32()),
        ("query", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Events of whole users; one entry an event, by user and then in *log order*: by time, and between equal times by
    every other column, so that the order in which events arrive decides nothing.

    user: int64, 0, 1, 2... in the order of `user_ids`.  time, known: int64 microseconds.  pin, advertiser, subject:
    int32, -1 for none.  action, surface: int8 codes, surface -1 for none.  dwell: float32 seconds, NaN for none.
    request: int64 hashes, -1 for none.  query: Arrow strings.
    """

    user_ids: pa.Array
    user: Ints
    time: Ints
    known: Ints
    pin: NDArray[np.int32]
    advertiser: NDArray[np.int32]
    action: NDArray[np.int8]
    surface: NDArray[np.int8]
    dwell: NDArray[np.float32]
    request: Ints
    subject: NDArray[np.int32]
    query: pa.Array

    def __len__(self) -> int:
        return len(self.time)

    def where(self, kept: Flags) -> "Log":
        """The events for which `kept` holds; users keep their numbers."""
        if kept.all():
            return self
        taken = {
            field.name: getattr(self, field.name)[kept]
            for field in fields(self)
            if field.name not in ("user_ids", "query")
        }
        return Log(user_ids=self.user_ids, query=self.query.filter(pa.array(kept)), **taken)

    def did(self, *codes: int) -> Flags:
        """Which events are one of these actions."""
        return np.isin(self.action, codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """How many events were left out because they had been reported before."""

    same_event_id: int
    same_purchase: int


def read_log(events: pa.Table, advertiser_N: NDArray[np.int32], *, duplicate_minutes: float) -> tuple[Log, Duplicates]:
    """Encoded events (`ENCODED_EVENTS`) in order, each once.

    `advertiser_N`: the advertiser's number of each pin row, -1 for none. An event is left out where one with the same
    `event_id`, of the same person, was known before; a conversion also where another of the same person, pin and action
    was known before that happened at most `duplicate_minutes` earlier or later (a tag and an API report one purchase).
    Only what was known before decides, so that leaving out never looks ahead.
    """
    log, event = _in_order(events, advertiser_N)
    fresh = ~_repeats_an_id(log, event)
    once, event_ids = log.where(fresh), int((~fresh).sum())
    kept = ~_repeats_a_purchase(once, int(duplicate_minutes * MINUTE))
    return once.where(kept), Duplicates(same_event_id=event_ids, same_purchase=int((~kept).sum()))


def _in_order(events: pa.Table, advertiser_N: NDArray[np.int32]) -> tuple[Log, Ints]:
    user_ids, user = ranked(events["user_id"].combine_chunks())
    columns = {name: events[name].to_numpy() for name in ENCODED_EVENTS.names if name not in ("user_id", "query")}
    order = np.lexsort((columns["time"], user))
    _settle_ties(order, user, columns, events["query"])
    event = columns.pop("event")[order]
    taken = {name: column[order] for name, column in columns.items()}
    query = events["query"].combine_chunks().take(pa.array(order))
    advertiser = advertiser_N[taken["pin"]]
    return Log(user_ids=user_ids, user=user[order], advertiser=advertiser, query=query, **taken), event


def _settle_ties(order: Ints, user: Ints, columns: dict[str, NDArray[np.generic]], query: pa.ChunkedArray) -> None:
    """Put events of one person and time in the order of their other columns, in place; few events are tied."""
    time = columns["time"][order]
    follows = np.zeros(len(order) + 1, bool)
    follows[1:-1] = (user[order][1:] == user[order][:-1]) & (time[1:] == time[:-1])
    tied = np.flatnonzero(follows[:-1] | follows[1:])
    rows = order[tied]
    group = np.cumsum(~follows[:-1])[tied]
    _, text = ranked(query.take(pa.array(rows)).combine_chunks())
    dwell = np.nan_to_num(columns["dwell"][rows], nan=-1.0, posinf=np.inf)
    names = ("action", "pin", "surface", "subject", "known")
    keys = (*(columns[name][rows] for name in names), text, columns["request"][rows], dwell)
    order[tied] = rows[np.lexsort((*reversed(keys), group))]


def ranked(strings: pa.Array) -> tuple[pa.Array, Ints]:
    """The distinct strings, sorted by their bytes, and where among them each entry stands; -1 for null."""
    coded = pc.dictionary_encode(strings)
    order = pc.array_sort_indices(coded.dictionary).to_numpy()
    rank = np.empty(len(order) + 1, np.int64)
    rank[order] = np.arange(len(order))
    rank[-1] = -1
    codes = pc.fill_null(coded.indices, -1).to_numpy()
    return coded.dictionary.take(pa.array(order)), rank[codes]


def _known_rank(log: Log) -> Ints:
    """Each event's place in the order in which events became known."""
    rank = np.empty(len(log), np.int64)
    rank[np.argsort(log.known, kind="stable")] = np.arange(len(log))
    return rank


def _repeats_an_id(log: Log, event: Ints) -> Flags:
    repeats = np.zeros(len(log), bool)
    with_id = np.flatnonzero(event != NO_HASH)
    by_id = with_id[np.argsort(event[with_id])]
    again = np.r_[False, event[by_id][1:] == event[by_id][:-1]]
    several = np.sort(by_id[again | np.r_[again[1:], False]]) if len(by_id) else by_id  # few ids occur twice
    order = several[np.lexsort((log.known[several], event[several], log.user[several]))]
    repeats[order[1:]] = (event[order][1:] == event[order][:-1]) & (log.user[order][1:] == log.user[order][:-1])
    return repeats


def _repeats_a_purchase(log: Log, window: int) -> Flags:
    repeats = np.zeros(len(log), bool)
    bought = np.flatnonzero(log.did(*CONVERSION_CODES))
    if len(bought) == 0:
        return repeats
    order = bought[np.lexsort((log.time[bought], log.action[bought], log.pin[bought], log.user[bought]))]
    changes = np.zeros(len(order), bool)
    for column in (log.user, log.pin, log.action):
        changes[1:] |= column[order][1:] != column[order][:-1]
    group = np.cumsum(changes)
    # Within a group times ascend; groups are put far apart, so that one search serves them all.
    time = log.time[order] - log.time[order].min()
    place = group * (time.max() + window + 1) + time
    first = np.searchsorted(place, place - window, side="left")
    after = np.searchsorted(place, place + window, side="right")
    several = np.flatnonzero(after - first > 1)
    rank = _known_rank(log)[order]
    repeats[order[several]] = _range_minimum(rank, first[several], after[several]) < rank[several]
    return repeats


def _range_minimum(values: Ints, first: Ints, after: Ints) -> Ints:
    """min(values[first[i]:after[i]]) of each non-empty range, with a table of minima over powers of two."""
    if len(first) == 0:
        return np.zeros(0, np.int64)
    level = np.frexp((after - first).astype(np.float64))[1] - 1  # the largest power of two within the range
    minimum = np.empty(len(first), np.int64)
    table = values
    for power in range(int(level.max()) + 1):
        if power:
            half = 1 << (power - 1)
            table = np.minimum(table[:-half], table[half:])
        at = np.flatnonzero(level == power)
        minimum[at] = np.minimum(table[first[at]], table[after[at] - (1 << power)])
    return minimum
