"""The towers: unit vectors that depend on what they must, and on nothing else: padding, order, other queries."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor
from towers import CONFIG, NUM_PINS, SHAPES, random_features, random_pins, random_queries, random_towers, rows_of

from convcg.batch import PADDING, PinBatch, QueryBatch
from convcg.errors import ConfigError
from convcg.features import FeatureShape, FeatureShapes, Kind
from convcg.model.towers import TowerConfig
from convcg.model.two_tower import ModelConfig, PinStart, TwoTower, mentioned_pins
from convcg.types import ACTION_CODE, Action

B = 14


def embed(queries: QueryBatch, towers: TwoTower | None = None) -> Tensor:
    towers = towers or random_towers()
    with torch.no_grad():
        return towers.query(queries, towers.pin.inputs(random_pins()))


def differ(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().amax(1) > 1e-4


def test_embeddings_are_unit_vectors() -> None:
    towers = random_towers()
    with torch.no_grad():
        pins = towers.pin(towers.pin.inputs(random_pins()))
    for embedding in (pins, embed(random_queries(B))):
        assert embedding.shape[1] == CONFIG.dim
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(len(embedding)))


def test_a_query_is_the_same_alone_and_in_a_batch() -> None:
    queries = random_queries(B)
    together = embed(queries)
    for row in range(B):
        length = int((queries.history_pin[row] != PADDING).sum())
        alone = embed(rows_of(queries, torch.tensor([row]), width=length))
        torch.testing.assert_close(alone[0], together[row])


def test_float64_rounded_to_float32_does_not_depend_on_the_batch_at_all() -> None:
    towers = random_towers().double()
    queries = random_queries(B).to("cpu", torch.float64)
    inputs = towers.pin.inputs(random_pins().to("cpu", torch.float64))
    with torch.no_grad():
        together = towers.query(queries, inputs).float()
        alone = torch.cat([towers.query(rows_of(queries, torch.tensor([row])), inputs) for row in range(B)]).float()
        reverse = towers.query(rows_of(queries, torch.arange(B).flip(0)), inputs).float().flip(0)
    assert torch.equal(alone, together)
    assert torch.equal(reverse, together)


def test_the_order_of_a_history_does_not_matter_where_ages_are_equal() -> None:
    queries = random_queries(B)
    queries = replace(queries, history_age=torch.full_like(queries.history_age, 3600.0))
    names = ("history_pin", "history_action", "history_surface", "history_dwell")
    backwards = {name: getattr(queries, name).flip(1) for name in names}
    torch.testing.assert_close(embed(replace(queries, **backwards)), embed(queries))


def test_the_history_is_the_weighted_mean_of_its_pins() -> None:
    towers, queries = random_towers(), random_queries(B)
    inputs, pool = towers.pin.inputs(random_pins()).detach(), towers.query.history
    present = queries.history_pin != PADDING
    found = pool(queries, inputs[queries.history_pin], present).detach()
    for row in range(B):
        total = torch.zeros(CONFIG.dim)
        for place in range(int((queries.history_pin[row] != PADDING).sum())):
            minutes, bucket = queries.history_age[row, place].item() / 60 + 1, 0
            while minutes >= 2 and bucket < 20:
                minutes, bucket = minutes / 2, bucket + 1
            surface = queries.history_surface[row, place].item()
            action = pool.action[queries.history_action[row, place]]
            dwell = queries.history_dwell[row, place].item()
            lasted = 0 if math.isnan(dwell) else min(int(math.log2(dwell + 1)), 10) + 1
            weight = action + pool.surface[3 if surface == PADDING else surface] + pool.age[bucket] + pool.dwell[lasted]
            total += weight.exp().detach() * inputs[queries.history_pin[row, place]]
        expected = F.normalize(total if total.any() else pool.empty.detach(), dim=0)
        torch.testing.assert_close(found[row], expected)


def test_an_empty_history_is_fine() -> None:
    nobody = rows_of(random_queries(B, longest=0), torch.arange(B))
    assert nobody.history_pin.shape == (B, 0)
    assert torch.isfinite(embed(nobody)).all()
    torch.testing.assert_close(embed(rows_of(nobody, torch.arange(B), width=4)), embed(nobody))


@pytest.mark.parametrize("what", ["surface", "subject_pin", "query_words", "history_pin", "history_age"])
def test_everything_that_a_query_says_changes_its_embedding(what: str) -> None:
    queries = rows_of(random_queries(56), torch.tensor([13, 55]))  # a full history, a subject pin and words each
    changed = {
        "surface": (queries.surface + 1) % 3,
        "subject_pin": (queries.subject_pin + 1) % NUM_PINS,
        "query_words": queries.query_words + 1,
        "history_pin": (queries.history_pin + 1) % NUM_PINS,
        "history_age": queries.history_age.flip(1) / 50,
    }
    assert differ(embed(replace(queries, **{what: changed[what]})), embed(queries)).all()
    if what in ("subject_pin", "query_words", "history_pin"):
        assert differ(embed(replace(queries, **{what: torch.full_like(changed[what], PADDING)})), embed(queries)).all()


@pytest.mark.parametrize("name", ["kind", "styles", "price", "visual"])
def test_every_user_feature_changes_the_embedding(name: str) -> None:
    queries, others = random_queries(B), random_features(B, 99)
    changed = embed(replace(queries, features=queries.features | {name: others[name]}))
    same = (queries.features[name] == others[name]).reshape(B, -1).all(1)
    assert differ(changed, embed(queries))[~same].float().mean() > 0.9
    assert not differ(changed, embed(queries))[same].any()


@pytest.mark.parametrize("name", ["kind", "styles", "price", "visual"])
def test_every_pin_feature_changes_the_embedding(name: str) -> None:
    towers, pins = random_towers(), random_pins()
    others = random_features(NUM_PINS, 99)[name]
    with torch.no_grad():
        before = towers.pin(towers.pin.inputs(pins))
        after = towers.pin(towers.pin.inputs(replace(pins, features=pins.features | {name: others})))
    same = (pins.features[name] == others).reshape(NUM_PINS, -1).all(1)
    assert differ(before, after)[~same].float().mean() > 0.9
    assert torch.equal(before[same], after[same])


def test_the_identity_of_a_pin_changes_its_embedding() -> None:
    towers, pins = random_towers(), random_pins()
    with torch.no_grad():
        moved = towers.pin.inputs(replace(pins, rows=pins.rows.roll(1)))
        assert differ(moved, towers.pin.inputs(pins)).all()


def test_reading_the_mentioned_pins_alone_changes_nothing() -> None:
    towers, queries, pins = random_towers(), random_queries(B), random_pins()
    mentioned = mentioned_pins(queries)
    assert len(mentioned) < NUM_PINS
    few = PinBatch(rows=mentioned, features={name: value[mentioned] for name, value in pins.features.items()})
    with torch.no_grad():
        found = towers.query(queries, towers.pin.inputs(few), mentioned)
    torch.testing.assert_close(found, embed(queries, towers))


def test_a_pin_that_a_query_does_not_mention_does_not_matter() -> None:
    towers, queries = random_towers(), random_queries(B)
    inputs = towers.pin.inputs(random_pins()).detach()
    for row in range(B):
        query = rows_of(queries, torch.tensor([row]))
        changed = torch.randn_like(inputs)
        changed[mentioned_pins(query)] = inputs[mentioned_pins(query)]
        assert torch.equal(towers.query(query, changed), towers.query(query, inputs)), row


def test_the_mentioned_pins_are_sorted_distinct_and_real() -> None:
    queries = rows_of(random_queries(B), torch.tensor([0, 3, 5]))
    extra = torch.tensor([39, 0, 39])
    expected = {*queries.history_pin.flatten().tolist(), *queries.subject_pin.tolist(), 39, 0} - {PADDING}
    assert mentioned_pins(queries, extra).tolist() == sorted(expected)


def test_words_share_the_rows_of_their_table() -> None:
    queries = random_queries(B)
    words = queries.query_words
    folded = torch.where(words == PADDING, words, words % CONFIG.num_query_words)
    assert torch.equal(embed(replace(queries, query_words=folded)), embed(queries))
    torch.testing.assert_close(embed(replace(queries, query_words=words.flip(1))), embed(queries))


def test_towers_without_user_features_or_hidden_layers_work() -> None:
    config = ModelConfig(dim=8, query_tower=TowerConfig(hidden=()), pin_tower=TowerConfig(hidden=()))
    shapes = FeatureShapes(pin=SHAPES.pin[:1], user=())
    towers = random_towers(config=config, shapes=shapes)
    inputs = towers.pin.inputs(random_pins())
    assert torch.equal(towers.pin(inputs), F.normalize(inputs, dim=1))
    assert torch.isfinite(towers.query(random_queries(B), inputs)).all()


def test_a_fresh_tower_passes_its_input_through() -> None:
    towers = TwoTower(CONFIG, SHAPES).eval()
    inputs = towers.pin.inputs(random_pins())
    torch.testing.assert_close(towers.pin(inputs), F.normalize(inputs, dim=1))


def test_dropout_acts_in_training_alone() -> None:
    towers, queries = random_towers(config=CONFIG.model_copy(update={"history_dropout": 0.5})), random_queries(B)
    assert torch.equal(embed(queries, towers), embed(queries, towers))
    towers.train()
    assert differ(embed(queries, towers), embed(queries, towers)).any()


@pytest.mark.parametrize(("value", "expected"), [(-9.0, 0.01), (-2.0, 0.1353353), (3.0, 0.2)])
def test_the_temperature_stays_within_its_bounds(value: float, expected: float) -> None:
    towers = TwoTower(CONFIG, SHAPES)
    torch.nn.init.constant_(towers.log_temperature, value)
    towers.bound_temperature()
    assert towers.temperature.item() == pytest.approx(expected)


def test_a_temperature_outside_its_bounds_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"temperature = 0.5.*0.01.*0.2"):
        ModelConfig(temperature=0.5)
    with pytest.raises(ValidationError, match="min_temperature"):
        ModelConfig(min_temperature=0.3)


IDS = FeatureShape(name="pin_id", kind=Kind.ID, size=3)


def test_pins_start_from_given_vectors_except_where_those_are_zero() -> None:
    pin = TwoTower(ModelConfig(dim=4), FeatureShapes(pin=(IDS,), user=())).pin
    random = pin.features.id_table().weight.detach().clone()
    given = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0.6, 0.8]])
    pin.start_from(given, torch.tensor([3, 0, 5]))
    started = pin.inputs(PinBatch(rows=torch.arange(3), features={})).detach()
    assert torch.equal(started[[0, 2]], given[[0, 2]])
    assert torch.equal(started[1], random[1])
    assert torch.equal(pin.seen(started, torch.arange(3)), started)  # without gains the degree is not read


def test_common_pins_start_short_in_a_history_and_long_by_themselves() -> None:
    config = ModelConfig(dim=4, history_gain=True, pin_length="free", pin_tower=TowerConfig(hidden=()))
    pin = TwoTower(config, FeatureShapes(pin=(IDS,), user=())).pin
    vectors = torch.eye(3, 4) * torch.tensor([[2.0], [0.5], [0.0]])
    pin.start_from(vectors, torch.tensor([16, 4, 0]))
    inputs = pin.inputs(PinBatch(rows=torch.arange(3), features={}))
    seen = pin.seen(inputs, torch.arange(3)).detach()
    assert torch.equal(pin(inputs)[:2].detach(), vectors[:2])
    torch.testing.assert_close(seen[0], vectors[0] * (16 / 8) ** -0.5)  # the mean of log 16 and log 4 is log 8
    torch.testing.assert_close(seen[1], vectors[1] * (4 / 8) ** -0.5)
    assert torch.equal(seen[2], inputs[2].detach())
    two = torch.tensor([2, 1])
    torch.testing.assert_close(pin.seen(inputs[two], two).detach(), seen[two])


def test_checkouts_weigh_twice_as_much_to_begin_with_where_pins_start_from_the_graph_and_nowhere_else() -> None:
    for start in PinStart:
        weight = TwoTower(ModelConfig(dim=4, pin_start=start), SHAPES).query.history.action.detach().exp()
        expected = torch.ones(len(Action))
        if start is PinStart.GRAPH:
            expected[ACTION_CODE[Action.CHECKOUT]] = 2
        torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize(
    "shape",
    [FeatureShape(name="visual", kind=Kind.VECTOR, size=2), replace(IDS, hashed_rows=8)],
    ids=["vector", "hashed"],
)
def test_a_start_needs_an_id_feature_with_a_row_a_pin(shape: FeatureShape) -> None:
    pin = TwoTower(ModelConfig(dim=4), FeatureShapes(pin=(shape,), user=())).pin
    with pytest.raises(ConfigError, match="needs trained pin vectors"):
        pin.start_from(torch.ones(3, 4), torch.ones(3))


def test_gains_need_an_id_feature() -> None:
    shapes = FeatureShapes(pin=(FeatureShape(name="visual", kind=Kind.VECTOR, size=2),), user=())
    with pytest.raises(ConfigError, match=r"history_gain.*pin_id"):
        TwoTower(ModelConfig(dim=4, history_gain=True), shapes)
