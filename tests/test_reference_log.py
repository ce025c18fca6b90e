"""The slow reading of a log against values worked out by hand, so that it cannot be wrong as the pipeline is."""

import math
from datetime import date
from typing import Any

import numpy as np
from random_logs import START, Row, act
from reference_log import (
    ADD_TO_CART,
    CHECKOUT,
    CLICK,
    DAY,
    IMPRESSION,
    MINUTE,
    REPIN,
    SECOND,
    Event,
    Settings,
    attributed,
    evaluation_rows,
    history,
    log_of,
    pin_count,
    purchased,
    read,
    split_times,
    user_count,
)

OWNERS = ["x", "x", "y", None, None]


def log(*rows: Row, settings: Settings = Settings()) -> list[Event]:
    return log_of(rows, settings)


def test_events_are_ordered_by_each_field_in_turn_and_none_comes_first() -> None:
    ordered = [
        act(CLICK, 0, 9),
        act(IMPRESSION, 1, 5),
        act(CLICK, 1, 0, surface=2),
        act(CLICK, 1, 1),
        act(CLICK, 1, 1, surface=0, subject=9),
        act(CLICK, 1, 1, surface=1),
        act(CLICK, 1, 1, surface=1, subject=0),
        act(CLICK, 1, 1, surface=1, subject=0, reported=START + 2),
        act(CLICK, 1, 1, surface=1, subject=0, reported=START + 2, query="", request_id="z"),
        act(CLICK, 1, 1, surface=1, subject=0, reported=START + 2, query="a"),
        act(CLICK, 1, 1, surface=1, subject=0, reported=START + 2, query="a", request_id="9"),
        act(CLICK, 1, 1, surface=1, subject=0, reported=START + 2, query="a", request_id="9", dwell=0.0),
        act(CLICK, 1, 1, surface=1, subject=0, reported=START + 2, query="a", request_id="10"),  # by its hash
        act(CLICK, 1, 1, surface=1, subject=0, reported=START + 2, query="\ue000"),
        act(CLICK, 1, 1, surface=1, subject=0, reported=START + 2, query="\U0001f600"),
    ]
    assert read(reversed(ordered), Settings()) == read(ordered, Settings())
    found = read(reversed(ordered), Settings())
    assert [(e.time - START, e.action, e.pin, e.surface, e.subject, e.query, e.request, e.dwell) for e in found] == [
        (e["time"] - START, e["action"], e["pin"], e["surface"], e["subject"], e["query"], e["request_id"], e["dwell"])
        for e in ordered
    ]
    assert [e.position for e in found] == list(range(len(ordered)))


def test_a_report_makes_an_event_known_later_and_never_sooner() -> None:
    late, soon, unsaid = read(
        [act(CLICK, 5, 0, reported=START + 7), act(CLICK, 5, 1, reported=START + 3), act(CLICK, 5, 2)], Settings()
    )
    assert {late.pin: late.known, soon.pin: soon.known, unsaid.pin: unsaid.known} == {
        0: START + 7,
        1: START + 5,
        2: START + 5,
    }


def test_a_dwell_that_is_not_a_number_is_none() -> None:
    assert [e.dwell for e in read([act(CLICK, 0, dwell=math.nan), act(CLICK, 1, dwell=math.inf)], Settings())] == [
        None,
        math.inf,
    ]


def test_the_split_counts_back_from_the_midnight_after_the_last_event() -> None:
    settings = Settings(validation_days=1, test_days=2, gap_days=3)
    times = split_times(read([act(CLICK, 9 * DAY + 1), act(CLICK, 0)], settings), settings)
    assert [(time - START) / DAY for time in times] == [4, 7, 8, 10]
    at_midnight = split_times(read([act(CLICK, 9 * DAY)], settings), settings)
    assert at_midnight.end == START + 10 * DAY


def test_events_known_on_the_as_of_day_are_dropped_before_the_split() -> None:
    settings = Settings(as_of=date(2024, 10, 6))
    rows = [
        act(CLICK, 2 * DAY - 1, 0),
        act(CLICK, 2 * DAY, 1),
        act(CLICK, 0, 2, reported=START + 2 * DAY),
        act(CLICK, 5 * DAY),
    ]
    left = read(rows, settings)
    assert [e.pin for e in left] == [0]
    assert split_times(left, settings).end == START + 2 * DAY


