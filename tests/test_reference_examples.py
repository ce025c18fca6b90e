"""The slow reference of training examples against values worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
from random_logs import START, Row, act
from reference_examples import (
    Example,
    conversion_examples,
    dwell_weight,
    engagement_examples,
    final_weight,
    hashed,
    keep_rates,
    mean_dwell_weight,
    median_dwell,
    negatives,
    reference,
    served_not_engaged,
    within_global_caps,
    within_user_cap,
)
from reference_log import (
    ADD_TO_CART,
    CHECKOUT,
    CLICK,
    DAY,
    IMPRESSION,
    MINUTE,
    REPIN,
    Settings,
    log_of,
    read,
)

OWNERS = ["x", "x", "y", None, None]


def conversions(*rows: Row, **settings: Any) -> list[tuple[int, int, int, float]]:
    found = conversion_examples(log_of(rows, Settings()), OWNERS, Settings(**settings))
    return sorted((x.touch.time - START, x.target, x.action, x.weight) for _, x in found)


def test_a_pin_is_learned_once_for_a_user_from_its_heaviest_then_first_conversion() -> None:
    hour = 60 * MINUTE
    rows = (act(ADD_TO_CART, 0), act(CHECKOUT, hour), act(CHECKOUT, 2 * hour), act(ADD_TO_CART, hour, 1))
    assert conversions(*rows) == [(hour, 0, CHECKOUT, 1.0), (hour, 1, ADD_TO_CART, 0.75)]
    assert conversions(*rows, weights={"add_to_cart": 1.0, "checkout": 1.0})[0] == (0, 0, ADD_TO_CART, 1.0)
    assert conversions(*rows, weights={"add_to_cart": 0.0}) == []
    late = (act(CLICK, 0), act(ADD_TO_CART, DAY), act(CHECKOUT, 9 * DAY))
    assert conversions(*late, keep_unattributed=False) == [(0, 0, ADD_TO_CART, 0.75)]


def test_dwell_weights_at_the_points_that_one_knows() -> None:
    assert [dwell_weight(t, Settings()) for t in (0.0, 60.0, 1800.0, None)] == [0.1, 1.0, 1.0, 1.0]
    assert dwell_weight(30.0, Settings()) == pytest.approx(0.1 + 0.9 * math.log2(1.5))
    curve = Settings(dwell_curve="log", dwell_floor=0.2, dwell_cap_seconds=63)
    assert [dwell_weight(t, curve) for t in (0.0, 7.0, 63.0, 70.0)] == pytest.approx([0.2, 0.2 + 0.8 / 2, 1.0, 1.0])
    assert dwell_weight(0.0, Settings(dwell_curve="none")) == 1.0


def test_the_median_is_the_lower_one_of_whole_seconds_that_are_valid_known_and_of_clicks() -> None:
    dwells = [4.9, 2.5, 2.6, 9.0, None, math.nan, math.inf, 1800.5]
    rows = [act(CLICK, n, dwell=dwell) for n, dwell in enumerate(dwells)]
    rows += [act(REPIN, 0, dwell=0.0), act(CLICK, 0, dwell=0.0, reported=START + DAY)]
    assert median_dwell(read(rows, Settings()), START + DAY) == 2.0
    assert median_dwell(read(rows[:3], Settings()), START + DAY) == 2.0
    assert median_dwell(read([act(CLICK, 0, dwell=1800.0)] * 2, Settings()), START + DAY) == 1800.0
    assert median_dwell(read(rows[4:], Settings()), START + DAY) is None


def engagements(*rows: Row, median: float | None = 0.0, **settings: Any) -> list[tuple[int, int, int, float]]:
    chosen = Settings(**settings)
    found = engagement_examples(log_of(rows, chosen), median, chosen)
    return sorted((x.touch.time - START, x.target, x.action, round(x.weight, 6)) for x in found)


def test_a_visit_is_asked_at_its_first_event_and_weighs_its_longest_click() -> None:
    visit = (act(CLICK, 0, dwell=0.0), act(CLICK, MINUTE, dwell=60.0), act(CLICK, 31 * MINUTE, dwell=1801.0))
    assert engagements(*visit) == [(0, 0, CLICK, 0.25)]
    assert engagements(*visit, act(REPIN, 2 * MINUTE, dwell=60.0)) == [(0, 0, REPIN, 0.5)]
    assert engagements(act(REPIN, 0, dwell=60.0), act(CLICK, 1), weights={"click": 1.0, "repin": 0.1}) == [
        (0, 0, CLICK, 0.1)
    ]
    assert engagements(act(CLICK, 0)) == [(0, 0, CLICK, 0.025)]
    assert engagements(act(CLICK, 0), median=None) == [(0, 0, CLICK, 0.25)]


def test_visits_end_where_the_gap_exceeds_half_an_hour_or_the_request_changes() -> None:
    half = 30 * MINUTE
    weak: Row = {"dwell": 0.0}
    strong: Row = {"dwell": 60.0}
    assert engagements(act(CLICK, 0, **weak), act(CLICK, half, **strong)) == [(0, 0, CLICK, 0.25)]
    assert engagements(act(CLICK, 0, **weak), act(CLICK, half + 1, **strong)) == [(half + 1, 0, CLICK, 0.25)]
    one: Row = {"request_id": "r"}
    assert engagements(act(CLICK, 0, **weak, **one), act(CLICK, DAY, **strong, **one)) == [(0, 0, CLICK, 0.25)]
    between = act(CLICK, half, **weak, **one)
    assert engagements(act(CLICK, 0, **weak), between, act(CLICK, 2 * half, **strong)) == [(2 * half, 0, CLICK, 0.25)]
    assert engagements(act(CLICK, 0, **strong), act(CLICK, DAY, **strong)) == [(0, 0, CLICK, 0.25)]
    skipped = (act(CLICK, 0), act(REPIN, half + 1))
    assert engagements(*skipped, weights={"repin": 1.0}) == [(half + 1, 0, REPIN, 1.0)]


def example(time: int, target: int, *, user: str = "u", task: str = "conversion", w: float | None = None) -> Example:
    event = read([act(CLICK, time, target, user_id=user)], Settings())[0]
    return Example(event, target, task, CLICK, -1, 0.25 * (w or 1.0), w)


def test_the_cap_per_user_keeps_the_latest_of_each_task_and_of_one_moment_the_largest_target() -> None:
    mine = [example(time, target) for time, target in ((5, 0), (5, 1), (4, 2))]
    other = [example(1, 3, task="engagement"), example(1, 4, user="v")]
    kept = within_user_cap([*mine, *other], Settings(per_user=1))
    assert sorted(x.target for x in kept) == [1, 3, 4]
    assert len(within_user_cap([*mine, *other], Settings())) == 5


def test_rates_cut_pins_first_and_then_what_is_left_of_their_advertisers() -> None:
    counts = {0: 4, 1: 1, 2: 2, 3: 8}
    examples = [example(n, pin) for pin, count in counts.items() for n in range(count)]
    assert keep_rates(examples, OWNERS, Settings()) == dict.fromkeys(counts, 1.0)
    assert keep_rates(examples, OWNERS, Settings(per_pin=2)) == {0: 0.5, 1: 1.0, 2: 1.0, 3: 0.25}
    assert keep_rates(examples, OWNERS, Settings(per_advertiser=2)) == {0: 0.4, 1: 0.4, 2: 1.0, 3: 1.0}
    both = keep_rates(examples, OWNERS, Settings(per_pin=2, per_advertiser=1))
    assert both == pytest.approx({0: 0.5 / 3, 1: 1 / 3, 2: 0.5, 3: 0.25})


def test_the_hash_is_the_one_of_wrapping_64_bit_arithmetic() -> None:
    time, pin = np.array([[0, 1, 0, 1, START, START + 7], [0, 0, 1, 1, 0, 11]], dtype=np.uint64)
    x = time * np.uint64(0x9E3779B97F4A7C15) + pin * np.uint64(0xC2B2AE3D27D4EB4F)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(32)
    assert [hashed(int(t), int(p)) for t, p in zip(time, pin, strict=True)] == x.tolist()
    assert x[0] == 0


def test_an_example_stays_where_its_hash_is_below_the_rate() -> None:
    examples = [example(n, 3) for n in range(40)]
    kept = within_global_caps(examples, OWNERS, Settings(per_pin=10))
    assert [x.touch.time for x in kept] == [START + n for n in range(40) if hashed(START + n, 3) < 2**62]
    assert 3 <= len(kept) <= 20
    assert within_global_caps(examples, OWNERS, Settings(per_pin=40)) == examples


def test_clicks_weigh_as_their_dwell_beside_the_mean_and_at_most_five_times() -> None:
    clicks = [example(n, n, w=w) for n, w in enumerate([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.8])]
    mean = mean_dwell_weight([*clicks, example(9, 9)])
    assert mean == pytest.approx(0.2)
    assert final_weight(clicks[0], mean, Settings()) == pytest.approx(0.25 * 0.5)
    assert final_weight(clicks[-1], mean, Settings()) == pytest.approx(0.25 * 4)
    assert final_weight(clicks[-1], 0.1, Settings()) == 0.25 * 5
    assert final_weight(example(9, 9), mean, Settings()) == 0.25
    assert mean_dwell_weight([example(9, 9)]) is None


def served(*rows: Row, train: int = 3 * DAY) -> list[tuple[int, int]]:
    """(time, pin) of the surviving impressions with windows of a day."""
    chosen = Settings(click_days=0.5, impression_days=1)
    known = [e for e in log_of(rows, chosen) if e.known < START + train]
    return [(e.time - START, e.pin) for e in served_not_engaged(known, OWNERS, START + train, chosen)]


def test_an_impression_survives_once_its_window_is_over_with_nothing_nearby() -> None:
    assert served(act(IMPRESSION, 2 * DAY), act(IMPRESSION, 2 * DAY + 1, 1)) == [(2 * DAY, 0)]
    shown = act(IMPRESSION, DAY)
    assert served(shown, act(REPIN, 2 * DAY)) == []
    assert served(shown, act(REPIN, 2 * DAY + 1)) == [(DAY, 0)]
    assert served(shown, act(CHECKOUT, 0)) == []
    assert served(shown, act(CLICK, DAY, 1)) == []  # of the same advertiser
    assert served(shown, act(CLICK, DAY, 2), act(CLICK, DAY, 0, user_id="v")) == [(DAY, 0)]
    assert served(shown, act(CLICK, DAY, reported=START + 3 * DAY)) == [(DAY, 0)]
    assert served(act(IMPRESSION, DAY, 3), act(CLICK, DAY, 4)) == [(DAY, 3)]


def test_negatives_are_what_the_query_s_own_request_served_without_its_targets() -> None:
    shown = [act(IMPRESSION, 1, pin, request_id="r") for pin in range(5) for _ in range(2)]
    shown += [act(IMPRESSION, 1, 5, request_id="s"), act(IMPRESSION, 1, 6, request_id="r", user_id="v")]
    asked = act(CLICK, 2, 1, request_id="r")
    events = read([*shown, asked], Settings())
    touch = next(e for e in events if e.action == CLICK)
    survivors = [e for e in events if e.action == IMPRESSION]
    examples = [Example(touch, target, "conversion", CHECKOUT, 2, 1.0) for target in (1, 3)]
    order = sorted((0, 2, 4), key=lambda pin: hashed(touch.time, pin))
    assert negatives(touch, survivors, examples, Settings()) == order
    assert negatives(touch, survivors, examples, Settings(negatives_per_request=2)) == order[:2]
    without = next(e for e in read([asked | {"request_id": None}], Settings()))
    assert negatives(without, survivors, examples, Settings()) == []


def test_a_whole_small_log_gives_what_one_expects() -> None:
    rows = [
        act(IMPRESSION, 0, 3, request_id="r"),
        act(IMPRESSION, 0, 0, request_id="r"),
        act(CLICK, MINUTE, 0, request_id="r", dwell=60.0, surface=2, query="red"),
        act(CHECKOUT, DAY, 0),
        act(CLICK, 8 * DAY, 2, surface=1, subject=3),
        act(ADD_TO_CART, 8 * DAY + 1, 2),
        act(CHECKOUT, 9 * DAY, 2),
    ]
    found = reference(rows, OWNERS, Settings(click_days=2))
    context = {"user_id": "u", "time": START + MINUTE, "surface": 2, "subject": -1, "query": "red", "target": 0}
    learned = context | {"history": [], "negatives": [3]}
    assert sorted(found["train"], key=lambda x: str(x["task"])) == [
        learned | {"task": "conversion", "action": CHECKOUT, "level": 0, "weight": 1.0},
        learned | {"task": "engagement", "action": CLICK, "level": -1, "weight": 0.25},
    ]
    past = [(0, CLICK, 2, 8 * 86_400.0 - 60.0, 60.0), (0, CHECKOUT, -1, 7 * 86_400.0, None)]
    asked = {"user_id": "u", "time": START + 8 * DAY, "surface": 1, "subject": 3, "query": None, "target": 2}
    asked |= {"action": CHECKOUT, "level": 0, "history": past, "purchased": [0]}
    assert (found["validation"], found["test"]) == ([asked], [])
    assert found["users"] == {"u": {"history": past, "purchased": [0]}}
    assert found["served"] == {3: 1}
    assert found["targets"] == {"conversion": {0: 1}, "engagement": {0: 1}}
    assert found["median_dwell"] == 60.0
