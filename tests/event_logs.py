"""Small random event logs full of ties, and what a partition must make of them, computed slowly and plainly."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from convcg.data.examples import DAY, ExamplesConfig, HistoryConfig, HistoryCutoff, SplitTimes
from convcg.data.partition import ENCODED_EVENTS, PartitionConfig
from convcg.types import ACTION_CODE, CONVERSIONS, Action

START = 20_000 * DAY
NUM_DAYS = 10
TIMES = SplitTimes(validation=START + 5 * DAY, test=START + 7 * DAY, end=START + NUM_DAYS * DAY)


class Event(NamedTuple):
    """One encoded event; `query` is "" for none."""

    user: str
    time: int
    action: int
    pin: int
    surface: int
    subject: int
    reported: int
    query: str


def _event(user: int, day: int, offset: int, action: int, pin: int, place: int, query: str, delay: int) -> Event:
    time = START + day * DAY + offset
    return Event(f"u{user}", time, action, pin, place - 1, place - 1, time + delay * DAY // 2, query)


#: Few people, pins and moments, so that repeats and equal timestamps are the rule.
LOGS = st.lists(
    st.builds(
        _event,
        user=st.integers(0, 1),
        day=st.integers(0, NUM_DAYS - 1),
        offset=st.sampled_from([0, 0, 1, 1_000_000, DAY // 2]),
        action=st.integers(0, 4),
        pin=st.integers(0, 2),
        place=st.sampled_from([0, 2]),
        query=st.sampled_from(["", "red lamp"]),
        delay=st.sampled_from([0, 0, 1, 5]),
    ),
    min_size=10,
    max_size=60,
)

_ACTIONS = st.lists(st.sampled_from(list(Action)), unique=True, min_size=1).map(tuple)
CONFIGS = st.builds(
    PartitionConfig,
    times=st.just(TIMES),
    examples=st.builds(
        ExamplesConfig,
        weights=st.dictionaries(st.sampled_from(list(Action)), st.sampled_from([0.25, 1.0]), min_size=1),
        once_per_pin=st.booleans(),
        evaluation_actions=_ACTIONS,
        attribution_days=st.sampled_from([0.5, 1.0, 3.0]),
    ),
    history=st.builds(
        HistoryConfig,
        length=st.integers(1, 6),
        actions=_ACTIONS,
        exclude_target=st.booleans(),
        evaluation_cutoff=st.sampled_from(list(HistoryCutoff)),
    ),
)


def as_table(events: list[Event]) -> pa.Table:
    """Encoded events in the given order."""
    columns = {
        "user_id": [event.user for event in events],
        "query": [event.query or None for event in events],
        **{
            name: [getattr(event, name) for event in events]
            for name in ("time", "reported", "pin", "action", "surface", "subject")
        },
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in ENCODED_EVENTS})


def touch_of(event: Event, events: list[Event], attribution_days: float) -> Event:
    """The click, else the impression, that led to a conversion; of equal times the last in log order."""
    if event.action not in [ACTION_CODE[action] for action in CONVERSIONS]:
        return event
    for kind in (Action.CLICK, Action.IMPRESSION):
        led = [
            other
            for other in sorted(events)
            if (other.user, other.pin, other.action) == (event.user, event.pin, ACTION_CODE[kind])
            and 0 <= event.time - other.time <= attribution_days * DAY
        ]
        if led:
            return led[-1]
    return event


def history_of(user: str, time: int, target: int, events: list[Event], config: HistoryConfig) -> dict[str, list[Any]]:
    """The history columns of one query."""
    past = [
        event
        for event in sorted(events)
        if event.user == user
        and event.time < time
        and event.action in [ACTION_CODE[action] for action in config.actions]
        and not (config.exclude_target and event.pin == target)
    ][-config.length :]
    return {
        "history_pin": [event.pin for event in past],
        "history_action": [event.action for event in past],
        "history_surface": [event.surface for event in past],
        "history_age": [float(np.float32((time - event.time) / 1e6)) for event in past],
    }


def purchased_by(user: str, time: int, events: list[Event]) -> list[int]:
    """The distinct pins that a person checked out strictly before a time."""
    checkout = ACTION_CODE[Action.CHECKOUT]
    return sorted({each.pin for each in events if (each.user, each.action) == (user, checkout) and each.time < time})


def _context(touch: Event) -> dict[str, Any]:
    return {"surface": max(touch.surface, 0), "subject_pin": touch.subject, "query": touch.query or None}


def training_rows(events: list[Event], config: PartitionConfig) -> list[dict[str, Any]]:
    """Every training example, in log order."""
    weights = {ACTION_CODE[action]: weight for action, weight in config.examples.weights.items()}
    rows, seen = [], set()
    for event in sorted(events):
        if event.action not in weights or max(event.time, event.reported) >= config.times.validation:
            continue
        if config.examples.once_per_pin and (event.user, event.pin) in seen:
            continue
        seen.add((event.user, event.pin))
        touch = touch_of(event, events, config.examples.attribution_days)
        history = history_of(event.user, touch.time, event.pin, events, config.history)
        rows.append(_context(touch) | history | {"target": event.pin, "weight": weights[event.action]})
    return rows


def evaluation_rows(events: list[Event], start: int, end: int, config: PartitionConfig) -> list[dict[str, Any]]:
    """Every evaluation query that is asked in a time range, in log order."""
    rows = []
    for event in sorted(events):
        touch = touch_of(event, events, config.examples.attribution_days)
        if event.action not in [ACTION_CODE[action] for action in config.examples.evaluation_actions]:
            continue
        if not start <= touch.time < end:
            continue
        at_request = config.history.evaluation_cutoff is HistoryCutoff.REQUEST
        known = touch.time if at_request else min(touch.time, config.times.validation)
        purchased = purchased_by(event.user, known, events)
        if config.history.exclude_target and event.pin in purchased:
            continue
        who = {"user_id": event.user, "time": known, "target": event.pin, "action": event.action}
        history = history_of(event.user, known, event.pin, events, config.history)
        rows.append(_context(touch) | history | who | {"purchased": purchased})
    return rows


def user_rows(events: list[Event], config: PartitionConfig) -> list[dict[str, Any]]:
    """What is known of each person at the end of the training time; `history_age` in place of the time."""
    at = config.times.validation
    return [
        {"user_id": user}
        | history_of(user, at, -1, events, config.history)
        | {"purchased": purchased_by(user, at, events)}
        for user in sorted({event.user for event in events})
    ]
