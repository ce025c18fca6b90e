"""The quarantine: it takes the rows that the validator counts, no others, and says what is wrong with each."""

import math
import time
from functools import partial
from itertools import product
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contract_tables import NOON, pins, validated
from hypothesis import given, settings
from hypothesis import strategies as st

from convcg import schema
from convcg.data.canonical import canonical
from convcg.data.quarantine import sound_rows
from convcg.data.validate import validate_tables
from convcg.data.violation import Rule
from convcg.errors import DataError

NOW = NOON + 86_400
FUTURE = int(time.time()) + 30 * 86_400
PIN_IDS = ["p1", "p2", "p3"]


def plainly_broken(row: dict, pin_ids: list[str] | None) -> list[tuple[str, str]]:
    """The rules that one event breaks and the columns that break them, in the order of the contract."""
    broken = []

    def note(condition: bool, rule: Rule, column: str) -> None:
        if condition:
            broken.append((rule.value, column))

    for column in schema.EVENTS.columns:
        name, value = column.name, row.get(column.name)
        if name in row:
            note(value is None and "or null" not in column.accepts, Rule.NULL, name)
        if value is None:
            continue
        if name in ("timestamp", "reported_at"):
            note(not 946_684_800 <= value < FUTURE, Rule.TIME_OUT_OF_RANGE, name)
        elif name.endswith("_id"):
            note(value == "", Rule.EMPTY_ID, name)
        elif name in ("dwell_seconds", "value"):
            note(not math.isfinite(value), Rule.NOT_FINITE, name)
            note(name == "dwell_seconds" and -math.inf < value < 0, Rule.NEGATIVE, name)
        elif name == "action":
            note(value not in ("impression", "click", "checkout"), Rule.UNKNOWN_ACTION, name)
        elif name == "surface":
            note(value not in ("search", "home_feed"), Rule.UNKNOWN_SURFACE, name)
    early = row.get("reported_at") is not None and row["timestamp"] is not None
    note(early and row["reported_at"] < row["timestamp"], Rule.REPORTED_BEFORE, "reported_at")
    for name in ("pin_id", "subject_pin_id"):
        stranger = pin_ids is not None and row.get(name) is not None and row[name] not in pin_ids
        note(stranger, Rule.UNKNOWN_PIN, name)
    return broken


TIME = st.sampled_from([NOON, NOON, NOON, NOON + 60, None, -5, NOON * 1000, FUTURE])
PIN = st.sampled_from([*PIN_IDS, *PIN_IDS, None, "", "p9"])
VALUES = {
    "timestamp": TIME,
    "user_id": st.sampled_from(["u1", "u2", "u3", "u4", "", None]),
    "pin_id": PIN,
    "action": st.sampled_from(["impression", "click", "checkout", "view", None]),
    "event_id": st.sampled_from(["e1", "e1", "e2", "", None]),
    "surface": st.sampled_from(["search", "home_feed", None, "tv"]),
    "dwell_seconds": st.sampled_from([None, 0.0, 1.5, -1.0, math.nan, math.inf, -math.inf]),
    "subject_pin_id": PIN,
    "value": st.sampled_from([None, -3.0, 2.0, math.nan]),
    "reported_at": TIME,
}
TYPES = {name: schema.EVENTS.by_name[name].type for name in VALUES} | {
    "timestamp": pa.int64(),
    "reported_at": pa.int64(),
}


@st.composite
def broken_logs(draw: st.DrawFn) -> list[list[dict]]:
    """The files of a log, as rows; some optional columns are absent."""
    optional = [column.name for column in schema.EVENTS.columns if not column.required and column.name in VALUES]
    absent = draw(st.sets(st.sampled_from(optional)))
    row = st.fixed_dictionaries({name: values for name, values in VALUES.items() if name not in absent})
    return draw(st.lists(st.lists(row, min_size=1, max_size=12), min_size=1, max_size=3))


def as_table(rows: list[dict]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], TYPES[name]) for name in rows[0]})


