"""Counts as features: what a recipe may say of them, how they are encoded, and how the towers and losses read them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from towers import CONFIG, NUM_PINS, SHAPES, SIDE, random_pins, random_queries, random_towers, seeded

from convcg.batch import ExampleBatch, PinBatch
from convcg.config import load_config
from convcg.data.day_counts import DayCounts, day_counts
from convcg.data.encode import QUERY_SCHEMA, PinEncoder, encode_examples
from convcg.data.feature_encoders import Encoders, FeatureEncoder, as_array, fit_encoders
from convcg.data.split import DAY
from convcg.data.tables import RowTable, build_pin_table
from convcg.errors import ConfigError, DataError
from convcg.features import Feature, FeatureShape, FeatureShapes, FeatureSpec, Kind
from convcg.model.loss import LossConfig, LossKind, PinShares
from convcg.model.objective import Objective
from convcg.model.step import OwnPins, Pool, Step, StepCounts
from convcg.model.two_tower import TwoTower, mentioned_pins
from convcg.types import ACTION_CODE, TASKS, Action, Task

CLICKS = Feature(name="clicks_2d", kind=Kind.COUNT, action=Action.CLICK, days=2)
CARTS = Feature(name="carts_9d", kind=Kind.COUNT, action=Action.ADD_TO_CART, days=9)
COUNTS = tuple(
    FeatureShape(name=each.name, kind=each.kind, size=2, action=each.action, days=each.days) for each in (CLICKS, CARTS)
)
COUNTED = FeatureShapes(pin=(*SHAPES.pin, *COUNTS), user=(*SIDE, COUNTS[0]))
B = 8


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("{name: a, kind: count}", "must say of what; give action (as click) and days (as 7)"),
        ("{name: a, kind: count, action: click}", "must say of what"),
        ("{name: a, kind: count, days: 7}", "must say of what"),
        ("{name: a, kind: count, action: click, days: 7, log: true}", "leave log out"),
        ("{name: a, kind: count, action: click, days: 0}", "greater than or equal to 1"),
        ("{name: a, kind: count, action: click, days: 3651}", "less than or equal to 3650"),
        ("{name: a, kind: count, action: clicks, days: 7}", "'click'"),
        ("{name: a, kind: number, days: 7}", "'a' is a number; action and days are for kind count alone"),
        ("{name: a, kind: category, action: click}", "'a' is a category; action and days"),
    ],
)
@pytest.mark.parametrize("side", ["pin", "user"])
def test_a_recipe_that_counts_wrongly_is_told_why(side: str, feature: str, message: str) -> None:
    pins = "{name: pin_id, kind: id}, " if side == "pin" else ""
    with pytest.raises(ConfigError) as error:
        load_config("smoke", [f"features.{side}=[{pins}{feature}]"])
    assert message in str(error.value)


def test_counts_alone_are_refused_for_pins_and_not_for_users() -> None:
    with pytest.raises(ConfigError, match="counts alone do not tell one pin from another"):
        load_config("smoke", ["features.pin=[{name: a, kind: count, action: click, days: 7}]"])
    users = load_config("smoke", ["features.user=[{name: a, kind: count, action: checkout, days: 30}]"]).features.user
    assert (users[0].action, users[0].days) == (Action.CHECKOUT, 30)
    assert FeatureSpec.model_validate(FeatureSpec(user=users).model_dump(mode="json")).user == users


def encoder(feature: Feature = CLICKS) -> FeatureEncoder:
    [made] = fit_encoders(pa.table({"user_id": ["u"]}), [feature])
    return made


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.float64(), pa.uint8()], ids=str)
def test_a_count_is_read_as_its_logarithm_and_a_missing_one_as_nought(kind: pa.DataType) -> None:
    column = encoder().encode(pa.array([0, 3, None], kind))
    assert column.type == pa.float32()
    assert as_array(column, encoder().shape).tolist() == [[0, 0], [float(np.float32(np.log(4))), 0], [0, 0]]
    assert encoder().encode(pa.nulls(2)).to_pylist() == [0, 0]


@pytest.mark.parametrize(("column", "rule"), [([-1], "cannot be -1"), ([1.5], "declared as count"), (["x"], "count")])
def test_what_is_no_count_is_an_error(column: list[Any], rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        encoder().encode(pa.array(column))


def test_encoders_of_counts_survive_json_and_make_no_column_of_the_pin_table() -> None:
    pins = pa.table({"pin_id": ["b", "a"]})
    encoders = Encoders(pin=fit_encoders(pins, [CLICKS]), user=fit_encoders(pins, [CARTS]))
    assert Encoders.from_bytes(encoders.to_bytes()) == encoders
    assert encoders.shapes == FeatureShapes(pin=COUNTS[:1], user=COUNTS[1:])
    assert build_pin_table(pins, encoders.pin).column_names == ["pin_id"]


def pin_encoder() -> PinEncoder:
    """Of pin 1: two clicks on day 10, one on day 11; a cart of pin 2 on day 4."""
    known = np.array([10, 10, 11, 4]) * DAY
    action = np.array([ACTION_CODE[each] for each in [Action.CLICK] * 3 + [Action.ADD_TO_CART]], np.int8)
    table = day_counts(np.array([1, 1, 1, 2], np.int32), known, action)
    return PinEncoder(RowTable(pa.table({"pin_id": ["a", "b", "c"]})), COUNTS, DayCounts(table))


def test_pins_are_counted_as_of_the_day_that_is_asked_for() -> None:
    pins = pin_encoder()
    rows, days = torch.tensor([1, 1, 1, 1, 1, 2, 2, 0]), torch.tensor([10, 11, 12, 13, 14, 5, 14, 12])
    found = pins.counts(rows, days)
    assert found is not None
    assert (found.dtype, found.shape) == (torch.float32, (8, 2))
    assert found.exp().sub(1).round().int().tolist() == [
        [0, 0], [2, 0], [3, 0], [1, 0], [0, 0], [0, 1], [0, 0], [0, 0],
    ]  # fmt: skip
    everything = pins.all_counts(12)
    assert everything is not None
    assert torch.equal(everything, torch.tensor([[0, 0], [3, 0], [0, 1]]).log1p())


def test_without_count_features_nothing_is_counted() -> None:
    pins = PinEncoder(RowTable(pa.table({"pin_id": ["a"]})), ())
    assert not pins.has_counts
    assert pins.all_counts(3) is None


def test_examples_know_the_day_of_their_query_where_their_time_is_given() -> None:
    rows: dict[str, list[Any]] = {
        name: [[]] * 3 if name.startswith("history") else [0] * 3 for name in QUERY_SCHEMA.names
    }
    table = pa.table({**rows, "query": pa.nulls(3, pa.string())}).cast(QUERY_SCHEMA)
    table = table.append_column("target", [[1, 2, 3]]).append_column("weight", [[1.0, 1.0, 1.0]])
    table = table.append_column("user_id", [["a"] * 3]).append_column("negatives", pa.chunked_array([[[1], [2], [3]]]))
    assert encode_examples(table, (), Task.CONVERSION).day is None
    moments = pa.chunked_array([[5 * DAY - 1, 5 * DAY, 6 * DAY - 1]])
    timed = encode_examples(table.append_column("time", moments), (), Task.CONVERSION)
    assert timed.day is not None
    assert (timed.day.dtype, timed.day.tolist()) == (torch.int64, [4, 5, 5])
    both = ExampleBatch.concatenated([timed, timed]).to("cpu", torch.float64)
    assert both.day is not None
    assert both.day.tolist() == [4, 5, 5] * 2


def examples() -> ExampleBatch:
    return ExampleBatch(
        query=replace(random_queries(B), features=random_queries(B).features | {"clicks_2d": torch.rand(B, 2)}),
        target=torch.randint(0, NUM_PINS, (B,), generator=seeded(3)),
        weight=torch.ones(B),
        user=torch.arange(B),
        negatives=torch.zeros((B, 0), dtype=torch.int64),
    )


def random_counts(seed: int, rows: int) -> Tensor:
    return torch.randint(0, 9, (rows, len(COUNTS)), generator=seeded(seed)).float().log1p()


def whole_step(counts: StepCounts | None) -> Step:
    """The full softmax: every row against the whole catalogue."""
    own = OwnPins(rows=examples().target[:, None])
    return Step(own=own, pool=None, counts=counts, row_weight_B=torch.ones(B))


def sampled_step(batch: ExampleBatch, rows: Tensor, counts: StepCounts | None) -> tuple[PinBatch, Step]:
    """Every row against these pins, each expected once."""
    mentioned, pins = mentioned_pins(batch.query, rows, batch.target), random_pins()
    few = PinBatch(rows=mentioned, features={name: value[mentioned] for name, value in pins.features.items()})
    nobody = torch.zeros(0, dtype=torch.int64)
    pool = Pool(rows=rows, num_in_batch=0, num_served=0, user=nobody, task=nobody)
    own = OwnPins(rows=batch.target[:, None])
    return few, Step(own=own, pool=pool, counts=counts, row_weight_B=torch.ones(B))


NO_SHARES = PinShares(trained=torch.zeros(len(TASKS), NUM_PINS), served=torch.zeros(NUM_PINS))
SAMPLED = LossConfig(kind=LossKind.SAMPLED_SOFTMAX)


def test_towers_start_as_they_would_without_counts() -> None:
    torch.manual_seed(4)
    plain = TwoTower(CONFIG, FeatureShapes(pin=SHAPES.pin, user=SIDE)).eval()
    torch.manual_seed(4)
    counting = TwoTower(CONFIG, FeatureShapes(pin=(*COUNTS, *SHAPES.pin), user=SIDE)).eval()
    state = counting.state_dict()
    assert not state.pop("pin.counts.weight").any()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert state.keys() == plain.state_dict().keys()
    batch, counts = examples(), StepCounts(own=random_counts(1, B)[:, None], others=random_counts(2, NUM_PINS))
    whole = Objective(counting, LossConfig(), NO_SHARES)(batch, random_pins(), whole_step(counts))
    torch.testing.assert_close(whole, Objective(plain, LossConfig(), NO_SHARES)(batch, random_pins(), whole_step(None)))
    rows = torch.arange(NUM_PINS)
    sampled = Objective(counting, SAMPLED, NO_SHARES)(batch, *sampled_step(batch, rows, counts))
    expected = Objective(plain, SAMPLED, NO_SHARES)(batch, *sampled_step(batch, rows, None))
    torch.testing.assert_close(sampled, expected)


def test_counts_move_the_embedding_of_a_pin_and_not_its_input() -> None:
    towers = random_towers(shapes=COUNTED)
    assert towers.pin.counts is not None
    inputs, counts = towers.pin.inputs(random_pins()), random_counts(1, NUM_PINS)
    expected = F.normalize(towers.pin.layers(inputs + counts @ towers.pin.counts.weight.T), dim=-1)
    torch.testing.assert_close(towers.pin(inputs, counts), expected)
    moved = (towers.pin(inputs, counts) - towers.pin(inputs, torch.zeros_like(counts))).norm(dim=1) > 1e-3
    assert torch.equal(moved, counts.any(1))
    with pytest.raises(AssertionError, match="counts"):
        towers.pin(inputs)
    with pytest.raises(AssertionError, match="counts"):
        random_towers().pin(inputs, counts)


def test_the_query_tower_reads_the_counts_of_people() -> None:
    towers, batch = random_towers(shapes=COUNTED), examples()
    inputs = towers.pin.inputs(random_pins())
    other = replace(batch.query, features=batch.query.features | {"clicks_2d": torch.rand(B, 2) + 1})
    assert ((towers.query(batch.query, inputs) - towers.query(other, inputs)).norm(dim=1) > 1e-3).all()


def test_the_full_softmax_sees_each_target_as_of_its_own_row() -> None:
    towers, batch = random_towers(shapes=COUNTED), examples()
    of_targets, others = random_counts(1, B), random_counts(2, NUM_PINS)
    step = whole_step(StepCounts(own=of_targets[:, None], others=others))
    found = Objective(towers, LossConfig(), NO_SHARES)(batch, random_pins(), step)
    inputs = towers.pin.inputs(random_pins())
    query = towers.query(batch.query, inputs)
    expected = []
    for row, target in enumerate(batch.target.tolist()):
        as_seen = others.clone()
        as_seen[target] = of_targets[row]
        logits = query[row] @ towers.pin(inputs, as_seen).T / towers.temperature
        expected.append(F.cross_entropy(logits, batch.target[row]))
    torch.testing.assert_close(found, torch.stack(expected).sum())


def test_the_sampled_softmax_over_every_pin_once_is_the_full_one() -> None:
    towers, batch = random_towers(shapes=COUNTED), examples()
    shuffled = torch.randperm(NUM_PINS, generator=seeded(9))
    others, own = random_counts(2, NUM_PINS), random_counts(1, B)[:, None]
    full, sampled = Objective(towers, LossConfig(), NO_SHARES), Objective(towers, SAMPLED, NO_SHARES)
    expected = full(batch, random_pins(), whole_step(StepCounts(own=own, others=others)))
    found = sampled(batch, *sampled_step(batch, shuffled, StepCounts(own=own, others=others[shuffled])))
    torch.testing.assert_close(found, expected)
    other = sampled(batch, *sampled_step(batch, shuffled, StepCounts(own=own, others=others)))
    assert (found - other).abs() > 1e-2


def test_gradients_reach_the_counts_of_targets_and_others() -> None:
    towers, batch = random_towers(shapes=COUNTED), examples()
    own, others = random_counts(1, B)[:, None].requires_grad_(), random_counts(2, NUM_PINS).requires_grad_()
    step = whole_step(StepCounts(own=own, others=others))
    Objective(towers, LossConfig(), NO_SHARES)(batch, random_pins(), step).backward()
    assert own.grad is not None
    assert others.grad is not None
    assert own.grad.abs().sum((1, 2)).min() > 0
    assert others.grad.abs().sum(1).min() > 0