def test_one_event_id_counts_once_for_a_user_as_the_report_that_was_known_first() -> None:
    left = log(
        act(CLICK, 0, 1, event_id="e", reported=START + 100),
        act(REPIN, 50, 2, event_id="e"),
        act(CLICK, 60, 3, event_id="e", user_id="v"),
        act(CLICK, 70, 4),
        act(CLICK, 70, 4),
    )
    assert [(e.user, e.pin) for e in left] == [("u", 2), ("u", 4), ("u", 4), ("v", 3)]


def test_conversions_of_one_pin_within_ten_minutes_of_an_earlier_known_one_are_dropped() -> None:
    ten = 10 * MINUTE
    border = log(act(CHECKOUT, 0), act(CHECKOUT, ten), act(CHECKOUT, 2 * ten + 1))
    assert [e.time - START for e in border] == [0, 2 * ten + 1]
    chain = log(*(act(CHECKOUT, 8 * n * MINUTE) for n in range(3)))
    assert [e.time - START for e in chain] == [0]  # the second drops the third although it is dropped itself
    others = (act(CHECKOUT, 0), act(CHECKOUT, 1, 1), act(ADD_TO_CART, 1), act(CHECKOUT, 1, user_id="v"))
    assert len(log(*others)) == 4
    late = log(act(CHECKOUT, 0, reported=START + MINUTE), act(CHECKOUT, 1))
    assert [e.time - START for e in late] == [1]


def test_what_an_event_id_dropped_drops_no_conversion() -> None:
    left = log(act(CLICK, 0, 1, event_id="e"), act(CHECKOUT, 1, event_id="e"), act(CHECKOUT, 2))
    assert [(e.action, e.time - START) for e in left] == [(CLICK, 0), (CHECKOUT, 2)]


def touch(rows: list[Row], **settings: Any) -> tuple[int, int, int] | None:
    """(time, pin, level) of the touch of the last conversion."""
    events = log(*rows)
    conversion = max((e for e in events if e.action >= ADD_TO_CART), key=lambda e: e.position)
    found = attributed(conversion, events, OWNERS, Settings(**settings))
    return None if found is None else (found[0].time - START, found[0].pin, found[1])


def test_a_conversion_goes_to_the_last_touch_of_the_first_level_that_has_one() -> None:
    touches = [act(CLICK, 1), act(CLICK, 2), act(IMPRESSION, 3), act(CLICK, 4, 1), act(IMPRESSION, 5, 1)]
    bought = act(CHECKOUT, 9)
    assert touch([*touches, bought]) == (2, 0, 0)
    assert touch([*touches[2:], bought]) == (3, 0, 1)
    assert touch([*touches[3:], bought]) == (4, 1, 2)
    assert touch([*touches[4:], bought]) == (5, 1, 3)
    assert touch([act(CLICK, 6, 2), act(REPIN, 7), act(ADD_TO_CART, 8), bought]) == (9, 0, 4)
    assert touch([bought], keep_unattributed=False) is None
    assert touch([*touches, bought], levels=("advertiser_impression", "pin_click")) == (5, 1, 3)
    assert touch([act(CLICK, 4, 4), act(CHECKOUT, 9, 3)]) == (9, 3, 4)  # no advertiser is not one advertiser


def test_a_window_holds_its_border_and_a_touch_at_the_same_time_counts() -> None:
    bought = act(CHECKOUT, 8 * DAY)
    assert touch([act(CLICK, DAY), bought]) == (DAY, 0, 0)
    assert touch([act(CLICK, DAY - 1), bought]) == (8 * DAY, 0, 4)
    assert touch([act(IMPRESSION, 7 * DAY), bought]) == (7 * DAY, 0, 1)
    assert touch([act(IMPRESSION, 7 * DAY - 1), bought]) == (8 * DAY, 0, 4)
    assert touch([act(CLICK, 8 * DAY), bought]) == (8 * DAY, 0, 0)
    assert touch([act(CLICK, 8 * DAY + 1), bought]) == (8 * DAY, 0, 4)


def seen(*rows: Row, now: int, target: int | None = None, **settings: Any) -> list[tuple[Any, ...]]:
    return history(log(*rows), "u", START + now, target, Settings(**settings))


