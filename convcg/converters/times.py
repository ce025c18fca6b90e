"""Integers since the epoch as timestamps of the contract."""

import time

import pyarrow as pa
import pyarrow.compute as pc

from convcg.schema import TIMESTAMP

_EARLIEST = 946_684_800  # 2000-01-01T00:00:00Z, where the contract's times begin
_DAY = 86_400
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}


def from_epoch(values: pa.Array, *, unit: str) -> pa.Array:
    """int64 in `unit` (s, ms, us) as UTC timestamps; null where null, before 2000 or more than a day ahead.

    Values in a wrong unit come out as nulls, which no time of the contract may be.
    """
    scale = _PER_SECOND[unit]
    latest = int(time.time()) + _DAY
    sound = pc.and_(pc.greater_equal(values, _EARLIEST * scale), pc.less(values, latest * scale))
    return pc.if_else(sound, values, None).cast(pa.timestamp(unit, tz="UTC")).cast(TIMESTAMP)
