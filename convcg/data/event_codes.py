"""Events with rows, codes and hashes in place of ids and names: the first step of `prepare`."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg.data.log import ENCODED_EVENTS
from convcg.data.tables import RowTable
from convcg.data.text_hash import text_hash
from convcg.schema import EVENTS
from convcg.types import ACTIONS, SURFACES


def encode_events(events: pa.Table, pins: RowTable) -> pa.Table:
    """Canonical events (see `convcg.schema`) as `ENCODED_EVENTS`."""
    assert set(EVENTS.by_name) <= set(events.column_names)
    time, known = times_of(events)
    columns = {
        "user_id": events["user_id"],
        "time": time,
        "known": known,
        "pin": pa.array(pins.rows(events["pin_id"])),
        "action": code_of(events["action"], [action.value for action in ACTIONS]),
        "surface": code_of(events["surface"], [surface.value for surface in SURFACES]),
        "dwell": pc.fill_null(events["dwell_seconds"], float("nan")),
        "request": text_hash(events["request_id"]),
        "event": text_hash(events["event_id"]),
        "subject": pa.array(pins.rows(events["subject_pin_id"])),
        "query": events["query"],
    }
    return pa.table(columns).cast(ENCODED_EVENTS)


def times_of(events: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When each canonical event happened, and when it was known: microseconds since the epoch."""
    time = events["timestamp"].cast(pa.int64())
    reported = pc.coalesce(events["reported_at"].cast(pa.int64()), time)
    return time.to_numpy(), np.maximum(time.to_numpy(), reported.to_numpy())


def code_of(names: pa.ChunkedArray, values: list[str]) -> pa.ChunkedArray:
    """The position of each name among `values` as int8; -1 for null."""
    return pc.fill_null(pc.index_in(names, value_set=pa.array(values), skip_nulls=True), -1).cast(pa.int8())


def advertiser_numbers(pins: RowTable) -> NDArray[np.int32]:
    """[N] int32: a number for the advertiser of each pin row, -1 for none."""
    column = pins.column("advertiser_id")
    if column is None:
        return np.full(len(pins), -1, np.int32)
    return np.asarray(pc.fill_null(pc.dictionary_encode(column).indices, -1), np.int32)