def same(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables are equal, NaN being equal to itself."""
    return one.schema == other.schema and repr(one.to_pylist()) == repr(other.to_pylist())


@settings(deadline=None)
@given(broken_logs(), st.booleans(), st.sampled_from([0.0, 0.3, 0.99]))
def test_what_is_set_aside_is_what_the_validator_counts_and_what_each_row_shows(log, has_pins, max_broken_share):
    pin_ids = PIN_IDS if has_pins else None
    with TemporaryDirectory() as directory:
        for number, rows in enumerate(log):
            pq.write_table(as_table(rows), f"{directory}/part-{number}.parquet")
        pins = None
        if has_pins:
            pins = f"{directory}/_pins.parquet"
            pq.write_table(pa.table({"pin_id": PIN_IDS}), pins)
        report = validate_tables(events=directory, pins=pins, users=None, max_broken_share=max_broken_share)
        blocks = [pq.read_table(f"{directory}/part-{number}.parquet") for number in range(len(log))]
    ids = None if pin_ids is None else pa.array(pin_ids)
    num_rows = num_broken = 0
    for rows, block in zip(log, blocks, strict=True):
        sound, broken = sound_rows(block, ids, now=report.checked_at)
        reasons = [plainly_broken(row, pin_ids) for row in rows]
        assert sound.num_rows == reasons.count([])
        assert same(sound, block.filter(pa.array([not each for each in reasons])))
        named = [*zip(broken["broken_rule"].to_pylist(), broken["broken_column"].to_pylist(), strict=True)]
        assert named == [each[0] for each in reasons if each]
        assert same(broken.select(block.column_names), block.filter(pa.array([bool(each) for each in reasons])))
        num_rows, num_broken = num_rows + block.num_rows, num_broken + broken.num_rows
    assert report.rows["events"] == num_rows
    assert report.broken_rows == num_broken
    assert (not report.violations) == (num_broken / num_rows <= max_broken_share)


@settings(deadline=None)
@given(broken_logs())
def test_sound_rows_have_nothing_more_to_set_aside_and_broken_ones_nothing_sound(log):
    ids = pa.array(PIN_IDS)
    for rows in log:
        sound, broken = sound_rows(as_table(rows), ids, now=NOW)
        assert sound_rows(sound, ids, now=NOW)[1].num_rows == 0
        none, again = sound_rows(broken, ids, now=NOW)
        assert none.num_rows == 0
        assert same(again, broken)


IDS = {
    "integers": pa.array([1, 2, None, 9]),
    "large strings": pa.array(["1", "2", None, "9"], pa.large_string()),
    "a dictionary": pa.array(["1", "2", None, "9"]).dictionary_encode(),
}
TIMES = {
    "seconds": pa.array([NOON] * 4),
    "milliseconds": pa.array([NOON * 1000] * 4, pa.timestamp("ms")),
    "nanoseconds": pa.array([NOON * 10**9] * 4, pa.timestamp("ns", "Europe/Berlin")),
}


@pytest.mark.parametrize(("ids", "times"), [*product(IDS, TIMES)])
def test_every_accepted_type_goes_through_unchanged_in_one_chunk_or_in_many(ids, times):
    columns = {"timestamp": TIMES[times], "user_id": IDS["integers"].fill_null(0), "pin_id": IDS[ids]}
    block = pa.table(columns | {"action": ["click"] * 4, "spare": [[1.0], None, [], [2.0]]})
    chunked = pa.concat_tables([block.slice(0, 1), block.slice(1)])
    for rows in (block, chunked):
        sound, broken = sound_rows(rows, pa.array(["1", "2", "3"]), now=NOW)
        assert same(sound, block.slice(0, 2))
        assert canonical(sound, schema.EVENTS).num_rows == 2
        assert same(broken.select(block.column_names), block.slice(2))
        assert broken["broken_rule"].to_pylist() == ["null", "pin that the pins table lacks"]
        assert broken["broken_column"].to_pylist() == ["pin_id", "pin_id"]


@pytest.mark.parametrize("num_rows", [0, 4])
def test_a_sound_block_is_handed_back_and_an_empty_quarantine_has_its_columns(num_rows):
    columns = {"timestamp": [NOON] * 4, "user_id": ["u1"] * 4, "pin_id": ["p1"] * 4, "action": ["click"] * 4}
    block = pa.table(columns).slice(0, num_rows)
    sound, broken = sound_rows(block, None, now=NOW)
    assert same(sound, block)
    assert broken.num_rows == 0
    assert broken.schema == block.schema.append(pa.field("broken_rule", pa.string())).append(
        pa.field("broken_column", pa.string())
    )


def test_the_future_begins_one_day_after_the_moment_of_the_check():
    block = pa.table({"timestamp": [NOW + 86_400, NOW + 86_401], "user_id": ["u"] * 2, "pin_id": ["p"] * 2})
    block = block.append_column("action", pa.array(["click"] * 2))
    assert sound_rows(block, None, now=NOW)[1]["timestamp"].to_pylist() == [NOW + 86_401]
    assert sound_rows(block, None, now=NOW + 1)[1].num_rows == 0


@pytest.fixture
def check(tmp_path):
    return partial(validated, tmp_path)


MANY = 20


def mostly_sound(**columns):
    """Twenty events; each column is given as the values of its first rows, the further ones are sound."""
    sound = {
        "timestamp": [NOON] * MANY,
        "user_id": ["u1"] * MANY,
        "pin_id": ["p1"] * MANY,
        "action": ["click"] * MANY,
        "subject_pin_id": ["p2"] * MANY,
    }
    return pa.table({name: columns.get(name, []) + rest[len(columns.get(name, [])) :] for name, rest in sound.items()})


def test_few_broken_events_are_tolerated_counted_and_noted(check):
    report = check(events=mostly_sound(action=["view", "view"], user_id=["u1", None]), max_broken_share=0.1)
    assert report.violations == ()
    report.raise_if_broken()
    assert report.broken_rows == 2
    assert {(each.column, each.rule): each.rows for each in report.tolerated} == {
        ("user_id", Rule.NULL): 1,
        ("action", Rule.UNKNOWN_ACTION): 2,
    }
    note = (
        "2 of 20 events are broken and will be set aside in quarantine: user_id: null (1), action: unknown action (2)"
    )
    assert note in report.notes
    for tolerated in report.tolerated:
        assert tolerated.text() in report.text()


def test_a_row_that_breaks_several_rules_counts_once_also_where_pins_are_unknown(check):
    one = mostly_sound(pin_id=["p9", "", "p9"], action=["view"], subject_pin_id=["p9", "p2", "p2", "p9"])
    report = check(events=[one, mostly_sound(), one], max_broken_share=0.5)
    assert report.broken_rows == 8
    assert {(each.column, each.rule): each.rows for each in report.tolerated if "part-0" in each.file} == {
        ("pin_id", Rule.EMPTY_ID): 1,
        ("action", Rule.UNKNOWN_ACTION): 1,
        ("pin_id", Rule.UNKNOWN_PIN): 3,
        ("subject_pin_id", Rule.UNKNOWN_PIN): 2,
    }


@pytest.mark.parametrize(("max_broken_share", "tolerated"), [(0.0, False), (0.29, True), (0.28, False)])
def test_a_share_at_the_limit_is_tolerated_and_one_above_it_names_share_limit_and_remedy(
    check, max_broken_share, tolerated
):
    table = pa.concat_tables([mostly_sound(action=["view"] * count) for count in (9, 20, 0, 0, 0)])
    report = check(events=table, max_broken_share=max_broken_share)
    assert report.broken_rows == 29
    assert (not report.violations) == tolerated
    if not tolerated:
        with pytest.raises(DataError) as error:
            report.raise_if_broken()
        assert "unknown action, 29 rows, e.g. 'view'" in str(error.value)
        assert str(error.value).endswith(
            "29 of 100 events are broken, a share of 0.29; "
            f"data.max_broken_share allows {max_broken_share:g}\n"
            "    remedy: mend these rows, or raise data.max_broken_share to have them set aside and counted"
        )


@pytest.mark.parametrize(
    "tables",
    [
        {"events": mostly_sound(action=["view"]).drop_columns(["user_id"])},
        {"events": mostly_sound(action=["view"]).set_column(1, "user_id", pa.array([0.5] * MANY))},
        {"pins": pins(price=[-1.0, 1.0, 1.0])},
        {"pins": pa.table({"pin_id": ["p1", "p1", "p2", "p3"]})},
        {"users": pa.table({"user_id": ["u1", "u2", None]})},
    ],
)
def test_broken_columns_and_broken_pins_and_users_are_never_tolerated(check, tables):
    report = check(**tables, max_broken_share=0.99)
    assert report.violations
    assert report.tolerated == ()
    with pytest.raises(DataError):
        report.raise_if_broken()


def test_no_row_of_a_log_is_tolerated_where_one_of_its_files_cannot_be_read(check, tmp_path):
    (tmp_path / "log").mkdir()
    pq.write_table(mostly_sound(action=["view"]), tmp_path / "log" / "a.parquet")
    (tmp_path / "log" / "b.parquet").write_bytes(b"no Parquet")
    report = check(events=str(tmp_path / "log"), max_broken_share=0.5)
    assert {violation.rule for violation in report.violations} == {Rule.UNKNOWN_ACTION, Rule.UNREADABLE}
    assert report.tolerated == ()
