"""Counts as of a day: against plain sums over random events and random logs, and blind to the day itself."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from observed import as_tables, examples_config, history_config
from random_logs import START, World, act, random_world
from reference_log import CLICK, DAY, IMPRESSION, Settings, log_of, pin_count, split_times, user_count

from convcg.data import day_counts as module
from convcg.data.day_counts import DAY_COUNTS, DayCounts, day_counts, merged
from convcg.data.event_codes import advertiser_numbers, encode_events
from convcg.data.feature_encoders import PREFIX, FeatureEncoder, fit_encoders
from convcg.data.partition import Partition, PartitionConfig, build_partition
from convcg.data.split import SplitConfig, SplitTimes
from convcg.features import Feature, Kind
from convcg.types import ACTIONS, Action

RNG = np.random.default_rng(3)


def random_events(size: int, days: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, times around midnights, and action codes."""
    key = RNG.integers(0, 6, size).astype(np.int32)
    known = RNG.integers(-days, days, size) * DAY + RNG.choice([0, 1, DAY - 1, DAY // 2], size)
    return key, known, RNG.integers(0, len(ACTIONS), size).astype(np.int8)


@pytest.mark.parametrize(("size", "days"), [(0, 3), (1, 1), (50, 3), (400, 20)])
def test_a_count_is_the_number_of_events_in_the_days_before(size: int, days: int) -> None:
    key, known, action = random_events(size, days)
    counts = DayCounts(day_counts(key, known, action))
    asked, day = RNG.integers(0, 9, 300), RNG.integers(-2 * days, 2 * days + 1, 300)
    for code, name in enumerate(ACTIONS):
        for window in (1, 2, 7, 3650):
            inside = (known >= (day[:, None] - window) * DAY) & (known < day[:, None] * DAY)
            expected = (inside & (key == asked[:, None]) & (action == code)).sum(1)
            assert counts.before(asked, day, name, window).tolist() == expected.tolist()


def test_counts_of_parts_add_up_to_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    key, known, action = random_events(300, 5)
    whole, part = day_counts(key, known, action), RNG.integers(0, 4, 300)
    parts = [day_counts(key[part == each], known[part == each], action[part == each]) for each in range(5)]
    assert whole.schema == DAY_COUNTS
    assert pc.sum(whole["count"]).as_py() == 300
    assert merged(parts).equals(whole)
    monkeypatch.setattr(module, "_HELD_ROWS", 10)  # add up as they come
    assert merged(iter(parts)).equals(whole)
    assert merged([]).num_rows == 0


PIN_COUNTS = (Action.CLICK, Action.IMPRESSION)
WINDOWS = (1, 3, 40)


def user_encoders() -> tuple[FeatureEncoder, ...]:
    features = [
        Feature(name=f"{action}_{days}", kind=Kind.COUNT, action=action, days=days)
        for action in ACTIONS
        for days in WINDOWS
    ]
    return fit_encoders(pa.table({}), features)


def built(world: World) -> tuple[Partition, SplitTimes]:
    """What comes of a world with counts of pins and people; it has no users table."""
    settings = world.settings
    table, pins = as_tables(world.events, world.advertisers)
    split = SplitConfig(
        as_of=settings.as_of,
        validation_days=settings.validation_days,
        test_days=settings.test_days,
        gap_days=settings.gap_days,
    )
    encoded = encode_events(table, pins)
    if split.seen_until is not None:
        encoded = encoded.filter(pa.array(encoded["known"].to_numpy() < split.seen_until))
    times = SplitTimes.of(int(encoded["time"].to_numpy().max()), split)
    config = PartitionConfig(
        times=times,
        examples=examples_config(settings),
        history=history_config(settings),
        median_dwell=None,
        pin_counts=PIN_COUNTS,
    )
    return build_partition(encoded, advertiser_numbers(pins), config, None, user_encoders()), times


def user_row(table: pa.Table, place: int, prefix: str) -> dict[str, float]:
    return {
        f"{action}_{days}": table[f"{prefix}{action}_{days}"][place].as_py() for action in ACTIONS for days in WINDOWS
    }


def counted(log: list[Any], user: str, day: int) -> dict[str, int]:
    return {
        f"{action}_{days}": user_count(log, user=user, day=day, action=code, days=days)
        for code, action in enumerate(ACTIONS)
        for days in WINDOWS
    }


def test_pins_and_people_of_random_logs_are_counted_as_the_reference_counts() -> None:
    nonzero = 0
    for seed in range(60):
        world = random_world(seed)
        partition, times = built(world)
        log = log_of(world.events, world.settings)
        assert times.train == split_times(log, world.settings).train
        pins = DayCounts(partition.pin_days)
        for day in range(times.train // DAY - 4, times.train // DAY + 1):
            rows = np.arange(len(world.advertisers))
            for action in PIN_COUNTS:
                for days in WINDOWS:
                    found = pins.before(rows, np.full(len(rows), day), action, days).tolist()
                    code = ACTIONS.index(action)
                    assert found == [pin_count(log, pin=pin, day=day, action=code, days=days) for pin in rows]
                    nonzero += sum(each > 0 for each in found)
        user_ids = partition.people["user_id"].to_pylist()
        for table in (partition.requests, partition.validation, partition.test):
            for place, (user, time) in enumerate(
                zip(*(table[name].to_pylist() for name in ("user", "time")), strict=True)
            ):
                expected = counted(log, user_ids[user], time // DAY)
                found = user_row(table, place, PREFIX)
                assert found == {
                    name: np.log1p(np.float64(count)).astype(np.float32) for name, count in expected.items()
                }
                nonzero += sum(count > 0 for count in expected.values())
        for place, user in enumerate(partition.states["user_id"].to_pylist()):
            assert user_row(partition.states, place, "") == counted(log, user, times.train // DAY)
    assert nonzero > 1000


def test_pins_are_counted_of_named_actions_and_of_the_training_time_alone() -> None:
    for seed in range(20):
        partition, times = built(random_world(seed))
        assert set(partition.pin_days["action"].to_pylist()) <= {ACTIONS.index(action) for action in PIN_COUNTS}
        assert max(partition.pin_days["day"].to_pylist(), default=0) < times.train // DAY


def test_a_count_sees_no_event_of_its_querys_day_or_later() -> None:
    """A click a microsecond before midnight counts, one at midnight does not, nor one that was known only then."""
    midnight = 3 * DAY
    query = act(CLICK, midnight + DAY // 2, pin=2)
    last = act(IMPRESSION, 9 * DAY)
    earlier = act(CLICK, midnight - 1, pin=1)
    for later in (
        act(CLICK, midnight, pin=1),
        act(CLICK, midnight + DAY // 2 - 1, pin=1),
        act(CLICK, midnight - 1, pin=1, reported=START + midnight),
    ):
        world = World([earlier, later, query, last], [None] * 3, Settings(visit_minutes=0.01))
        partition, _ = built(world)
        requests = partition.requests.filter(pa.array(partition.requests["time"].to_numpy() == query["time"]))
        assert requests[PREFIX + "click_40"].to_pylist() == [np.log1p(np.float64(1)).astype(np.float32)]
        day = np.array([query["time"] // DAY, query["time"] // DAY + 1])
        pins = DayCounts(partition.pin_days)
        assert pins.before(np.array([1, 1]), day, Action.CLICK, 40).tolist() == [1, 2]
        assert pins.before(np.array([2, 2]), day, Action.CLICK, 40).tolist() == [0, 1]  # its own target
