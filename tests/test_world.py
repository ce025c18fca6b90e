"""The built-in world: the same from the same seed, true to the contract, and with the planted facts in it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from convcg import schema
from convcg.data.canonical import canonical
from convcg.data.validate import validate_tables
from convcg.data.world import WorldConfig, draw_world, events_table, pins_table, write_world
from convcg.types import ACTION_CODE, SURFACES, Action, Surface

SMALL = WorldConfig(num_users=200, num_pins=400, num_advertisers=20, num_days=7)
FILES = ("events.parquet", "pins.parquet", "users.parquet")


@pytest.fixture(scope="module")
def world():
    return draw_world(WorldConfig())


@pytest.fixture(scope="module")
def events(world):
    return events_table(world)


def rows_of(world, *actions):
    return np.flatnonzero(np.isin(world.happenings.action, [ACTION_CODE[action] for action in actions]))


def of_actions(events, *actions):
    return events.filter(pc.is_in(events["action"], value_set=pa.array(actions, pa.string())))


def contents(directory):
    return [(directory / name).read_bytes() for name in FILES]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    write_world(SMALL, str(tmp_path / "a"))
    write_world(SMALL, str(tmp_path / "b"))
    write_world(SMALL.model_copy(update={"seed": 8}), str(tmp_path / "c"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert all(a != c for a, c in zip(contents(tmp_path / "a"), contents(tmp_path / "c"), strict=True))


def test_the_default_world_keeps_the_contract_and_has_the_promised_size(tmp_path):
    summary = write_world(WorldConfig(), str(tmp_path))
    report = validate_tables(events=summary.events, pins=summary.pins, users=summary.users)
    assert report.text().count("violation") == 1
    assert report.violations == ()
    assert report.notes == ()
    assert report.rows == {"events": summary.num_events, "pins": 3000, "users": 1500}
    assert 150_000 <= summary.num_events <= 250_000
    assert sum(summary.actions.values()) == summary.num_events
    assert Path(summary.events).parent == tmp_path
    written = pq.read_table(summary.events)
    assert canonical(written, schema.EVENTS).schema.names == written.select(schema.EVENTS.by_name).column_names


def test_purchases_are_sparse_but_the_last_two_days_have_enough_of_them(world, events):
    clicks, bought = rows_of(world, Action.CLICK), rows_of(world, Action.ADD_TO_CART, Action.CHECKOUT)
    checkouts = rows_of(world, Action.CHECKOUT)
    assert len(checkouts) < len(clicks) / 4
    recent = world.happenings.time[bought] >= world.config.end_seconds - 2 * 86_400
    assert recent.sum() >= 1500
    assert (world.happenings.time < world.config.end_seconds).all()
    assert (np.diff(world.happenings.time) >= 0).all()
    assert len(pc.unique(events["event_id"])) == events.num_rows


def test_people_click_and_buy_what_is_near_their_interests(world):
    users, pins, happened = world.users, world.pins, world.happenings
    progress = (happened.time - world.config.start_seconds) / (86_400 * world.config.num_days)

    def nearness(rows, pin):
        interests = [
            users.interest_at(happened.user[rows], np.full(len(rows), each), progress[rows].astype(np.float32))
            for each in range(users.interests.shape[1])
        ]
        return np.max([np.einsum("nd,nd->n", each, pins.latent[pin]) for each in interests], axis=0).mean()

    served, clicked = rows_of(world, Action.IMPRESSION), rows_of(world, Action.CLICK)
    bought = rows_of(world, Action.ADD_TO_CART, Action.CHECKOUT)
    uniform = np.random.default_rng(0).integers(len(pins.price), size=len(served))
    random_pins, of_served, of_clicked, of_bought = (
        nearness(served, uniform),
        nearness(served, happened.pin[served]),
        nearness(clicked, happened.pin[clicked]),
        nearness(bought, happened.pin[bought]),
    )
    assert random_pins + 0.1 < of_served
    assert of_served + 0.1 < of_clicked
    assert of_clicked < of_bought


def test_conversions_are_reported_late_and_half_of_them_within_a_day(world, events):
    conversions = of_actions(events, "add_to_cart", "checkout")
    assert conversions["reported_at"].null_count == 0
    hours = (world.happenings.reported - world.happenings.time)[
        rows_of(world, Action.ADD_TO_CART, Action.CHECKOUT)
    ] / 3600
    assert (hours >= 0).all()
    assert 0.45 < (hours < 24).mean() < 0.55
    assert 0.8 < (hours < 7 * 24).mean() < 0.97
    assert of_actions(events, "impression", "click", "repin")["reported_at"].null_count == events.num_rows - len(
        conversions
    )


def test_conversions_happen_off_the_platform_and_after_a_click_on_the_same_advertiser(world, events):
    conversions = of_actions(events, "add_to_cart", "checkout")
    for column in ("surface", "subject_pin_id", "query", "request_id", "dwell_seconds"):
        assert conversions[column].null_count == len(conversions), column
    happened, pins = world.happenings, world.pins
    first_click = {}
    for row in rows_of(world, Action.CLICK):
        first_click.setdefault((happened.user[row], pins.advertiser[happened.pin[row]]), happened.time[row])
    bought = rows_of(world, Action.ADD_TO_CART, Action.CHECKOUT)
    causes = [first_click.get((happened.user[row], pins.advertiser[happened.pin[row]]), np.inf) for row in bought]
    assert (np.array(causes) < happened.time[bought]).all()


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.0, 0.0), (0.3, 0.1, 0.3), (1.0, 0.5, 0.99)])
def test_click_a_buy_b_sets_how_often_another_pin_is_bought(share, low, high):
    world = draw_world(SMALL.model_copy(update={"click_a_buy_b": share}))
    happened = world.happenings
    pair = happened.user * len(world.pins.price) + happened.pin
    bought = rows_of(world, Action.ADD_TO_CART, Action.CHECKOUT)
    never_clicked = ~np.isin(pair[bought], pair[rows_of(world, Action.CLICK)])
    assert low <= never_clicked.mean() <= high


def test_contexts_belong_to_their_surfaces_and_tell_what_is_wanted(world, events):
    shown = of_actions(events, "impression")
    related = shown.filter(pc.equal(shown["surface"], "related_pins"))
    search = shown.filter(pc.equal(shown["surface"], "search"))
    assert set(pc.unique(shown["surface"]).to_pylist()) == set(SURFACES)
    assert related["subject_pin_id"].null_count == 0
    assert shown["subject_pin_id"].null_count == len(shown) - len(related)
    assert search["query"].null_count == 0
    assert shown["query"].null_count == len(shown) - len(search)
    assert pc.all(pc.not_equal(related["subject_pin_id"], related["pin_id"])).as_py()

    category = dict(zip(*(pins_table(world)[name].to_pylist() for name in ("pin_id", "category")), strict=True))
    clicks = of_actions(events, "click")
    asked = clicks.filter(pc.equal(clicks["surface"], "search"))
    named = [query.split()[-1] for query in asked["query"].to_pylist()]
    got = [category[pin] for pin in asked["pin_id"].to_pylist()]
    hits = np.mean([wanted == found for wanted, found in zip(named, got, strict=True)])
    by_chance = sum((named.count(each) / len(named)) * (got.count(each) / len(got)) for each in set(named))
    assert hits > 2 * by_chance


def test_only_eligible_pins_are_served(world):
    happened, pins, sessions = world.happenings, world.pins, world.sessions
    shown = rows_of(world, Action.IMPRESSION)
    pin, session = happened.pin[shown], happened.session[shown]
    assert 0 < (~pins.in_stock).mean() < 0.05
    assert pins.in_stock[pin].all()
    assert not pins.on_surface.all()
    assert pins.on_surface[pin, sessions.surface[session]].all()
    assert not pins.ships_to.all()
    assert pins.ships_to[pins.advertiser[pin], world.users.country[happened.user[shown]]].all()
    related = np.flatnonzero(sessions.surface[session] == SURFACES.index(Surface.RELATED_PINS))
    assert (sessions.subject[session[related]] >= 0).all()


def test_catalogues_are_coherent_and_the_visual_shows_the_latent(world):
    latent, visual, advertiser = world.pins.latent, world.pins.visual, world.pins.advertiser
    nearby = latent @ latent.T
    same = advertiser[:, None] == advertiser[None, :]
    np.fill_diagonal(same, False)
    assert nearby[same].mean() > nearby[~same].mean() + 0.4
    cosine = np.einsum("nd,nd->n", latent, visual) / np.linalg.norm(visual, axis=1)
    assert 0.7 < cosine.mean() < 0.99


def test_dwell_has_bounces_and_those_who_stay_buy_more(world):
    happened = world.happenings
    clicks = rows_of(world, Action.CLICK)
    dwell = happened.dwell[clicks]
    assert 0.1 < (dwell < 5).mean() < 0.5
    assert 0.15 < (dwell > 60).mean() < 0.5
    assert np.isnan(happened.dwell[rows_of(world, Action.IMPRESSION, Action.REPIN, Action.CHECKOUT)]).all()

    pair = happened.user * len(world.pins.price) + happened.pin
    led_to_purchase = np.isin(pair[clicks], pair[rows_of(world, Action.ADD_TO_CART, Action.CHECKOUT)])
    assert np.median(dwell[led_to_purchase]) > 1.3 * np.median(dwell[~led_to_purchase])


def test_trusted_advertisers_and_fitting_prices_sell_more_a_click(world):
    happened, pins = world.happenings, world.pins
    clicked = happened.pin[rows_of(world, Action.CLICK)]
    clicks = np.bincount(pins.advertiser[clicked], minlength=len(pins.trust))
    bought = rows_of(world, Action.ADD_TO_CART, Action.CHECKOUT)
    rate = np.bincount(pins.advertiser[happened.pin[bought]], minlength=len(pins.trust)) / np.maximum(clicks, 1)
    assert np.corrcoef(rate[clicks > 50], pins.trust[clicks > 50])[0, 1] > 0.5

    def misfit(rows):
        return np.abs(pins.expensive[happened.pin[rows]] - world.users.purse[happened.user[rows]]).mean()

    assert misfit(bought) < 0.95 * misfit(rows_of(world, Action.CLICK))


def test_interests_drift_but_stay_recognisable(world):
    users = np.arange(len(world.users.country))
    first = np.zeros_like(users)
    start, end = (world.users.interest_at(users, first, np.full(len(users), at, np.float32)) for at in (0.0, 1.0))
    assert 0.8 < np.einsum("nd,nd->n", start, end).mean() < 0.97


def test_the_smallest_world_keeps_the_contract(tmp_path):
    tiny = WorldConfig(num_users=10, num_pins=50, num_advertisers=2, num_days=2, sessions_per_user=0.01, vector_dim=4)
    summary = write_world(tiny, str(tmp_path))
    report = validate_tables(events=summary.events, pins=summary.pins, users=summary.users)
    assert report.violations == ()


@pytest.mark.parametrize("change", [{"num_users": 0}, {"exploration": 1.5}, {"start": "soon"}, {"num_user": 5}])
def test_settings_out_of_bounds_are_refused(change):
    with pytest.raises(ValidationError):
        WorldConfig(**change)
