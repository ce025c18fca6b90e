"""The built-in world's oracle: calibrated on what was drawn, and above everything that learns from the log alone."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from worlds import World, draw, draw_small

from convcg.data.world import Asked, Oracle
from convcg.data.world.latent import CATEGORIES
from convcg.errors import DataError
from convcg.metrics import rank_among_all, recall_at
from convcg.types import ACTION_CODE, SURFACES, Action, Surface

DAY = 86_400.0


def asked_at(world: World, rows: np.ndarray) -> Asked:
    """The requests of these happenings on the platform, as the tables have them."""
    table = world.events().take(pa.array(rows))
    codes = {str(surface): code for code, surface in enumerate(SURFACES)}
    return Asked(
        user_id=table["user_id"].to_pylist(),
        time=world.happenings.time[rows],
        surface=np.array([codes[surface] for surface in table["surface"].to_pylist()]),
        subject_pin_id=table["subject_pin_id"].to_pylist(),
        query=table["query"].to_pylist(),
    )


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The checkouts of the last days that followed a click on the same pin in them; each asked at that click."""

    world: World
    click: np.ndarray
    target: np.ndarray
    train: np.ndarray  # the happenings before

    @classmethod
    def of(cls, world: World, *, days: int) -> "HeldOut":
        happened, split = world.happenings, world.config.end_seconds - days * DAY
        clicks, checkouts = world.rows(Action.CLICK), world.rows(Action.CHECKOUT)
        pair = happened.user * len(world.pins) + happened.pin
        click_of = dict(zip(pair[clicks].tolist(), clicks.tolist(), strict=True))  # the last of each pair
        found = [(click_of.get(pair[row], -1), happened.pin[row]) for row in checkouts.tolist()]
        kept = np.array(sorted({(click, pin) for click, pin in found if click >= 0 and happened.time[click] >= split}))
        return cls(world=world, click=kept[:, 0], target=kept[:, 1], train=np.flatnonzero(happened.time < split))

    def recall(self, scores: np.ndarray, k: int = 100) -> float:
        nothing = [np.zeros(0, np.int64)] * len(self.target)
        return recall_at(rank_among_all(scores, self.target, nothing), k)

    def popularity(self) -> np.ndarray:
        happened, train = self.world.happenings, self.train
        bought = happened.pin[train][happened.action[train] == ACTION_CODE[Action.CHECKOUT]]
        return np.tile(np.bincount(bought, minlength=len(self.world.pins)), (len(self.target), 1))

    def item_item(self) -> np.ndarray:
        happened, train = self.world.happenings, self.train
        acted = train[happened.action[train] != ACTION_CODE[Action.IMPRESSION]]
        matrix = np.zeros((len(self.world.people), len(self.world.pins)), np.float32)
        matrix[happened.user[acted], happened.pin[acted]] = happened.action[acted]
        unit = matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-9)
        similarity = unit.T @ unit
        np.fill_diagonal(similarity, 0)
        return matrix[happened.user[self.click]] @ similarity


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    return HeldOut.of(draw(), days=3)


@pytest.fixture(scope="module")
def recalls(held_out: HeldOut) -> dict[str, float]:
    oracle, asked = Oracle(held_out.world.config), asked_at(held_out.world, held_out.click)
    rng = np.random.default_rng(0)
    return {
        "logged": held_out.recall(oracle.logged(asked)),
        "propensity": held_out.recall(oracle.propensity(asked)),
        "popularity": held_out.recall(held_out.popularity()),
        "item_item": held_out.recall(held_out.item_item()),
        "random": held_out.recall(rng.random((len(held_out.target), len(held_out.world.pins)))),
    }


def test_the_oracle_is_far_above_all_that_counts_events(held_out, recalls):
    assert len(held_out.target) > 400
    assert recalls["random"] < 0.06
    assert recalls["popularity"] > 2 * recalls["random"]
    assert recalls["propensity"] > 1.5 * max(recalls["popularity"], recalls["item_item"])
    assert recalls["propensity"] > 0.5


def test_what_the_log_will_hold_is_foreseen_better_with_the_policy_in_mind(recalls):
    assert recalls["logged"] > recalls["propensity"] + 0.03


@pytest.mark.parametrize(
    ("change", "margin"), [({"intent_noise": 2.0}, 0.1), ({"intent_noise": 2.0, "policy_noise": 2.0}, 0.1)]
)
def test_less_is_attainable_where_more_is_noise(recalls, change, margin):
    noisy = HeldOut.of(draw(**change), days=3)
    oracle = Oracle(noisy.world.config)
    assert noisy.recall(oracle.logged(asked_at(noisy.world, noisy.click))) < recalls["logged"] - margin


@pytest.fixture(scope="module")
def predicted() -> tuple[World, np.ndarray, np.ndarray]:
    """A world without what no ranking foresees, some of its requests, and the oracle's [B, N] forecast of their log."""
    world = draw_small(organic_purchases=0, label_noise=0, num_users=600)
    first_impression = np.full(len(world.requests), -1)
    shown = world.rows(Action.IMPRESSION)[::-1]
    first_impression[world.happenings.request[shown]] = shown
    requests = np.flatnonzero(first_impression >= 0)[::6]
    return world, requests, Oracle(world.config).logged(asked_at(world, first_impression[requests]))


