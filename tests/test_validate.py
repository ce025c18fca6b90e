"""The validator: each rule is found where it is broken, all of them together, and a valid table passes as it should."""

import math
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from contract_tables import NOON, broken, events, pins, users, validated

from convcg import schema
from convcg.data.violation import REMEDIES, Rule
from convcg.errors import DataError


@pytest.fixture
def check(tmp_path):
    return partial(validated, tmp_path)


def test_valid_tables_have_no_violations_and_the_notes_say_what_falls_away(check):
    report = check()
    assert report.violations == ()
    assert report.rows == {"events": 3, "pins": 3, "users": 2}
    assert "events.surface is absent: every request counts as home_feed" in report.notes
    optional = [
        column
        for table in (schema.EVENTS, schema.PINS, schema.USERS)
        for column in table.columns
        if not column.required
    ]
    assert len(report.notes) == len(optional)
    report.raise_if_broken()


def test_events_alone_are_enough(check):
    report = check(pins=None, users=None)
    assert report.violations == ()
    assert "there is no pins table: pins are known by their id alone" in report.notes
    assert "there is no users table: users are known by their id alone" in report.notes


@pytest.mark.parametrize(
    ("columns", "column", "rule", "rows"),
    [
        ({"pin_id": None}, "pin_id", Rule.MISSING_COLUMN, 0),
        ({"timestamp": pa.array([1.0, 2.0, 3.0])}, "timestamp", Rule.WRONG_TYPE, 0),
        ({"user_id": pa.array([1.0, 2.0, 3.0])}, "user_id", Rule.WRONG_TYPE, 0),
        ({"action": pa.array([1, 2, 3])}, "action", Rule.WRONG_TYPE, 0),
        ({"dwell_seconds": ["1", "2", "3"]}, "dwell_seconds", Rule.WRONG_TYPE, 0),
        ({"query": pa.array([b"a", b"b", b"c"])}, "query", Rule.WRONG_TYPE, 0),
        ({"user_id": ["u1", None, None]}, "user_id", Rule.NULL, 2),
        ({"user_id": pa.nulls(3)}, "user_id", Rule.NULL, 3),
        ({"user_id": ["u1", "", "u2"]}, "user_id", Rule.EMPTY_ID, 1),
        ({"request_id": ["", "", None]}, "request_id", Rule.EMPTY_ID, 2),
        ({"timestamp": pa.array([NOON, None, NOON])}, "timestamp", Rule.NULL, 1),
        ({"action": ["click", None, "click"]}, "action", Rule.NULL, 1),
        ({"action": ["click", "view", "Click"]}, "action", Rule.UNKNOWN_ACTION, 2),
        ({"surface": ["search", "homefeed", None]}, "surface", Rule.UNKNOWN_SURFACE, 1),
        ({"pin_id": ["p1", "p9", "p9"]}, "pin_id", Rule.UNKNOWN_PIN, 2),
        ({"subject_pin_id": ["p1", "p9", None]}, "subject_pin_id", Rule.UNKNOWN_PIN, 1),
        ({"timestamp": pa.array([NOON, 946_684_799, 946_684_800])}, "timestamp", Rule.TIME_OUT_OF_RANGE, 1),
        ({"timestamp": pa.array([NOON, NOON * 1000, NOON * 10**9])}, "timestamp", Rule.TIME_OUT_OF_RANGE, 2),
        ({"reported_at": pa.array([None, NOON + 60, NOON + 119])}, "reported_at", Rule.REPORTED_BEFORE, 1),
        ({"dwell_seconds": [-1.0, 0.0, None]}, "dwell_seconds", Rule.NEGATIVE, 1),
        ({"dwell_seconds": [math.nan, math.inf, 1.0]}, "dwell_seconds", Rule.NOT_FINITE, 2),
    ],
)
def test_one_broken_rule_in_events(check, columns, column, rule, rows):
    report = check(events=events(**columns))
    assert broken(report) == {("events", column, rule): rows}
    violation = report.violations[0]
    assert violation.file.endswith("events.parquet")
    assert violation.remedy
    assert (violation.sample is not None) == (rule not in (Rule.NULL, Rule.MISSING_COLUMN))


