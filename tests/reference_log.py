"""A slow and plain reading of a log: its order, its split, its duplicates, attribution, histories and counts.

Nothing here is shared with the package, so that the two cannot be wrong in the same way.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND
IMPRESSION, CLICK, REPIN, ADD_TO_CART, CHECKOUT = range(5)
ACTIONS = ("impression", "click", "repin", "add_to_cart", "checkout")
LEVELS = ("pin_click", "pin_impression", "advertiser_click", "advertiser_impression")
NO_TOUCH = 4
LONGEST_DWELL = 1800


@dataclass(frozen=True)
class Settings:
    """Every knob of the pipeline; days, minutes and seconds are numbers, actions and levels are names."""

    as_of: date | None = None
    validation_days: float = 1.0
    test_days: float = 1.0
    gap_days: float = 0.0
    duplicate_minutes: float = 10.0
    levels: tuple[str, ...] = LEVELS
    click_days: float = 7.0
    impression_days: float = 1.0
    keep_unattributed: bool = True
    weights: dict[str, float] = field(
        default_factory=lambda: {"click": 0.25, "repin": 0.5, "add_to_cart": 0.75, "checkout": 1.0}
    )
    evaluation_actions: tuple[str, ...] = ("checkout",)
    visit_minutes: float = 30.0
    dwell_curve: str = "log_ratio"
    dwell_cap_seconds: float = 60.0
    dwell_floor: float = 0.1
    per_user: int | None = None
    per_pin: int | None = None
    per_advertiser: int | None = None
    negatives_per_request: int = 4
    history_length: int = 8
    history_actions: tuple[str, ...] = ("click", "repin", "add_to_cart", "checkout")
    exclude_target: bool = False
    evaluation_cutoff: str = "request"  # or "split"


class Times(NamedTuple):
    """The borders of the split; `train` ends the training time, `validation` and `test` begin those ranges."""

    train: int
    validation: int
    test: int
    end: int


@dataclass(frozen=True)
class Event:
    """One event; `position` is its place among its user's events in log order."""

    event_id: str | None
    user: str
    time: int
    known: int
    pin: int
    action: int
    surface: int
    dwell: float | None
    request: str | None
    subject: int
    query: str | None
    position: int = -1


# --- the log ----------------------------------------------------------------------------------------------------------


def read(events: Iterable[dict[str, Any]], settings: Settings) -> list[Event]:
    """The events known before the as-of day, those of a user in log order, with their positions."""
    by_user: dict[str, list[Event]] = {}
    for row in events:
        event = Event(
            event_id=row["event_id"],
            user=row["user_id"],
            time=row["time"],
            known=max(row["time"], row["time"] if row["reported"] is None else row["reported"]),
            pin=row["pin"],
            action=row["action"],
            surface=row["surface"],
            dwell=None if row["dwell"] is None or math.isnan(row["dwell"]) else float(np.float32(row["dwell"])),
            request=row["request_id"],
            subject=row["subject"],
            query=row["query"],
        )
        if settings.as_of is None or event.known < midnight(settings.as_of):
            by_user.setdefault(event.user, []).append(event)
    return [
        replace(event, position=position)
        for user in sorted(by_user)
        for position, event in enumerate(sorted(by_user[user], key=log_order))
    ]


def midnight(day: date) -> int:
    """The first microsecond of a day, UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * SECOND


def log_order(event: Event) -> tuple[Any, ...]:
    """The sort key of one user's events."""
    numbers = (event.time, event.action, event.pin, event.surface, event.subject, event.known)
    dwell = -1.0 if event.dwell is None else event.dwell
    return (*numbers, none_first(event.query), hashed(event.request), dwell)


def hashed(text: str | None) -> int:
    """What stands for a request's id, and orders it; none before all others."""
    if text is None:
        return -1
    total = 1
    for byte in text.encode():
        total = (total * 0x9E3779B97F4A7C15 + byte) % 2**64
    total ^= total >> 32
    total = total * 0xD6E8FEB86659FD93 % 2**64
    return (total ^ (total >> 32)) >> 1


def none_first(text: str | None) -> tuple[int, str]:
    """None before every string; strings by code point."""
    return (0, "") if text is None else (1, text)