def test_the_forecast_of_the_log_is_calibrated(predicted):
    world, requests, forecast = predicted
    truth, config = world.block.purchases, world.config
    reported = world.block.event[world.rows(Action.CHECKOUT)]
    in_time = (truth.time < config.end_seconds).mean()
    expected = forecast.sum() * len(world.requests) / len(requests) * in_time
    assert expected == pytest.approx(len(np.unique(reported)), rel=0.12)


def test_pins_and_shops_that_are_forecast_to_sell_more_do(predicted):
    world, _, forecast = predicted
    sold = np.bincount(world.happenings.pin[world.rows(Action.CHECKOUT)], minlength=len(world.pins))
    assert np.corrcoef(sold, forecast.sum(axis=0))[0, 1] > 0.7
    shop = world.pins.advertiser
    by_shop = [np.bincount(shop, weights=each, minlength=25) for each in (sold, forecast.sum(axis=0))]
    assert np.corrcoef(*by_shop)[0, 1] > 0.9


def one_request(world: World, surface: Surface, **context: Any) -> Asked:
    time = np.array([world.config.end_seconds - 1])
    given = {"subject_pin_id": [None], "query": [None], **context}
    return Asked(user_id=["user_000003"], time=time, surface=np.array([SURFACES.index(surface)]), **given)


@pytest.mark.parametrize(("click_a_buy_b", "sells"), [(0.0, False), (0.3, True)])
def test_what_may_not_be_shown_is_bought_by_click_a_buy_b_alone_and_what_is_sold_out_never(click_a_buy_b, sells):
    world = draw_small(click_a_buy_b=click_a_buy_b, sold_out=0.4)
    (scores,) = Oracle(world.config).propensity(one_request(world, Surface.HOME_FEED))
    sold_out = world.pins.last_day < world.config.num_days
    not_on_home_feed = (world.pins.permits & 1 == 0) & ~sold_out
    assert not_on_home_feed.sum() > 5
    assert ((scores[not_on_home_feed] > 0) == sells).all()
    assert (scores[sold_out] == 0).all()
    assert (scores > 0).sum() > 100


def test_the_query_moves_the_answer_to_its_category():
    world = draw_small()
    oracle = Oracle(world.config)
    clicks = world.rows(Action.CLICK)
    searched = clicks[world.requests.surface[world.happenings.request[clicks]] == SURFACES.index(Surface.SEARCH)][:200]
    asked = asked_at(world, searched)
    at_home = replace(asked, surface=np.zeros(len(searched), np.int64), query=[None] * len(searched))
    wanted = np.array([CATEGORIES.index(query.split()[-1]) for query in asked.query])

    def share_of_the_category(scores: np.ndarray) -> float:
        best = np.argsort(-scores, axis=1)[:, :20]
        return (world.pins.category[best] == wanted[:, None]).mean()

    searching, browsing = (share_of_the_category(oracle.propensity(each)) for each in (asked, at_home))
    assert searching > browsing + 0.1


def test_the_subject_pin_draws_the_answer_near_and_is_not_shown_beside_itself():
    world = draw_small(click_a_buy_b=0.0)
    oracle = Oracle(world.config)
    (beside,) = oracle.propensity(one_request(world, Surface.RELATED_PINS, subject_pin_id=["pin_000123"]))
    (alone,) = oracle.propensity(one_request(world, Surface.HOME_FEED))
    near = world.pins.latent @ world.pins.latent[123]
    assert near[np.argsort(-beside)[:20]].mean() > near[np.argsort(-alone)[:20]].mean() + 0.1
    assert beside[123] == 0


def test_answers_come_in_the_order_of_the_pin_ids_and_do_not_depend_on_what_is_asked_together():
    world = draw_small()
    oracle = Oracle(world.config)
    assert oracle.pin_ids.to_pylist() == [f"pin_{pin:06d}" for pin in range(500)]
    asked = asked_at(world, world.rows(Action.CLICK)[:6])
    alone = Asked(
        user_id=asked.user_id[4:5],
        time=asked.time[4:5],
        surface=asked.surface[4:5],
        subject_pin_id=asked.subject_pin_id[4:5],
        query=asked.query[4:5],
    )
    np.testing.assert_allclose(oracle.logged(asked)[4], oracle.logged(alone)[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"query": ["flying saucers"]}, "'flying saucers'"),
        ({"subject_pin_id": ["pin_000500"]}, "'pin_000500' is not of this world, whose ids run to pin_499"),
        ({"subject_pin_id": ["p17"]}, "'p17' is not of this world"),
    ],
)
def test_what_is_not_of_this_world_is_refused(context, message):
    world = draw_small()
    with pytest.raises(DataError, match=message):
        Oracle(world.config).propensity(one_request(world, Surface.SEARCH, **context))