@pytest.mark.parametrize(
    ("columns", "column", "rule", "rows"),
    [
        ({"pin_id": ["p1", "p2", "p2", "p3"]}, "pin_id", Rule.DUPLICATE_ID, 1),
        ({"price": [1.0, -0.5, None, 0.0]}, "price", Rule.NEGATIVE, 1),
        ({"price": [1, -5, None, 0]}, "price", Rule.NEGATIVE, 1),
        ({"price": [1.0, math.nan, None, 0.0]}, "price", Rule.NOT_FINITE, 1),
        ({"surfaces": [["search"], ["search", "tv"], None, []]}, "surfaces", Rule.UNKNOWN_SURFACE, 1),
        ({"surfaces": [[1], [2], None, []]}, "surfaces", Rule.WRONG_TYPE, 0),
        ({"in_stock": [1, 0, 1, 1]}, "in_stock", Rule.WRONG_TYPE, 0),
        ({"visual": [[1.0, math.nan], [1.0, 2.0], None, [math.inf, math.nan]]}, "visual", Rule.NOT_FINITE, 2),
        ({"visual": [[1.0, 2.0], [1.0], None, [1.0, 2.0, 3.0]]}, "visual", Rule.UNEQUAL_VECTORS, 2),
        ({"visual": [[1.0, None], [1.0, 2.0], None, [1.0, 2.0]]}, "visual", Rule.NOT_FINITE, 1),
    ],
)
def test_one_broken_rule_in_pins(check, columns, column, rule, rows):
    report = check(pins=pa.table({"pin_id": ["p1", "p2", "p3", "p4"]} | columns))
    assert broken(report) == {("pins", column, rule): rows}


def test_a_fixed_size_vector_is_checked_too_and_its_nulls_are_fine(check):
    vectors = pa.array([[1.0, 2.0], None, [math.nan, 1.0]], pa.list_(pa.float32(), 2))
    assert broken(check(pins=pins(visual=vectors))) == {("pins", "visual", Rule.NOT_FINITE): 1}


def test_duplicate_users(check):
    report = check(users=pa.table({"user_id": ["u1", "u1", "u1", "u2"]}))
    assert broken(report) == {("users", "user_id", Rule.DUPLICATE_ID): 2}
    assert report.violations[0].sample == "'u1'"


def test_duplicates_and_vector_lengths_are_compared_across_files(check):
    first = pa.table({"pin_id": ["p1", "p2"], "visual": [[1.0, 2.0], [1.0, 2.0]]})
    second = pa.table({"pin_id": ["p3", "p1"], "visual": [[1.0, 2.0, 3.0], None]})
    report = check(pins=[first, second])
    assert broken(report) == {
        ("pins", "pin_id", Rule.DUPLICATE_ID): 1,
        ("pins", "visual", Rule.UNEQUAL_VECTORS): 1,
    }
    assert {Path(violation.file).name for violation in report.violations} == {"part-1.parquet"}
    assert "2 entries" in next(v.remedy for v in report.violations if v.rule is Rule.UNEQUAL_VECTORS)


def test_the_same_id_as_text_and_as_integer_is_one_id(check):
    report = check(
        events=events(pin_id=[1, 2, 3]), pins=[pa.table({"pin_id": ["1", "2"]}), pa.table({"pin_id": [3, 1]})]
    )
    assert broken(report) == {("pins", "pin_id", Rule.DUPLICATE_ID): 1}


