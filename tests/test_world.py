"""The built-in world: the same from the same seed, true to the contract, and with the planted facts in it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from worlds import CONVERSIONS, SMALL, World, draw, draw_small

from convcg import schema
from convcg.data.canonical import canonical
from convcg.data.validate import validate_tables
from convcg.data.world import WorldConfig, write_world
from convcg.data.world.behaviour import Origin
from convcg.data.world.catalogue import needed_permits
from convcg.data.world.tables import pins_table
from convcg.data.world.write import start_world, write_block
from convcg.types import SURFACES, Action, Surface

IN_BLOCKS = WorldConfig(**SMALL, users_per_block=128)


@pytest.fixture(scope="module")
def world() -> World:
    return draw()


@pytest.fixture(scope="module")
def events(world: World) -> pa.Table:
    return world.events()


def of_actions(events, *actions):
    return events.filter(pc.is_in(events["action"], value_set=pa.array(actions, pa.string())))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*.parquet")}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    write_world(IN_BLOCKS, str(tmp_path / "a"))
    write_world(IN_BLOCKS, str(tmp_path / "b"))
    write_world(IN_BLOCKS.model_copy(update={"seed": 8}), str(tmp_path / "c"))
    first = contents(tmp_path / "a")
    assert len(first) == 1 + 2 * 3
    assert contents(tmp_path / "b") == first
    other = contents(tmp_path / "c")
    assert all(other[name] != first[name] for name in first)


def test_a_block_does_not_depend_on_the_blocks_before_it(tmp_path):
    write_world(IN_BLOCKS, str(tmp_path / "whole"))
    catalogue = start_world(IN_BLOCKS, str(tmp_path / "alone"))
    write_block(IN_BLOCKS, catalogue, str(tmp_path / "alone"), 2)
    whole, alone = contents(tmp_path / "whole"), contents(tmp_path / "alone")
    assert set(alone) == {"pins.parquet", "events/part-00002.parquet", "users/part-00002.parquet"}
    assert all(whole[name] == content for name, content in alone.items())


def test_a_smaller_world_leaves_nothing_of_the_larger_one_that_was_there(tmp_path):
    write_world(IN_BLOCKS, str(tmp_path))
    summary = write_world(IN_BLOCKS.model_copy(update={"num_users": 100}), str(tmp_path))
    assert len(contents(tmp_path)) == 3
    assert pq.read_table(summary.users).num_rows == 100


def test_ids_are_distinct_across_blocks_and_a_request_belongs_to_one_person(tmp_path):
    summary = write_world(IN_BLOCKS.model_copy(update={"shared_event_ids": 0.0}), str(tmp_path))
    events = pq.read_table(summary.events)
    users = pq.read_table(summary.users)["user_id"]
    assert pc.count_distinct(events["event_id"]).as_py() == events.num_rows == summary.num_events
    assert pc.count_distinct(users).as_py() == len(users) == summary.num_users == 300
    pairs = events.group_by(["request_id", "user_id"]).aggregate([])
    assert pc.count_distinct(pairs["request_id"]).as_py() == len(pairs["request_id"].drop_null())


def test_the_default_world_keeps_the_contract_and_has_the_promised_size(tmp_path):
    summary = write_world(WorldConfig(), str(tmp_path))
    report = validate_tables(events=summary.events, pins=summary.pins, users=summary.users)
    assert report.violations == ()
    assert report.notes == ()
    assert report.rows == {"events": summary.num_events, "pins": 3000, "users": 1500}
    assert 200_000 <= summary.num_events <= 260_000
    assert sum(summary.actions.values()) == summary.num_events
    assert Path(summary.events).parent == tmp_path
    written = pq.read_table(summary.events)
    assert canonical(written, schema.EVENTS).schema.names == written.select(schema.EVENTS.by_name).column_names


def test_purchases_are_sparse_but_the_last_two_days_have_enough_of_them(world, events):
    clicks, bought = world.rows(Action.CLICK), world.rows(*CONVERSIONS)
    assert len(world.rows(Action.CHECKOUT)) < len(clicks) / 4
    recent = world.happenings.time[bought] >= world.config.end_seconds - 2 * 86_400
    assert recent.sum() >= 1500
    assert (world.happenings.time < world.config.end_seconds).all()
    assert (world.happenings.time >= world.config.start_seconds).all()
    assert (np.diff(world.happenings.time) >= 0).all()


def test_people_click_and_buy_what_is_near_their_interests(world):
    people, pins, happened = world.people, world.pins, world.happenings
    progress = (happened.time - world.config.start_seconds) / (86_400 * world.config.num_days)

    def nearness(rows, pin):
        interests = [
            people.interest_at(happened.user[rows], np.full(len(rows), each), progress[rows].astype(np.float32))
            for each in range(people.interests.shape[1])
        ]
        return np.max([np.einsum("nd,nd->n", each, pins.latent[pin]) for each in interests], axis=0).mean()

    served, clicked, bought = world.rows(Action.IMPRESSION), world.rows(Action.CLICK), world.rows(*CONVERSIONS)
    uniform = np.random.default_rng(0).integers(len(pins), size=len(served))
    random_pins = nearness(served, uniform)
    of_served, of_clicked, of_bought = (nearness(rows, happened.pin[rows]) for rows in (served, clicked, bought))
    assert random_pins + 0.1 < of_served
    assert of_served + 0.1 < of_clicked
    assert of_clicked < of_bought


def test_conversions_are_reported_late_by_the_planted_delays(world, events):
    conversions = of_actions(events, *CONVERSIONS)
    assert conversions["reported_at"].null_count == 0
    hours = world.hours_to_report()
    assert (hours > 0).all()
    assert hours.max() <= 30 * 24
    assert (hours < 1).mean() == pytest.approx(0.35, abs=0.01)
    assert (hours < 24).mean() == pytest.approx(0.50, abs=0.01)
    assert 0.1 < (hours > 7 * 24).mean() < 0.3
    assert of_actions(events, "impression", "click", "repin")["reported_at"].null_count == len(events) - len(
        conversions
    )


def test_conversions_happen_off_the_platform_and_true_ones_after_a_click_on_the_same_advertiser():
    world = draw_small(label_noise=0.0)
    conversions = of_actions(world.events(), *CONVERSIONS)
    for column in ("surface", "subject_pin_id", "query", "request_id", "dwell_seconds"):
        assert conversions[column].null_count == len(conversions), column
    happened = world.happenings
    clicks = world.rows(Action.CLICK)
    first_click = {}
    for user, advertiser, time in zip(
        happened.user[clicks], world.advertiser(clicks), happened.time[clicks], strict=True
    ):
        first_click.setdefault((user, advertiser), time)
    caused = world.rows_of_origin(Origin.CLICKED, Origin.SIBLING)
    causes = [
        first_click.get(pair, np.inf) for pair in zip(happened.user[caused], world.advertiser(caused), strict=True)
    ]
    assert len(caused) > 1000
    assert (np.array(causes) < happened.time[caused]).all()


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

    catalogue = pins_table(world.config, world.catalogue)
    category = dict(zip(*(catalogue[name].to_pylist() for name in ("pin_id", "category")), strict=True))
    clicks = of_actions(events, "click")
    asked = clicks.filter(pc.equal(clicks["surface"], "search"))
    named = [query.split()[-1] for query in asked["query"].to_pylist()]
    got = [category[pin] for pin in asked["pin_id"].to_pylist()]
    hits = np.mean([wanted == found for wanted, found in zip(named, got, strict=True)])
    by_chance = sum((named.count(each) / len(named)) * (got.count(each) / len(got)) for each in set(named))
    assert hits > 2 * by_chance


def test_only_pins_that_exist_and_are_in_stock_and_eligible_are_served_each_once_a_request(world):
    happened, pins, requests = world.happenings, world.pins, world.requests
    shown = world.rows(Action.IMPRESSION)
    pin, request = happened.pin[shown], happened.request[shown]
    day = (requests.time[request] - world.config.start_seconds) / 86_400
    assert (pins.first_day > 0).mean() == pytest.approx(0.2, abs=0.03)
    assert (day >= pins.first_day[pin]).all()
    assert (pins.last_day <= world.config.num_days).mean() == pytest.approx(0.1, abs=0.02)
    assert (day < pins.last_day[pin]).all()
    needed = needed_permits(requests.surface[request], world.people.country[happened.user[shown]])
    assert ((pins.permits[pin] & needed) == needed).all()
    everywhere = 2 ** (len(SURFACES) + 6) - 1
    assert 0.3 < (pins.permits == everywhere).mean() < 0.9
    related = requests.surface[request] == SURFACES.index(Surface.RELATED_PINS)
    assert (requests.subject[request[related]] >= 0).all()
    assert (pin != requests.subject[request]).all()
    assert len(np.unique(request * len(pins) + pin)) == len(pin)
    assert np.bincount(request).max() == world.config.pins_per_session
    assert np.bincount(request).mean() > 0.95 * world.config.pins_per_session


def test_nothing_sold_out_is_bought_and_the_pins_table_says_what_is_left(world):
    happened = world.happenings
    bought = world.rows(*CONVERSIONS)
    day = (happened.time[bought] - world.config.start_seconds) / 86_400
    assert (day < world.pins.last_day[happened.pin[bought]]).all()
    table = pins_table(world.config, world.catalogue)
    assert table["in_stock"].to_pylist() == (world.pins.last_day > world.config.num_days).tolist()
    first_seen = [(seen - world.config.start).days for seen in table["first_seen"].to_pylist()]
    assert first_seen == world.pins.first_day.tolist()


def test_catalogues_are_coherent_and_the_vectors_show_the_latent(world):
    latent, advertiser = world.pins.latent, world.pins.advertiser
    nearby = latent @ latent.T
    same = advertiser[:, None] == advertiser[None, :]
    np.fill_diagonal(same, False)
    assert nearby[same].mean() > nearby[~same].mean() + 0.4
    table = pins_table(world.config, world.catalogue)
    closeness = {}
    for name in ("visual", "text", "graph"):
        view = np.stack(table[name].to_numpy())
        view /= np.linalg.norm(view, axis=1, keepdims=True)
        closeness[name] = np.corrcoef((view @ view.T).ravel(), nearby.ravel())[0, 1]
    assert 0.5 < closeness["text"] < closeness["graph"] < closeness["visual"] < 0.95


def test_dwell_has_bounces_and_those_who_stay_buy_more(world):
    happened = world.happenings
    clicks = world.rows(Action.CLICK)
    dwell = happened.dwell[clicks]
    assert 0.1 < (dwell < 5).mean() < 0.5
    assert 0.15 < (dwell > 60).mean() < 0.5
    assert np.isnan(happened.dwell[world.rows(Action.IMPRESSION, Action.REPIN, Action.CHECKOUT)]).all()

    pair = happened.user * len(world.pins) + happened.pin
    led_to_purchase = np.isin(pair[clicks], pair[world.rows_of_origin(Origin.CLICKED)])
    assert np.median(dwell[led_to_purchase]) > 1.3 * np.median(dwell[~led_to_purchase])


def test_trusted_advertisers_and_fitting_prices_sell_more_a_click(world):
    happened, pins, trust = world.happenings, world.pins, world.catalogue.advertisers.trust
    clicks = np.bincount(world.advertiser(world.rows(Action.CLICK)), minlength=len(trust))
    truth = world.block.purchases.take(np.flatnonzero(world.block.purchases.origin == Origin.CLICKED))
    rate = np.bincount(pins.advertiser[truth.pin], minlength=len(trust)) / np.maximum(clicks, 1)
    assert np.corrcoef(rate[clicks > 50], trust[clicks > 50])[0, 1] > 0.5

    def misfit(pin, user):
        return np.abs(pins.expensive[pin] - world.people.purse[user]).mean()

    clicked = world.rows(Action.CLICK)
    assert misfit(truth.pin, truth.user) < 0.95 * misfit(happened.pin[clicked], happened.user[clicked])


def test_interests_drift_but_stay_recognisable(world):
    users = np.arange(len(world.people))
    first = np.zeros_like(users)
    start, end = (world.people.interest_at(users, first, np.full(len(users), at, np.float32)) for at in (0.0, 1.0))
    assert 0.8 < np.einsum("nd,nd->n", start, end).mean() < 0.97


@pytest.mark.parametrize("vector_dim", [4, 24])
def test_the_smallest_world_keeps_the_contract(tmp_path, vector_dim):
    tiny = WorldConfig(
        num_users=10, num_pins=50, num_advertisers=2, num_days=2, sessions_per_user=0.01, users_per_block=3,
        vector_dim=vector_dim, visual_dim=8, text_dim=2, graph_dim=32, auction_size=16,
    )  # fmt: skip
    summary = write_world(tiny, str(tmp_path))
    report = validate_tables(events=summary.events, pins=summary.pins, users=summary.users)
    assert report.violations == ()
    assert summary.num_events > 0
    pins = pq.read_table(summary.pins)
    assert [len(pins[name][0]) for name in ("visual", "text", "graph")] == [8, 2, 32]


@pytest.mark.parametrize(
    "change",
    [
        {"num_users": 0},
        {"exploration": 1.5},
        {"start": "soon"},
        {"num_user": 5},
        {"reported_in_hour": 0.6},
        {"surface_shares": (0.5, 0.5, 0.5)},
    ],
)
def test_settings_out_of_bounds_are_refused(change):
    with pytest.raises(ValidationError):
        WorldConfig(**change)
