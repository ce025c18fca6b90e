"""Small nasty worlds from a seed: events full of ties, duplicates, late reports, absurd values; random settings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import permutations
from typing import Any, TypeVar

import numpy as np
from reference_log import (
    ACTIONS,
    ADD_TO_CART,
    CHECKOUT,
    CLICK,
    DAY,
    IMPRESSION,
    LEVELS,
    MINUTE,
    REPIN,
    SECOND,
    Settings,
    Times,
    midnight,
)

START = 20_000 * DAY
HOUR = 60 * MINUTE
#: Among them two whose order by code point is not that of UTF-16, and the empty one, which is not none.
QUERIES = (None, None, "", "red lamp", "red", "\ue000", "\U0001f600")
USERS = ("b", "a", "B", "10", "9", "\u00fc")
DWELLS = (0.0, 0.4, 3.0, 9.99, 10.0, 30.5, 59.9, 60.0, 600.0, 1800.0, 1800.5, 2000.0, math.nan, math.inf)
_ANY_LEVELS = [levels for size in range(1, 5) for levels in permutations(LEVELS, size)]
_OWNERS: tuple[tuple[str | None, ...], ...] = ((None,), ("x",), ("x", "y"), ("x", "y", None), (None, "x", "y", "z"))
_T = TypeVar("_T")

Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """A log in any order, the advertiser of each pin, and settings; the borders of the split follow from both."""

    events: list[Row]
    advertisers: list[str | None]
    settings: Settings


def act(action: int, time: int, pin: int = 0, **given: Any) -> Row:
    """A bare event of user "u", `time` microseconds after `START`; what is given replaces what is none."""
    nothing: Row = {"event_id": None, "reported": None, "surface": -1, "dwell": None, "request_id": None}
    nothing |= {"subject": -1, "query": None, "user_id": "u"}
    return nothing | {"action": action, "time": START + time, "pin": pin} | given


def random_world(seed: int) -> World:
    """The world of a seed: 1 to 6 users, 3 to 12 pins, 10 to 120 events over 3 to 12 days."""
    draw = np.random.default_rng(seed)
    days = int(draw.integers(3, 13))
    settings = _settings(draw, days)
    pins = int(draw.integers(3, 13))
    owners = _one(draw, _OWNERS)
    advertisers = [_one(draw, owners) for _ in range(pins)]
    return World(_Author(draw, days, pins, settings).write(), advertisers, settings)


def _settings(draw: np.random.Generator, days: int) -> Settings:
    last = int(draw.integers(max(3, days - 3), days + 1)) if draw.random() < 0.25 else None
    spare = (last or days) - 2
    validation_days = 2 if spare > 2 and draw.random() < 0.3 else 1
    weights = {action: _one(draw, (0.0, 0.25, 0.25, 0.5, 1.0)) for action in ACTIONS[1:] if draw.random() < 0.9}
    return Settings(
        as_of=None if last is None else datetime.fromtimestamp((START + last * DAY) / 1e6, UTC).date(),
        validation_days=validation_days,
        test_days=1,
        gap_days=min(int(draw.integers(0, 3)), max(spare - validation_days, 0)),
        duplicate_minutes=_one(draw, (10.0, 10.0, 1.0, 90.0)),
        levels=LEVELS if draw.random() < 0.6 else _one(draw, _ANY_LEVELS),
        click_days=_one(draw, (10 / 1440, 1 / 24, 1 / 3, 1.0, 2.0, 7.0)),
        impression_days=_one(draw, (1 / 1440, 10 / 1440, 1 / 24, 0.5, 1.0, 3.0)),
        keep_unattributed=bool(draw.random() < 0.7),
        weights=weights if any(weights.values()) else {"checkout": 1.0},
        evaluation_actions=_one(draw, (("checkout",), ("add_to_cart",), ("add_to_cart", "checkout"))),
        visit_minutes=_one(draw, (30.0, 30.0, 1.0, 600.0)),
        dwell_curve=_one(draw, ("log_ratio", "log_ratio", "log", "none")),
        dwell_cap_seconds=_one(draw, (60.0, 10.0, 600.0)),
        dwell_floor=_one(draw, (0.1, 0.1, 0.5, 0.02)),
        per_user=_one(draw, (None, None, None, 1, 2, 3)),
        per_pin=_one(draw, (None, None, None, 1, 2, 3)),
        per_advertiser=_one(draw, (None, None, None, 1, 2, 3)),
        negatives_per_request=int(draw.integers(0, 5)),
        history_length=int(draw.integers(1, 9)),
        history_actions=tuple(action for action in ACTIONS if draw.random() < 0.7) or ("click",),
        exclude_target=bool(draw.random() < 0.5),
        evaluation_cutoff=_one(draw, ("request", "split")),
    )


def _one(draw: np.random.Generator, options: Sequence[_T]) -> _T:
    return options[int(draw.integers(len(options)))]


class _Author:
    """Writes one log: sessions, copies of what is there already, and loose events at unlucky moments."""

    def __init__(self, draw: np.random.Generator, days: int, pins: int, settings: Settings) -> None:
        self.draw, self.pins, self.settings = draw, pins, settings
        self.stop = START + days * DAY
        self.few_linger = draw.random() < 0.2  # without such worlds no click would weigh five times the mean
        self.users = USERS if self.few_linger else USERS[: int(draw.integers(1, 7))]
        self.times = borders_if_all_days_have_events(settings, self.stop)
        windows = [int(days * DAY) for days in (settings.click_days, settings.impression_days)]
        self.longest_window = max(windows)
        windows += [int(minutes * MINUTE) for minutes in (settings.duplicate_minutes, settings.visit_minutes)]
        steps = [*windows, 10 * SECOND, 30_500_000]
        borders = [sign * step + off for step in steps for sign in (1, -1) for off in (-1, 0, 1)]
        self.deltas = (0, 0, 0, 1, SECOND, HOUR, *borders)
        self.dwells = [0.0] if self.few_linger else [_one(draw, DWELLS) for _ in range(int(draw.integers(2, 8)))]
        self.requests = _one(draw, (("r1",), ("r1", None), ("r1", "r2", "r3", "r10", None, None)))
        self.events: list[Row] = []

    def write(self) -> list[Row]:
        size = int(max(self.draw.integers(10, 121, size=2)))
        last_day = self.times.end - DAY
        self.add(self.stop - DAY + int(self.draw.integers(0, DAY)), IMPRESSION, reported=None)
        self.add(last_day + int(self.draw.integers(0, DAY)), IMPRESSION, reported=None)
        while len(self.events) < size:
            kind = self.draw.random()
            if kind < 0.3:
                self.add_session()
            elif kind < 0.5:
                self.add_copy()
            elif kind < 0.55:
                self.add_twins()
            else:
                actions = (0, 1, 1, 1, 1, 2, 4) if self.few_linger else (0, 0, 1, 1, 2, 3, 4, 4)
                self.add(self.any_time(), _one(self.draw, actions))
        clicks = [event for event in self.events if event["action"] == CLICK and event["time"] < self.times.train]
        if self.few_linger and clicks:
            _one(self.draw, clicks)["dwell"] = 1800.0
        return [self.events[place] for place in self.draw.permutation(len(self.events))]

    def any_time(self) -> int:
        kind = self.draw.random()
        if kind < 0.5:
            time = int(_one(self.draw, self.events)["time"]) + _one(self.draw, self.deltas)
        elif kind < 0.6:
            time = _one(self.draw, self.times) + _one(self.draw, self.deltas)
        elif kind < 0.9:
            begin = START if kind < 0.8 else max(self.times.validation, START)
            stop = max(self.times.train, START + DAY) if kind < 0.7 else self.stop
            time = begin + HOUR * int(self.draw.integers(0, (stop - begin) // HOUR))
        else:
            time = int(self.draw.integers(START, self.stop))
        return self.within(time)

    def within(self, time: int) -> int:
        """The nearest time of the log."""
        return min(max(time, START), self.stop - 1)

    def any_user(self) -> str:
        return self.users[int(min(self.draw.integers(len(self.users), size=1 if self.few_linger else 3)))]

    def any_pin(self) -> int:
        return int(self.draw.integers(self.pins))

    def any_report(self, time: int) -> int | None:
        kind = self.draw.random()
        if kind < 0.6:
            return None
        if kind < 0.7:
            return time + _one(self.draw, (0, 1, -1))
        if kind < 0.9:
            delays = (SECOND, 10 * MINUTE, HOUR, DAY, 3 * DAY, int(self.draw.integers(0, 2 * DAY)))
            return time + _one(self.draw, delays)
        return max(time, _one(self.draw, self.times) + _one(self.draw, (0, -1, 1)))

    def any_dwell(self, action: int) -> float | None:
        return _one(self.draw, self.dwells) if self.draw.random() < (0.7 if action == CLICK else 0.15) else None

    def add(self, time: int, action: int, **given: Any) -> None:
        draw = self.draw
        self.events.append(
            {
                "event_id": _one(draw, (None, None, None, *(f"e{n}" for n in range(12)))),
                "user_id": self.any_user(),
                "time": time,
                "reported": self.any_report(time),
                "pin": self.any_pin(),
                "action": action,
                "surface": int(draw.integers(-1, 3)),
                "dwell": self.any_dwell(action),
                "request_id": _one(draw, self.requests),
                "subject": self.any_pin() if draw.random() < 0.3 else -1,
                "query": _one(draw, QUERIES),
            }
            | given
        )

    def add_session(self) -> None:
        """Pins served together, one clicked or more, and perhaps a purchase after its window or just inside."""
        draw = self.draw
        time, user = self.any_time(), self.any_user()
        shared = {"user_id": user, "request_id": _one(draw, self.requests), "reported": None}
        shared["event_id"] = None
        served = [self.any_pin() for _ in range(int(draw.integers(1, 6)))]
        for pin in served:
            self.add(time, IMPRESSION, pin=pin, **shared)
        if draw.random() < 0.5:
            return
        if draw.random() < 0.25:
            time += self.longest_window + int(draw.integers(0, 2))
        for _ in range(int(draw.integers(1, 4))):
            time = self.within(time + _one(draw, (0, SECOND, 10 * SECOND, 5 * MINUTE)))
            self.add(time, _one(draw, (CLICK, CLICK, REPIN)), pin=_one(draw, served), **shared)
        dwell = self.events[-1]["dwell"] or 0.0
        after = int(dwell * SECOND) if math.isfinite(dwell) and draw.random() < 0.3 else _one(draw, self.deltas)
        for _ in range(int(draw.integers(0, 3))):
            bought, pin = self.within(time + after), _one(draw, (*served, self.any_pin()))
            action = _one(draw, (ADD_TO_CART, CHECKOUT))
            self.add(bought, action, pin=pin, user_id=user, reported=self.any_report(bought))

    def add_twins(self) -> None:
        """Two touches whose order hangs on which of two fields comes first, and perhaps a purchase after them."""
        draw = self.draw
        time, user, pin = self.any_time(), self.any_user(), self.any_pin()
        pairs: Row = {"surface": (-1, 0), "subject": (0, 1), "reported": (time + 1, time + 2)}
        pairs["dwell"] = _one(draw, ((30.5, math.nan), (30.5, 2000.0), (None, 0.0)))
        pairs["query"] = _one(draw, ((None, ""), ("", "red"), ("red", "red lamp"), ("\ue000", "\U0001f600")))
        pairs["request_id"] = _one(draw, ((None, "r1"), ("r1", "r10"), ("r10", "r2")))
        one, other = (list(pairs)[place] for place in draw.permutation(len(pairs))[:2])
        other = one if draw.random() < 0.2 else other
        action = _one(draw, (IMPRESSION, CLICK, CLICK))
        self.add(time, action, user_id=user, pin=pin, event_id=None, reported=None)
        twin = self.events.pop()
        self.events += [twin | {other: pairs[other][1 - turn], one: pairs[one][turn]} for turn in range(2)]
        if draw.random() < 0.7:
            bought = self.within(time + abs(_one(draw, self.deltas)))
            self.add(bought, _one(draw, (ADD_TO_CART, CHECKOUT)), user_id=user, pin=pin, event_id=None)

    def add_copy(self) -> None:
        """An event again: under its id, a step away that ends a duplicate or a visit, or with a few other fields."""
        draw = self.draw
        conversions = [event for event in self.events if event["action"] in (ADD_TO_CART, CHECKOUT)]
        event = _one(draw, conversions if conversions and draw.random() < 0.4 else self.events)
        copy = dict(event)
        kind = draw.random()
        if kind < 0.2:
            copy["event_id"] = _one(draw, (copy["event_id"], "e1"))
            copy["reported"] = self.any_report(copy["time"])
        elif kind < 0.6:
            is_conversion = copy["action"] in (ADD_TO_CART, CHECKOUT)
            minutes = self.settings.duplicate_minutes if is_conversion else self.settings.visit_minutes
            step = int(minutes * MINUTE)
            time = self.within(copy["time"] + _one(draw, (0, step, step, step + 1, -step, -step - 1, step - 1)))
            if not is_conversion and draw.random() < 0.7:
                event |= {"request_id": None}
            copy |= event | {"time": time, "event_id": None, "reported": self.any_report(time)}
            copy["dwell"] = self.any_dwell(CLICK)
        else:
            other: Row = {"dwell": _one(draw, (None, *DWELLS)), "surface": int(draw.integers(-1, 3))}
            other |= {"query": _one(draw, QUERIES), "request_id": _one(draw, self.requests)}
            other |= {"user_id": self.any_user(), "pin": self.any_pin(), "subject": self.any_pin()}
            other |= {"reported": self.any_report(copy["time"])}
            names = [name for name in other if draw.random() < 0.3]
            copy |= {name: other[name] for name in names} | {"event_id": None}
        self.events.append(copy)


def borders_if_all_days_have_events(settings: Settings, stop: int) -> Times:
    """Where the borders of the split will be, as something happens on the last day before `stop` and the as-of day."""
    end = stop if settings.as_of is None else min(stop, midnight(settings.as_of))
    test = end - int(settings.test_days * DAY)
    validation = test - int(settings.validation_days * DAY)
    return Times(validation - int(settings.gap_days * DAY), validation, test, end)