def split_times(events: list[Event], settings: Settings) -> Times:
    """The borders, counted back from the midnight after the last event."""
    end = (max(event.time for event in events) // DAY + 1) * DAY
    test = end - int(settings.test_days * DAY)
    validation = test - int(settings.validation_days * DAY)
    return Times(validation - int(settings.gap_days * DAY), validation, test, end)


# --- 1. duplicates ----------------------------------------------------------------------------------------------------


def when_known(event: Event) -> tuple[int, int]:
    """The order in which a user's events become known."""
    return (event.known, event.position)


def deduplicated(events: list[Event], settings: Settings) -> list[Event]:
    """The events that are not reports of an earlier known one."""
    once = [e for e in events if not any(same_id(e, f) and when_known(f) < when_known(e) for f in events)]
    near = int(settings.duplicate_minutes * MINUTE)
    return [
        e
        for e in once
        if e.action not in (ADD_TO_CART, CHECKOUT)
        or not any(
            (f.user, f.pin, f.action) == (e.user, e.pin, e.action)
            and when_known(f) < when_known(e)
            and abs(f.time - e.time) <= near
            for f in once
        )
    ]


def same_id(e: Event, f: Event) -> bool:
    """Whether two events of one user carry one event id."""
    return e.event_id is not None and (e.user, e.event_id) == (f.user, f.event_id)


def log_of(rows: Iterable[dict[str, Any]], settings: Settings) -> list[Event]:
    """The log that everything else sees."""
    return deduplicated(read(rows, settings), settings)


# --- 2. attribution ---------------------------------------------------------------------------------------------------


def attributed(
    e: Event, log: list[Event], advertisers: list[str | None], settings: Settings
) -> tuple[Event, int] | None:
    """The touch of a conversion and its level; None where it has no touch and is to be dropped."""
    for level in settings.levels:
        clicks = level in ("pin_click", "advertiser_click")
        window = int((settings.click_days if clicks else settings.impression_days) * DAY)
        touches = [
            f
            for f in log
            if f.user == e.user
            and f.action == (CLICK if clicks else IMPRESSION)
            and f.position < e.position
            and e.time - f.time <= window
            and (f.pin == e.pin if level.startswith("pin") else of_same_advertiser(f.pin, e.pin, advertisers))
        ]
        if touches:
            return max(touches, key=lambda f: f.position), LEVELS.index(level)
    return (e, NO_TOUCH) if settings.keep_unattributed else None


def of_same_advertiser(pin: int, other: int, advertisers: list[str | None]) -> bool:
    """Whether two different pins have one known advertiser."""
    return pin != other and advertisers[pin] is not None and advertisers[pin] == advertisers[other]


# --- 8. history, 9. context, 12. counts -------------------------------------------------------------------------------


def is_valid(dwell: float | None) -> bool:
    """Whether a dwell can be believed."""
    return dwell is not None and math.isfinite(dwell) and 0 <= dwell <= LONGEST_DWELL


def history(log: list[Event], user: str, now: int, target: int | None, settings: Settings) -> list[tuple[Any, ...]]:
    """The last events of a user that were known before `now`, as (pin, action, surface, age, dwell), oldest first.

    `target` is left out where the settings say so; None leaves nothing out.
    """
    past = [
        e
        for e in log
        if e.user == user
        and ACTIONS[e.action] in settings.history_actions
        and e.known < now
        and not (settings.exclude_target and e.pin == target)
    ]
    past = sorted(past, key=when_known)[-settings.history_length :]
    return [(e.pin, e.action, e.surface, float(np.float32((now - e.time) / 1e6)), dwell_seen(e, now)) for e in past]


def dwell_seen(e: Event, now: int) -> float | None:
    """The dwell of a past event where it is valid and was over before `now`."""
    if e.dwell is None or not is_valid(e.dwell):
        return None
    return e.dwell if Fraction(e.dwell) * SECOND < now - e.time else None


def purchased(log: list[Event], user: str, now: int) -> list[int]:
    """The distinct pins that a user was known to have checked out before `now`."""
    return sorted({e.pin for e in log if e.user == user and e.action == CHECKOUT and e.known < now})


def context(touch: Event) -> dict[str, Any]:
    """Where a query is asked: home feed where the log does not say."""
    return {"surface": max(touch.surface, 0), "subject": touch.subject, "query": touch.query}


def pin_count(log: list[Event], *, pin: int, day: int, action: int, days: int) -> int:
    """How many events of a pin and an action became known in the `days` days before a day (its number since 1970)."""
    return sum(e.pin == pin and e.action == action and (day - days) * DAY <= e.known < day * DAY for e in log)


def user_count(log: list[Event], *, user: str, day: int, action: int, days: int) -> int:
    """As `pin_count`, of a user's events."""
    return sum(e.user == user and e.action == action and (day - days) * DAY <= e.known < day * DAY for e in log)


# --- 10. evaluation queries -------------------------------------------------------------------------------------------


def evaluation_rows(
    log: list[Event], start: int, stop: int, train: int, advertisers: list[str | None], settings: Settings
) -> list[dict[str, Any]]:
    """The queries asked in [start, stop), each with the pin that was bought."""
    rows = []
    for e in log:
        if e.action not in (ADD_TO_CART, CHECKOUT) or ACTIONS[e.action] not in settings.evaluation_actions:
            continue
        found = attributed(e, log, advertisers, settings)
        if found is None or not start <= found[0].time < stop:
            continue
        touch, level = found
        now = min(touch.time, train) if settings.evaluation_cutoff == "split" else touch.time
        bought = purchased(log, e.user, now)
        if settings.exclude_target and e.pin in bought:
            continue
        rows.append(
            {"user_id": e.user, "time": now, "target": e.pin, "action": e.action, "level": level}
            | context(touch)
            | {"history": history(log, e.user, now, e.pin, settings), "purchased": bought}
        )
    return rows
