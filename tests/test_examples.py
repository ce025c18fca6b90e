"""Examples, histories, purchases and user states against a slow reference, on random logs full of ties; and no leak."""

import random

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from event_logs import (
    CONFIGS,
    LOGS,
    START,
    TIMES,
    Event,
    as_table,
    evaluation_rows,
    touch_of,
    training_rows,
    user_rows,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from convcg import schema
from convcg.data.canonical import canonical
from convcg.data.examples import DAY, ExamplesConfig, HistoryConfig, Log, SplitConfig, SplitTimes, attributed_touch
from convcg.data.feature_encoders import PREFIX, fit_encoders
from convcg.data.partition import ENCODED_EVENTS, Partition, PartitionConfig, build_partition, encode_events
from convcg.data.tables import RowTable
from convcg.features import Feature, Kind
from convcg.types import ACTION_CODE, Action

on_random_logs = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def build(events: list[Event], config: PartitionConfig) -> Partition:
    return build_partition(as_table(events), config, None, ())


def in_any_order(rows: list) -> list:
    return sorted(rows, key=repr)


def event(action: Action, day: float, *, pin: int = 0, user: str = "u0", reported: float | None = None) -> Event:
    time = START + int(day * DAY)
    known = time if reported is None else START + int(reported * DAY)
    return Event(user, time, ACTION_CODE[action], pin, 0, -1, known, "")


def config(**parts) -> PartitionConfig:
    parts = {"times": TIMES, "examples": ExamplesConfig(), "history": HistoryConfig()} | parts
    return PartitionConfig(**parts)


@on_random_logs
@given(events=LOGS, days=st.sampled_from([0.5, 1.0, 3.0]))
def test_a_conversion_belongs_to_the_last_click_else_impression(events: list[Event], days: float) -> None:
    log = Log.of(as_table(events))
    touch = attributed_touch(log, int(days * DAY))
    expected = [touch_of(event, events, days) for event in sorted(events)]
    assert log.time[touch].tolist() == [event.time for event in expected]
    assert log.action[touch].tolist() == [event.action for event in expected]
    assert log.surface[touch].tolist() == [event.surface for event in expected]
    assert log.query.take(pa.array(touch)).to_pylist() == [event.query or None for event in expected]


@on_random_logs
@given(events=LOGS, config=CONFIGS)
def test_training_examples_are_those_of_the_reference(events: list[Event], config: PartitionConfig) -> None:
    found = build(events, config).train.to_pylist()
    assert in_any_order(found) == in_any_order(training_rows(events, config))


@on_random_logs
@given(events=LOGS, config=CONFIGS)
def test_evaluation_queries_are_those_of_the_reference(events: list[Event], config: PartitionConfig) -> None:
    built, times = build(events, config), config.times
    assert built.validation.to_pylist() == evaluation_rows(events, times.validation, times.test, config)
    assert built.test.to_pylist() == evaluation_rows(events, times.test, times.end, config)


@on_random_logs
@given(events=LOGS, config=CONFIGS)
def test_user_states_are_those_of_the_reference(events: list[Event], config: PartitionConfig) -> None:
    users = build(events, config).users
    expected = user_rows(events, config)
    ages = [row.pop("history_age") for row in expected]
    times = users["history_time"].to_pylist()
    assert users.drop_columns(["history_time"]).to_pylist() == expected
    assert times == [[config.times.validation / 1e6 - age for age in row] for row in ages]


@on_random_logs
@given(events=LOGS, config=CONFIGS)
def test_interactions_are_what_people_did_in_the_training_time(events: list[Event], config: PartitionConfig) -> None:
    users = sorted({event.user for event in events})
    expected = [
        {"user": users.index(event.user), "pin": event.pin, "action": event.action}
        for event in sorted(events)
        if event.time < config.times.validation and event.action != ACTION_CODE[Action.IMPRESSION]
    ]
    assert build(events, config).interactions.to_pylist() == expected


@on_random_logs
@given(events=LOGS, config=CONFIGS, delay=st.integers(0, 3 * DAY))
def test_what_happens_from_the_validation_time_on_changes_no_training_example(
    events: list[Event], config: PartitionConfig, delay: int
) -> None:
    border = config.times.validation
    train = build(events, config).train
    shifted = [
        each._replace(time=each.time + delay, reported=each.reported + delay, pin=0) if each.time >= border else each
        for each in events
    ]
    assert build(shifted, config).train.equals(train)
    assert build([each for each in events if each.time < border], config).train.equals(train)


@on_random_logs
@given(events=LOGS, config=CONFIGS)
def test_no_history_reaches_the_moment_of_its_query(events: list[Event], config: PartitionConfig) -> None:
    built = build(events, config)
    for table in (built.train, built.validation, built.test):
        assert (pc.list_flatten(table["history_age"]).to_numpy() > 0).all()


@on_random_logs
@given(events=LOGS, config=CONFIGS, seed=st.integers(0, 9))
def test_the_order_of_the_input_does_not_matter(events: list[Event], config: PartitionConfig, seed: int) -> None:
    shuffled = events[:]
    random.Random(seed).shuffle(shuffled)
    built, other = build(events, config), build(shuffled, config)
    for part in ("train", "validation", "test", "interactions", "users"):
        assert getattr(other, part).equals(getattr(built, part)), part


def test_no_events_make_empty_tables_of_the_usual_columns() -> None:
    empty, usual = build([], config()), build([event(Action.CHECKOUT, 1)], config())
    for part in ("train", "validation", "test", "interactions", "users"):
        assert getattr(empty, part).num_rows == 0
        assert getattr(empty, part).schema == getattr(usual, part).schema


def test_a_conversion_is_asked_for_at_its_click_with_the_history_of_then() -> None:
    events = [
        event(Action.CLICK, 1, pin=3),
        event(Action.CLICK, 2),
        event(Action.CLICK, 2.5, pin=2),
        event(Action.CHECKOUT, 3),
    ]
    [row] = build(events, config()).train.to_pylist()
    assert (row["target"], row["history_pin"], row["history_age"]) == (0, [3], [86_400.0])


def test_a_conversion_reported_after_the_training_time_is_no_example() -> None:
    assert build([event(Action.CHECKOUT, 4, reported=5)], config()).train.num_rows == 0
    assert build([event(Action.CHECKOUT, 4, reported=4.99)], config()).train.num_rows == 1


def test_an_action_of_weight_zero_is_no_positive() -> None:
    weights = {Action.CHECKOUT: 1.0, Action.CLICK: 0.0}
    events = [event(Action.CLICK, 1, pin=2), event(Action.CHECKOUT, 2)]
    built = build(events, config(examples=ExamplesConfig(weights=weights)))
    assert built.train["target"].to_pylist() == [0]


@pytest.mark.parametrize("seconds", [0, 1, 86_399])
def test_the_split_counts_whole_days_back_from_the_last_days_midnight(seconds: int) -> None:
    last = START + seconds * 1_000_000
    times = SplitTimes.of(last, SplitConfig(validation_days=2, test_days=3))
    assert times == SplitTimes(validation=START - 4 * DAY, test=START - 2 * DAY, end=START + DAY)


def test_events_are_encoded_to_rows_and_codes() -> None:
    raw = pa.table(
        {
            "timestamp": pa.array([5, 6], pa.int64()),
            "user_id": ["b", "a"],
            "pin_id": ["p2", "p9"],
            "action": ["checkout", "impression"],
            "surface": ["search", None],
            "subject_pin_id": [None, "p1"],
            "query": ["lamp", None],
            "reported_at": pa.array([7, None], pa.int64()),
        }
    )
    encoded = encode_events(canonical(raw, schema.EVENTS), RowTable(pa.table({"pin_id": ["p1", "p2"]})))
    assert encoded.schema == ENCODED_EVENTS
    assert [tuple(row.values()) for row in encoded.to_pylist()] == [
        ("b", 5_000_000, 7_000_000, 1, 4, 2, -1, "lamp"),
        ("a", 6_000_000, 6_000_000, -1, 0, -1, 0, None),
    ]


def test_a_query_carries_its_persons_encoded_features() -> None:
    users = RowTable(pa.table({"user_id": ["u0", "u2"], "country": ["FR", "DE"], "age": [10.0, 30.0]}))
    features = (Feature(name="country", kind=Kind.CATEGORY), Feature(name="age", kind=Kind.NUMBER))
    encoders = fit_encoders(users.table, features)
    events = [event(Action.CHECKOUT, 1, user=user) for user in ("u2", "u1", "u0")]
    events += [each._replace(time=each.time + 7 * DAY, reported=each.time + 7 * DAY) for each in events]
    built = build_partition(as_table(events), config(), users, encoders)
    test = {row["user_id"]: row for row in built.test.to_pylist()}
    assert {user: row[PREFIX + "country"] for user, row in test.items()} == {"u0": 2, "u1": 0, "u2": 1}
    assert {user: row[PREFIX + "age"] for user, row in test.items()} == {"u0": -1.0, "u1": None, "u2": 1.0}
    assert sorted(built.train[PREFIX + "country"].to_pylist()) == [0, 1, 2]


def test_examples_are_mixed_always_in_the_same_way() -> None:
    events = [event(Action.CHECKOUT, 1, user=f"u{number:03d}", pin=number) for number in range(50)]
    first, again = (build(events, config()).train["target"].to_pylist() for _ in range(2))
    assert first == again
    assert first != sorted(first) == list(range(50))