def test_a_history_is_what_was_known_strictly_before_in_the_order_of_becoming_known() -> None:
    rows = (
        act(CLICK, 1, 1, reported=START + 7, surface=2),
        act(CLICK, 2, 2),
        act(REPIN, 2, 3),
        act(CLICK, 3, 4, reported=START + 9),
        act(IMPRESSION, 4, 5),
        act(CLICK, 4, 6, user_id="v"),
        act(CLICK, 9, 7),
    )
    second = 1e-6
    assert seen(*rows, now=9) == [
        (2, CLICK, -1, np.float32(7 * second), None),
        (3, REPIN, -1, np.float32(7 * second), None),
        (1, CLICK, 2, np.float32(8 * second), None),
    ]
    assert [pin for pin, *_ in seen(*rows, now=9, history_length=2)] == [3, 1]
    assert [pin for pin, *_ in seen(*rows, now=10)] == [2, 3, 1, 4, 7]
    assert [pin for pin, *_ in seen(*rows, now=9, target=3)] == [2, 3, 1]
    assert [pin for pin, *_ in seen(*rows, now=9, target=3, exclude_target=True)] == [2, 1]
    assert [pin for pin, *_ in seen(*rows, now=9, history_actions=("impression",))] == [5]


def test_a_dwell_is_seen_once_it_is_over_and_if_it_can_be_believed() -> None:
    def dwell(seconds: float, after: int) -> float | None:
        shown: float | None = seen(act(CLICK, 0, dwell=seconds), now=after)[0][4]
        return shown

    assert dwell(10.0, 10 * SECOND) is None
    assert dwell(10.0, 10 * SECOND + 1) == 10.0
    assert dwell(0.4, DAY) == float(np.float32(0.4))
    assert dwell(1800.0, DAY) == 1800.0
    assert [dwell(absurd, DAY) for absurd in (1800.5, math.nan, math.inf)] == [None] * 3


def test_purchases_are_the_distinct_checked_out_pins_known_strictly_before() -> None:
    rows = (act(CHECKOUT, 0, 4), act(CHECKOUT, DAY, 4), act(CHECKOUT, 1, 2), act(ADD_TO_CART, 1, 1))
    later = (act(CHECKOUT, 1, 5, reported=START + 2 * DAY), act(CHECKOUT, 1, 6, user_id="v"))
    assert purchased(log(*rows, *later), "u", START + 2 * DAY) == [2, 4]


def test_counts_are_of_whole_days_by_when_events_were_known() -> None:
    day = START // DAY + 3
    times = (-1, 0, 2 * DAY, 3 * DAY - 1, 3 * DAY)
    events = log(*(act(CLICK, DAY + time, 1) for time in times), act(CLICK, 0, 1, reported=START + 3 * DAY))
    assert [pin_count(events, pin=1, day=day, action=CLICK, days=days) for days in (1, 2, 3)] == [0, 1, 2]
    assert pin_count(events, pin=1, day=day + 1, action=CLICK, days=1) == 3
    assert user_count(events, user="u", day=day + 1, action=CLICK, days=3) == 4
    assert user_count(events, user="u", day=day + 1, action=REPIN, days=3) == 0
    assert pin_count(events, pin=2, day=day + 1, action=CLICK, days=3) == 0


def queries(*rows: Row, **settings: Any) -> list[tuple[int, int, int, list[int]]]:
    """(time, target, level, purchased) of the queries of [5, 8) days with the training time ending after 4 days."""
    chosen = Settings(**settings)
    start, stop, train = (START + days * DAY for days in (5, 8, 4))
    found = evaluation_rows(log(*rows, settings=chosen), start, stop, train, OWNERS, chosen)
    return sorted((q["time"] - START, q["target"], q["level"], q["purchased"]) for q in found)


def test_evaluation_queries_are_those_whose_touch_lies_in_the_range() -> None:
    bought = [act(CLICK, 5 * DAY - 1, 0), act(CLICK, 5 * DAY, 1), act(CLICK, 8 * DAY, 2)]
    bought += [act(CHECKOUT, 9 * DAY, pin) for pin in (0, 1, 2)]
    assert queries(*bought, levels=("pin_click",)) == [(5 * DAY, 1, 0, [])]
    split = queries(*bought, levels=("pin_click",), evaluation_cutoff="split")
    assert split == [(4 * DAY, 1, 0, [])]
    assert queries(*bought, levels=("pin_click",), evaluation_actions=("add_to_cart",)) == []


def test_pins_bought_before_can_be_left_out_of_evaluation_and_repeats_count_again() -> None:
    first, again, unattributed = act(CHECKOUT, 5 * DAY), act(CHECKOUT, 6 * DAY), act(CHECKOUT, 4 * DAY - 1, 1)
    rows = (first, again, unattributed)
    assert queries(*rows) == [(5 * DAY, 0, 4, [1]), (6 * DAY, 0, 4, [0, 1])]
    assert queries(*rows, exclude_target=True) == [(5 * DAY, 0, 4, [1])]
    assert len(queries(*rows, exclude_target=True, evaluation_cutoff="split")) == 2
    assert queries(*rows, keep_unattributed=False) == []
