"""The built-in world's knobs: each has its documented effect, from 0 on, and leaves earlier stages alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from worlds import CONVERSIONS, World, draw_small

from convcg.data.world.behaviour import Origin
from convcg.data.world.catalogue import draw_views
from convcg.data.world.requests import SEARCH
from convcg.types import SURFACES, Action

IMPRESSION, CLICK, REPIN, CHECKOUT = Action.IMPRESSION, Action.CLICK, Action.REPIN, Action.CHECKOUT


def count(*actions: Action) -> Callable[[World], float]:
    return lambda world: len(world.rows(*actions))


def affinity_of(action: Action) -> Callable[[World], float]:
    return lambda world: world.affinity(world.rows(action)).mean()


def clicks_for_a_unit_of(what: Callable[[World, np.ndarray], np.ndarray]) -> Callable[[World], float]:
    """Correlation of a click with something of what was shown."""

    def correlation(world: World) -> float:
        shown = world.rows(IMPRESSION)
        pair = world.happenings.request * len(world.pins) + world.happenings.pin
        return np.corrcoef(np.isin(pair[shown], pair[world.rows(CLICK)]), what(world, shown))[0, 1]

    return correlation


def purchases_for_a_unit_of(what: Callable[[World, np.ndarray], np.ndarray]) -> Callable[[World], float]:
    """Correlation of a purchase with something of what was clicked."""

    def correlation(world: World) -> float:
        clicked, truth = world.rows(CLICK), world.block.purchases
        pair = world.happenings.user[clicked] * len(world.pins) + world.happenings.pin[clicked]
        bought = np.isin(pair, (truth.user * len(world.pins) + truth.pin)[truth.origin == Origin.CLICKED])
        return np.corrcoef(bought, what(world, clicked))[0, 1]

    return correlation


def allure(world: World, rows: np.ndarray) -> np.ndarray:
    return world.pins.allure[world.happenings.pin[rows]]


def trust(world: World, rows: np.ndarray) -> np.ndarray:
    return world.catalogue.advertisers.trust[world.advertiser(rows)]


def price_fit(world: World, rows: np.ndarray) -> np.ndarray:
    happened = world.happenings
    return -np.abs(world.pins.expensive[happened.pin[rows]] - world.people.purse[happened.user[rows]])


def drift(world: World) -> float:
    everybody = np.arange(len(world.people))
    first, at_the_end = np.zeros_like(everybody), np.ones(len(everybody), np.float32)
    end = world.people.interest_at(everybody, first, at_the_end)
    return 1 - np.einsum("nd,nd->n", world.people.interests[:, 0], end).mean()


def stray(world: World) -> float:
    """How far intents on home feed are from the nearer interest."""
    requests, config = world.requests, world.config
    progress = ((requests.time - config.start_seconds) / (config.num_days * 86_400)).astype(np.float32)
    home = np.flatnonzero(requests.surface == 0)
    near = [
        np.einsum(
            "nd,nd->n",
            requests.intent[home],
            world.people.interest_at(requests.user[home], np.full(len(home), each), progress[home]),
        )
        for each in (0, 1)
    ]
    return 1 - np.max(near, axis=0).mean()


def shelf_width(world: World) -> float:
    pins = world.pins
    centre = np.stack([pins.latent[pins.advertiser == each].mean(axis=0) for each in range(25)])
    return 1 - np.linalg.norm(centre, axis=1).mean()


def share_of_origin(*origins: Origin) -> Callable[[World], float]:
    return lambda world: len(world.rows_of_origin(*origins)) / len(world.rows(*CONVERSIONS))


def stay_of_buyers(world: World) -> float:
    return purchases_for_a_unit_of(
        lambda world, rows: np.where(world.happenings.dwell[rows] > 8, np.log(world.happenings.dwell[rows]), 3.4)
    )(world)


def nearest_is_scored(world: World) -> float:
    """How often the pin nearest to a point is among those that an auction for it would score."""
    points = world.requests.intent[:500]
    nearest = np.argmax(points @ world.pins.latent.T, axis=1)
    return (world.catalogue.forest.near(points) == nearest[:, None]).any(axis=1).mean()


def budget_in_impressions(world: World) -> float:
    served = np.bincount(world.advertiser(world.rows(IMPRESSION)), minlength=25)
    return (served / np.bincount(world.pins.advertiser, minlength=25)).std()


def hours_to_purchase(world: World) -> float:
    truth = world.block.purchases
    first = {}
    clicked = world.rows(CLICK)
    for row in clicked:
        first.setdefault((world.happenings.user[row], world.happenings.pin[row]), world.happenings.time[row])
    rows = np.flatnonzero(truth.origin == Origin.CLICKED)
    waits = [truth.time[row] - first.get((truth.user[row], truth.pin[row]), np.nan) for row in rows]
    return float(np.nanmedian(waits)) / 3600


def swapped(world: World) -> float:
    """The share of reports that match no purchase."""
    truth, happened, rows = world.block.purchases, world.happenings, world.rows(*CONVERSIONS)
    pair = truth.user * len(world.pins) + truth.pin
    return 1 - np.isin(happened.user[rows] * len(world.pins) + happened.pin[rows], pair).mean()


def repeated_reports(world: World) -> float:
    rows = world.rows(*CONVERSIONS)
    happened = world.happenings
    facts = np.stack([happened.user[rows], happened.pin[rows], happened.action[rows], happened.time[rows]])
    return 1 - np.unique(facts, axis=1).shape[1] / len(rows)


def repeated_ids(world: World) -> float:
    return 1 - len(np.unique(world.block.event)) / len(world.block.event)


def per_person_spread(world: World) -> float:
    return (
        np.bincount(world.requests.user, minlength=300).std() / np.bincount(world.requests.user, minlength=300).mean()
    )


def reported_within(hours: float) -> Callable[[World], float]:
    return lambda world: (world.hours_to_report() < hours).mean()


def share_of_last_day(world: World) -> float:
    return (world.requests.day == world.config.num_days - 1).mean()


#: Knob, two or three rising values, a quantity that must rise with it, and what it is at the first value (None: any).
EFFECTS: list[tuple[str, tuple[Any, ...], Callable[[World], float], float | None]] = [
    ("catalogue_spread", (0, 0.6, 2), shelf_width, 0.0),
    ("new_pins", (0, 0.5), lambda world: (world.pins.first_day > 0).mean(), 0.0),
    ("sold_out", (0, 0.5), lambda world: (world.pins.last_day <= world.config.num_days).mean(), 0.0),
    ("sessions_per_user", (2, 11, 30), lambda world: len(world.requests), None),
    ("activity_spread", (0, 0.6, 1.2), per_person_spread, None),
    ("growth", (0, 1, 3), share_of_last_day, None),
    ("surface_shares", ((0.8, 0.2, 0), (0.2, 0.3, 0.5)), lambda world: (world.requests.surface == SEARCH).mean(), 0.0),
    ("interest_drift", (0, 0.5, 2), drift, 0.0),
    ("intent_noise", (0, 0.5, 2), stray, 0.0),
    ("vague_queries", (0, 0.33, 1), lambda world: world.requests.is_vague.mean(), 0.0),
    ("pins_per_session", (5, 10, 20), lambda world: len(world.rows(IMPRESSION)) / len(world.requests), None),
    ("auction_size", (16, 64, 256), nearest_is_scored, None),
    ("policy_noise", (2, 0.6, 0), affinity_of(IMPRESSION), None),
    ("budget_spread", (0, 0.7, 2), budget_in_impressions, None),
    ("exploration", (1, 0.3, 0), affinity_of(IMPRESSION), None),
    ("click_bias", (-4, -2.8, 0), count(CLICK), None),
    ("repin_bias", (-8, -5, -2), count(REPIN), None),
    ("affinity_weight", (0, 2, 4), clicks_for_a_unit_of(World.affinity), 0.0),
    ("affinity_weight", (0, 2, 4), purchases_for_a_unit_of(World.affinity), 0.0),
    ("allure", (0, 0.8, 2), clicks_for_a_unit_of(allure), 0.0),
    ("false_clicks", (0, 0.1, 0.3), lambda world: (world.happenings.dwell[world.rows(CLICK)] < 5).mean(), None),
    ("dwell_signal", (0, 1, 3), stay_of_buyers, None),
    ("conversion_rate", (0, 0.2, 0.8), lambda world: len(world.block.purchases), 0.0),
    ("trust_weight", (0, 1.2, 4), purchases_for_a_unit_of(trust), 0.0),
    ("price_weight", (0, 1.5, 5), purchases_for_a_unit_of(price_fit), 0.0),
    ("click_a_buy_b", (0, 0.3, 1), share_of_origin(Origin.SIBLING), 0.0),
    ("organic_purchases", (0, 0.1, 1), share_of_origin(Origin.ORGANIC), 0.0),
    ("purchase_delay_hours", (1, 4, 12), hours_to_purchase, None),
    ("label_noise", (0, 0.1, 0.8), swapped, 0.0),
    ("under_reporting", (1, 0.5, 0), count(*CONVERSIONS), None),
    ("under_reported", (1, 0.5, 0), count(*CONVERSIONS), None),
    ("over_reporting", (0, 0.3, 1), share_of_origin(Origin.INVENTED), 0.0),
    ("over_reported", (0, 0.05, 0.5), share_of_origin(Origin.INVENTED), 0.0),
    ("double_reporting", (0, 0.3, 1), repeated_reports, 0.0),
    ("shared_event_ids", (0, 0.5, 1), repeated_ids, 0.0),
    ("reported_in_hour", (0, 0.35, 0.5), reported_within(1), 0.0),
    ("reported_in_day", (0.35, 0.5, 1), reported_within(24), 0.35),
    ("report_tail_days", (20, 7, 1), reported_within(72), None),
]


@pytest.mark.parametrize(("knob", "values", "quantity", "at_first"), EFFECTS, ids=[each[0] for each in EFFECTS])
def test_a_knob_has_its_documented_effect(knob, values, quantity, at_first):
    # Where advertisers differ by a share, all of them must take part for the sweep of another knob to show.
    plain = {"under_reporting": 0.3, "over_reporting": 0.3, "double_reporting": 0.3, "label_noise": 0.0}
    found = [quantity(draw_small(**{**plain, knob: value})) for value in values]
    assert (np.diff(found) > 0).all(), found
    if at_first is not None:
        assert found[0] == pytest.approx(at_first, abs=0.05)


def test_every_number_among_the_knobs_of_behaviour_is_swept():
    swept = {knob for knob, *_ in EFFECTS}
    sizes = {"seed", "num_users", "num_pins", "num_advertisers", "num_days", "start", "users_per_block"}
    vectors = {f"{view}_{what}" for view in ("visual", "text", "graph") for what in ("dim", "noise")} | {"vector_dim"}
    assert set(type(draw_small().config).model_fields) == swept | sizes | vectors


@pytest.mark.parametrize("view", ["visual", "text", "graph"])
def test_a_vector_without_noise_shows_the_latent_and_noise_blurs_it(view):
    def error(noise: float) -> float:
        world = draw_small(**{f"{view}_noise": noise, f"{view}_dim": 24})
        seen = draw_views(world.config, world.pins.latent)[view]
        seen = seen / np.linalg.norm(seen, axis=1, keepdims=True)
        return float(np.abs(seen @ seen.T - world.pins.latent @ world.pins.latent.T).mean())

    assert error(0) < 1e-5
    assert 0.05 < error(0.5) < error(2)


def test_each_advertiser_that_reports_badly_does_so_at_its_rate():
    plain = {"label_noise": 0.0, "under_reporting": 0.0, "over_reporting": 0.0, "double_reporting": 0.0}
    truth = draw_small(**plain)
    assert len(truth.rows_of_origin(Origin.INVENTED)) == 0
    assert repeated_reports(truth) == 0
    half = draw_small(**plain | {"under_reporting": 1.0, "under_reported": 0.5})
    assert len(half.rows(*CONVERSIONS)) == pytest.approx(0.5 * len(truth.rows(*CONVERSIONS)), rel=0.07)
    none = draw_small(**plain | {"under_reporting": 1.0, "under_reported": 1.0})
    assert len(none.rows(*CONVERSIONS)) == 0
    twice = draw_small(**plain | {"double_reporting": 1.0})
    assert len(twice.rows(*CONVERSIONS)) == 2 * len(truth.rows(*CONVERSIONS))


@pytest.mark.parametrize(("shared", "ids"), [(1.0, 1), (0.0, 2)])
def test_a_double_report_is_of_one_purchase_under_one_event_id_or_two(shared, ids):
    world = draw_small(double_reporting=1.0, shared_event_ids=shared)
    table = world.events().take(world.rows(CHECKOUT))
    same_purchase = ["user_id", "pin_id", "timestamp", "value"]
    reports = table.group_by(same_purchase).aggregate(
        [("event_id", "count_distinct"), ("reported_at", "count_distinct")]
    )
    assert len(reports) == len(table) / 2
    assert set(reports["event_id_count_distinct"].to_pylist()) == {ids}
    assert set(reports["reported_at_count_distinct"].to_pylist()) == {2}


def test_false_clicks_bounce_and_lead_to_nothing():
    world = draw_small(
        click_bias=-20, affinity_weight=0, false_clicks=0.2, allure=0, organic_purchases=0, over_reporting=0
    )
    clicks = world.rows(CLICK)
    assert len(clicks) == pytest.approx(0.2 * len(world.rows(IMPRESSION)), rel=0.05)
    assert np.median(world.happenings.dwell[clicks]) == pytest.approx(3, rel=0.1)
    assert len(world.rows(*CONVERSIONS)) == 0


def test_a_surface_with_no_share_has_no_requests():
    world = draw_small(surface_shares=(1, 0, 0))
    assert set(world.requests.surface.tolist()) == {SURFACES.index("home_feed")}


@pytest.mark.parametrize(
    "change", [{"over_reporting": 1.0}, {"label_noise": 0.9}, {"double_reporting": 1.0}, {"click_a_buy_b": 1.0}]
)
def test_a_knob_of_purchases_or_reports_leaves_what_happens_on_the_platform_alone(change):
    first, second = draw_small(), draw_small(**change)
    for column in ("time", "user", "pin", "action", "dwell"):
        before, after = (
            getattr(world.happenings, column)[world.rows(IMPRESSION, CLICK, REPIN)] for world in (first, second)
        )
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("change", [{"visual_noise": 0.0}, {"text_dim": 4}, {"graph_noise": 3.0}])
def test_the_vectors_leave_all_events_alone(change):
    assert draw_small().events().equals(draw_small(**change).events())