def test_everything_is_reported_at_once_file_by_file(check):
    good, bad = events(), events(action=["click", "view", None], pin_id=["p1", "", "p7"])
    report = check(events=[good, bad, bad], pins=pins(price=[-1.0, 1.0, 1.0]), users=users(country=[1, 2]))
    found = {(v.table, Path(v.file).name, v.column, v.rule) for v in report.violations}
    in_bad_file = [
        ("action", Rule.NULL),
        ("action", Rule.UNKNOWN_ACTION),
        ("pin_id", Rule.EMPTY_ID),
        ("pin_id", Rule.UNKNOWN_PIN),
    ]
    assert found == {
        ("pins", "pins.parquet", "price", Rule.NEGATIVE),
        ("users", "users.parquet", "country", Rule.WRONG_TYPE),
        *(("events", f"part-{number}.parquet", *each) for number in (1, 2) for each in in_bad_file),
    }
    with pytest.raises(DataError) as error:
        report.raise_if_broken()
    for violation in report.violations:
        assert violation.text() in str(error.value)
        assert violation.text() in report.text()
    assert "10 violations:" in report.text()


def test_many_batches_add_up_to_one_violation(check):
    count = 150_000
    many = pa.table(
        {
            "timestamp": pa.array([NOON] * count),
            "user_id": ["u1"] * count,
            "pin_id": ["p9"] * count,
            "action": ["view"] * count,
        }
    )
    assert broken(check(events=many)) == {
        ("events", "action", Rule.UNKNOWN_ACTION): count,
        ("events", "pin_id", Rule.UNKNOWN_PIN): count,
    }


def test_unknown_users_are_a_note_not_a_violation(check):
    report = check(events=events(user_id=["u1", "u8", "u9"]))
    assert report.violations == ()
    assert any(note.startswith("2 events are by users that the users table lacks") for note in report.notes)


def test_pins_are_not_called_unknown_where_the_pins_table_is_broken(check):
    report = check(events=events(pin_id=["p7", "p8", "p9"]), pins=pa.table({"id": ["p1"]}))
    assert broken(report) == {("pins", "pin_id", Rule.MISSING_COLUMN): 0}


def test_a_column_missing_in_some_files_is_counted(check):
    report = check(events=[events(), events(query=["a", "b", "c"])])
    assert "events.query is absent in 1 of 2 files: search has no query as context" in report.notes


def test_nothing_to_read(check, tmp_path):
    (tmp_path / "empty").mkdir()
    report = check(events=str(tmp_path / "empty"), pins=pins().slice(0, 0))
    assert broken(report) == {("events", None, Rule.NO_FILES): 0, ("pins", None, Rule.EMPTY_TABLE): 0}


def test_a_column_name_that_occurs_twice(check):
    twice = pa.Table.from_arrays([pa.array(["p1", "p2", "p3"])] * 2, names=["pin_id", "pin_id"])
    assert broken(check(pins=twice)) == {("pins", "pin_id", Rule.REPEATED_COLUMN): 0}


def test_the_future_begins_after_one_day(check):
    now = int(time.time())
    fine, too_late = now + 3600, now + 2 * 86_400
    report = check(events=events(timestamp=pa.array([NOON, fine, too_late])))
    assert broken(report) == {("events", "timestamp", Rule.TIME_OUT_OF_RANGE): 1}


def test_columns_that_a_recipe_needs(check):
    ragged = {"visual": [[1.0], [1.0, 2.0], [1.0]], "spare": [[1.0], [1.0, 2.0], [1.0]]}
    report = check(pins=pins(**ragged), features={"pins": ["visual", "price", "title"], "users": ["age_band"]})
    assert broken(report) == {
        ("pins", "price", Rule.MISSING_COLUMN): 0,
        ("pins", "title", Rule.MISSING_COLUMN): 0,
        ("users", "age_band", Rule.MISSING_COLUMN): 0,
        ("pins", "visual", Rule.UNEQUAL_VECTORS): 1,
    }


def test_every_rule_has_a_remedy():
    assert set(REMEDIES) == set(Rule)
