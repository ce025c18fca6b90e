"""What an evaluation is made of: slices by hand, ranks among served pins, samples that differ, settings that hold."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from convcg.config import load_config
from convcg.data.tables import RowTable
from convcg.errors import ConfigError
from convcg.evaluate import EvaluateConfig
from convcg.evaluate.evaluation import _among_served
from convcg.evaluate.queries import Eligible
from convcg.evaluate.ranking import Ranked, rank_scores
from convcg.evaluate.samples import _Pins, _spread
from convcg.evaluate.slices import Past, advertisers_of, slices_of
from convcg.metrics import NOT_RETRIEVED, ListCounts
from convcg.types import ACTION_CODE, SURFACES, Action

CLICK, CART, BUY = (ACTION_CODE[action] for action in (Action.CLICK, Action.ADD_TO_CART, Action.CHECKOUT))
NUM_PINS = 9


def pins() -> RowTable:
    """Advertiser a has one pin, b two, c four; two pins have none."""
    advertiser = ["c", "a", "b", "c", None, "b", "c", "c", None]
    columns = {
        "pin_id": [f"p{row}" for row in range(NUM_PINS)],
        "advertiser_id": advertiser,
        "price": [1.5, float("nan"), *[2.0] * 7],
        "first_seen": pa.array([0] * NUM_PINS, pa.date32()),
        "surfaces": [["search"]] * NUM_PINS,
        "feature:price": [0.0] * NUM_PINS,
    }
    return RowTable(pa.table(columns))


def past() -> Past:
    served = np.array([True, True, False, True, True, True, True, True, False])
    actions = np.array([30, 0, 20, 10, 10, 10, 5, 5, 0])
    return Past(actions_N=actions, served_N=served, conversions={"one": 1, "many": 7})


def queries(rows: list[dict[str, Any]]) -> pa.Table:
    usual = {"user_id": "none", "surface": 0, "action": BUY, "history": [], "purchased": []}
    rows = [usual | row for row in rows]
    return pa.table(
        {
            "user_id": [row["user_id"] for row in rows],
            "surface": pa.array([row["surface"] for row in rows], pa.int8()),
            "action": pa.array([row["action"] for row in rows], pa.int8()),
            "target": pa.array([row["target"] for row in rows], pa.int32()),
            "history_pin": pa.array([[pin for pin, _ in row["history"]] for row in rows], pa.list_(pa.int32())),
            "history_action": pa.array([[code for _, code in row["history"]] for row in rows], pa.list_(pa.int8())),
            "purchased": pa.array([row["purchased"] for row in rows], pa.list_(pa.int32())),
        }
    )


def test_queries_are_told_apart_by_what_they_are() -> None:
    asked = queries(
        [
            {"target": 0, "user_id": "one", "surface": 2, "history": [(0, CLICK), (3, BUY)]},
            {"target": 1, "user_id": "many", "action": CART, "history": [(2, BUY)], "purchased": [2]},
            {"target": 2, "history": [(2, BUY), (2, CLICK)]},
            {"target": 4, "surface": 1, "purchased": [4, 5]},
            {"target": 8, "history": [(1, CLICK)]},
        ]
    )
    found = {name: values.tolist() for name, values in slices_of(asked, pins(), past()).items()}
    assert found == {
        "surface": ["search", "home_feed", "home_feed", "related_pins", "home_feed"],
        "action": ["checkout", "add_to_cart", "checkout", "checkout", "checkout"],
        "advertiser_size": ["large", "small", "medium", "unknown", "unknown"],
        "pin_popularity": ["head", "tail", "mid", "tail", "tail"],
        "pin": ["warm", "cold", "warm", "warm", "cold"],
        "conversions": ["1", "2+", "0", "0", "0"],
        "novelty": ["seen", "novel", "bought", "bought", "novel"],
        "inventory": ["served", "served", "unserved", "served", "unserved"],
    }


def test_thirds_of_popularity_hold_about_a_third_of_all_actions() -> None:
    counts = np.random.default_rng(0).pareto(1.5, 3000).astype(np.int64)
    table = RowTable(pa.table({"pin_id": [f"{row:04d}" for row in range(3000)]}))
    asked = queries([{"target": row} for row in range(3000)])
    found = slices_of(asked, table, Past(actions_N=counts, served_N=None, conversions={}))
    assert "inventory" not in found
    shares = [counts[found["pin_popularity"] == third].sum() / counts.sum() for third in ("head", "mid", "tail")]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.05)
    sizes = [(found["pin_popularity"] == third).sum() for third in ("head", "mid", "tail")]
    assert sizes == sorted(sizes)
    assert set(found["advertiser_size"]) == {"unknown"}


def test_advertisers_are_numbered_and_pins_without_one_are_not() -> None:
    number = advertisers_of(pins())
    assert number is not None
    assert sorted(np.bincount(number + 1).tolist()) == [1, 2, 2, 4]
    assert number[4] == number[8] == -1
    assert advertisers_of(RowTable(pa.table({"pin_id": ["a"]}))) is None


def test_no_queries_have_slices_of_no_rows() -> None:
    assert all(len(values) == 0 for values in slices_of(queries([]), pins(), past()).values())


def test_ranks_of_scores_leave_out_purchases_and_count_served_pins_apart() -> None:
    asked = queries([{"target": 3, "purchased": [0]}, {"target": 2}, {"target": 5, "purchased": [5]}])
    scores = np.tile(np.arange(NUM_PINS, 0, -1, dtype=np.float32), (3, 1))
    found = rank_scores("by hand", lambda _: scores, asked, num_pins=NUM_PINS, ks=(2,), served_N=past().served_N)
    assert found.rank.tolist() == [3, 3, NOT_RETRIEVED]
    assert found.served is not None
    assert found.served.tolist() == [2, NOT_RETRIEVED, NOT_RETRIEVED]  # pin 2 was never served
    assert found.lists.coverage(2) == 3 / NUM_PINS  # without pin 0 the first list is 1, 2
    assert scores[0, 0] == NUM_PINS  # the scorer's own array stays


def test_what_is_not_eligible_is_left_out() -> None:
    table = {"pin_id": ["a", "b", "c", "d"], "in_stock": [True, False, None, True]}
    lists = {"surfaces": [None, None, ["search"], ["home_feed", "search"]], "countries": [["US"], None, None, ["DE"]]}
    columns = ("history_pin", "history_action", "history_surface", "history_dwell", "purchased")
    empty = {name: [[], []] for name in columns}
    people = RowTable(pa.table({"user_id": ["u", "v"], "country": ["US", None], "history_time": [[], []], **empty}))
    eligible = Eligible(RowTable(pa.table({**table, **lists})), people)
    code = {name: SURFACES.index(name) for name in ("home_feed", "search")}
    asked = pa.table(
        {
            "user_id": ["u", "u", "v", "stranger"],
            "surface": pa.array([code["home_feed"], code["search"], code["home_feed"], code["search"]], pa.int8()),
            "subject_pin": pa.array([-1, -1, -1, 3], pa.int32()),
            "target": [0, 1, 3, 2],
            "purchased": pa.array([[], [], [], []], pa.list_(pa.int32())),
        }
    )
    allowed = [[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 0, 1, 0]]  # without a country all countries' pins
    assert eligible(asked).astype(int).tolist() == allowed
    scores = np.tile(np.array([1, 2, 3, 4], np.float32), (4, 1))
    found = rank_scores("by hand", lambda _: scores, asked, num_pins=4, ks=(2,), served_N=None, eligible=eligible)
    assert found.rank.tolist() == [1, NOT_RETRIEVED, 1, 1]


@pytest.mark.parametrize(("served_to", "known"), [(2, ["recall@1", "recall@2"]), (1, ["recall@1"]), (0, [])])
def test_recall_among_served_pins_is_told_only_as_far_as_it_is_exact(served_to: int, known: list[str]) -> None:
    asked = queries([{"target": 3}, {"target": 0}])
    ranks = np.array([2, 1])
    systems = {
        name: Ranked(rank=ranks, served=ranks, served_to=upto, lists=ListCounts(NUM_PINS, (1, 2)))
        for name, upto in (("model", served_to), ("popularity", NUM_PINS))
    }
    found = _among_served(systems, past(), asked, (1, 2)).get("served_recall", {"model": {}})
    assert list(found["model"]) == known
    assert all(found["model"][name] == {"recall@1": 0.5, "recall@2": 1.0}[name] for name in known)


def test_samples_are_of_different_people_and_of_every_surface() -> None:
    rng = np.random.default_rng(0)
    surface = rng.choice(3, 200, p=[0.9, 0.08, 0.02])
    user = [f"u{number}" for number in rng.integers(40, size=200)]
    chosen = _spread(surface, user)
    assert len(chosen) == len({user[row] for row in chosen}) == 8
    assert set(surface[chosen]) == {0, 1, 2}
    assert _spread(np.zeros(3, int), ["a", "a", "b"]) in ([0, 2], [1, 2], [2, 0], [2, 1])
    assert _spread(np.zeros(0, int), []) == []


def test_a_sampled_pin_is_plain_json() -> None:
    shown = _Pins(pins())
    assert shown.pin(0) == {"pin_id": "p0", "advertiser_id": "c", "price": 1.5, "first_seen": "1970-01-01"}
    assert shown.pin_of_id("p1")["price"] is None  # NaN is no JSON
    assert json.loads(json.dumps(shown.pin(4), allow_nan=False))["advertiser_id"] is None


def test_baselines_are_chosen_by_name() -> None:
    assert EvaluateConfig().baselines == ("popularity", "item_item")
    assert load_config("demo", ["evaluate.baselines=[ease, oracle]"]).evaluate.baselines == ("ease", "oracle")
    with pytest.raises(ConfigError, match="'popular' is no baseline; they are popularity, popularity_7d, revisits"):
        load_config("demo", ["evaluate.baselines=[popular]"])
    with pytest.raises(ValidationError, match="named twice"):
        EvaluateConfig(baselines=("als", "als"))
