"""Canonical types: every type that a file may hold is valid and is cast to the same values; no other type passes."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convcg import schema
from convcg.data.canonical import accepts, canonical
from convcg.data.validate import validate_tables
from convcg.errors import DataError

NOON = 1_736_164_800  # 2025-01-06T12:00:00Z
SECONDS = pa.array([NOON, NOON + 60, NOON + 120])
TIMES = {
    "int32": SECONDS.cast(pa.int32()),
    "uint64": SECONDS.cast(pa.uint64()),
    **{
        f"{unit}-{zone}": SECONDS.cast(pa.timestamp("s")).cast(pa.timestamp(unit, zone))
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC", "Europe/Berlin")
    },
}
IDS = [
    pa.array(["1", "2", "3"], pa.large_string()),
    pa.array(["1", "2", "3"]).dictionary_encode(),
    pa.array([1, 2, 3], pa.int8()),
    pa.array([1, 2, 3], pa.uint64()),
    pa.array([1, 2, 3]).dictionary_encode(),
]


def events(**columns):
    base = {"timestamp": SECONDS, "user_id": ["1", "2", "3"], "pin_id": ["1", "2", "3"], "action": ["click"] * 3}
    return pa.table(base | columns)


def violations(table, path):
    pq.write_table(table, path)
    return validate_tables(events=str(path), pins=str(path), users=None).violations


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES.keys())
def test_every_accepted_time_means_the_same_instant(times, tmp_path):
    table = events(timestamp=times, reported_at=times)
    assert violations(table, tmp_path / "events.parquet") == ()
    result = canonical(table, schema.EVENTS)
    noon = datetime(2025, 1, 6, 12, tzinfo=UTC)
    for name in ("timestamp", "reported_at"):
        assert result.schema.field(name).type == schema.TIMESTAMP
        assert result.column(name).to_pylist() == [noon + timedelta(minutes=minute) for minute in range(3)]


@pytest.mark.parametrize("ids", IDS, ids=lambda ids: str(ids.type))
def test_every_accepted_id_becomes_a_string(ids, tmp_path):
    table = events(user_id=ids, pin_id=ids, subject_pin_id=ids)
    assert violations(table, tmp_path / "events.parquet") == ()
    for name in ("user_id", "pin_id", "subject_pin_id"):
        assert canonical(table, schema.EVENTS).column(name).combine_chunks() == pa.array(["1", "2", "3"])


def test_nanoseconds_are_truncated_and_nulls_stay_null():
    times = pa.array([NOON * 10**9 + 1_999, None], pa.timestamp("ns"))
    result = canonical(events().slice(0, 2).set_column(0, "timestamp", times), schema.EVENTS)
    assert result.column("timestamp").cast(pa.int64()).to_pylist() == [NOON * 10**6 + 1, None]


def test_the_contracts_columns_come_first_then_the_further_ones_as_they_are():
    further = pa.array([[1.0], None, [2.0]], pa.list_(pa.float16()))
    table = pa.table(
        {
            "visual": further,
            "price": pa.array([16_777_217, 2, None]),
            "surfaces": pa.array([["search"], None, []], pa.large_list(pa.large_string())),
            "pin_id": [7, 8, 9],
            "in_stock": pa.nulls(3),
        }
    )
    result = canonical(table, schema.PINS)
    contract = schema.PINS.columns
    assert result.column_names == [*(column.name for column in contract), "visual"]
    assert [result.schema.field(column.name).type for column in contract] == [column.type for column in contract]
    assert result.column("price").to_pylist() == [16_777_216.0, 2.0, None]
    assert result.column("surfaces").to_pylist() == [["search"], None, []]
    assert result.column("countries").null_count == 3
    assert result.column("visual").combine_chunks() == further
    assert canonical(result, schema.PINS) == result


def test_an_empty_table_is_cast_too():
    assert canonical(events().slice(0, 0), schema.EVENTS).schema == canonical(events(), schema.EVENTS).schema


@pytest.mark.parametrize(
    "column", [each for table in (schema.EVENTS, schema.PINS, schema.USERS) for each in table.columns]
)
def test_no_column_accepts_what_it_does_not_name(column):
    assert accepts(column, column.type)
    assert accepts(column, pa.null())
    for other in (pa.binary(), pa.date32(), pa.struct([("a", pa.string())]), pa.list_(pa.float32())):
        assert not accepts(column, other)


def test_what_the_validator_refuses_is_refused():
    with pytest.raises(DataError, match=r"events.user_id is double, but must be string or integer"):
        canonical(events(user_id=[1.0, 2.0, 3.0]), schema.EVENTS)
    with pytest.raises(DataError, match="events has no column action, which is required"):
        canonical(events().drop_columns("action"), schema.EVENTS)
