"""What must hold of every kind of tower and every option: nothing but the request itself decides its embedding."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_towers import differ
from torch import Tensor
from towers import (
    CONFIG,
    NUM_PINS,
    SHAPES,
    SIDE,
    VARIANTS,
    both,
    random_features,
    random_pins,
    random_queries,
    random_towers,
    rows_of,
)

from convcg.batch import PADDING, PinBatch, QueryBatch
from convcg.features import FeatureShape, FeatureShapes, Kind
from convcg.model.inputs import InputKind
from convcg.model.towers import TowerKind
from convcg.model.two_tower import ModelConfig, PinLength, TwoTower, mentioned_pins
from convcg.types import TASK_CODE, TASKS, Task

B = 28
ALL = torch.arange(NUM_PINS)


@pytest.fixture(params=list(VARIANTS))
def towers(request: pytest.FixtureRequest) -> TwoTower:
    return random_towers(config=VARIANTS[request.param])


def seen_by(towers: TwoTower, pins: PinBatch | None = None) -> Tensor:
    pins = pins or random_pins()
    return towers.pin.seen(towers.pin.inputs(pins), pins.rows)


def embed(towers: TwoTower, queries: QueryBatch) -> Tensor:
    with torch.no_grad():
        return towers.query(queries, seen_by(towers))


def test_embeddings_have_their_width_and_length(towers: TwoTower) -> None:
    queries = embed(towers, random_queries(B))
    with torch.no_grad():
        inputs = towers.pin.inputs(random_pins())
        pins = towers.pin(inputs)
    assert inputs.shape == (NUM_PINS, towers.pin.input_width)
    assert towers.config.input_width(SHAPES.pin) == towers.pin.input_width
    assert (queries.shape, pins.shape) == ((B, CONFIG.dim), (NUM_PINS, CONFIG.dim))
    torch.testing.assert_close(queries.norm(dim=1), torch.ones(B))
    if towers.config.pin_length is PinLength.UNIT:
        torch.testing.assert_close(pins.norm(dim=1), torch.ones(NUM_PINS))
    else:
        assert pins.norm(dim=1).std() > 0.1


def test_the_width_of_concatenated_inputs_is_that_of_all_features() -> None:
    assert VARIANTS["concat"].input_width(SHAPES.pin) == 5 * 6
    counted = (*SHAPES.pin, FeatureShape(name="clicks", kind=Kind.COUNT, size=2))
    assert VARIANTS["concat"].input_width(counted) == 5 * 6
    assert CONFIG.input_width(counted) == CONFIG.dim


@pytest.mark.parametrize("width", [3, 4, 5, 9])
def test_the_length_of_the_padding_does_not_matter(towers: TwoTower, width: int) -> None:
    queries = random_queries(B, longest=3)
    torch.testing.assert_close(embed(towers, rows_of(queries, torch.arange(B), width=width)), embed(towers, queries))


def test_what_stands_in_the_padding_does_not_matter(towers: TwoTower) -> None:
    queries = random_queries(B)
    absent = queries.history_pin == PADDING
    other = replace(
        queries,
        history_age=queries.history_age.masked_fill(absent, 7e5),
        history_dwell=queries.history_dwell.masked_fill(absent, 55.0),
        history_action=queries.history_action.masked_fill(absent, 3),
        history_surface=queries.history_surface.masked_fill(absent, 2),
    )
    assert torch.equal(embed(towers, other), embed(towers, queries))


def test_float64_rounded_to_float32_does_not_depend_on_the_batch_at_all(towers: TwoTower) -> None:
    towers = towers.double()
    queries = random_queries(B, longest=13).to("cpu", torch.float64)
    seen = seen_by(towers, random_pins().to("cpu", torch.float64))

    def rounded(rows: Tensor, width: int | None = None) -> Tensor:
        with torch.no_grad():
            return towers.query(rows_of(queries, rows, width=width), seen).float()

    together = rounded(torch.arange(B))
    length = (queries.history_pin != PADDING).sum(1).tolist()
    assert torch.equal(torch.cat([rounded(torch.tensor([row])) for row in range(B)]), together)
    assert torch.equal(torch.cat([rounded(torch.tensor([row]), length[row]) for row in range(B)]), together)
    assert torch.equal(rounded(torch.arange(B), 50), together)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(order), together[order])


def test_a_query_without_history_is_the_same_in_any_width(towers: TwoTower) -> None:
    nobody = rows_of(random_queries(B, longest=0), torch.arange(B))
    assert nobody.history_pin.shape == (B, 0)
    assert torch.isfinite(embed(towers, nobody)).all()
    torch.testing.assert_close(embed(towers, rows_of(nobody, torch.arange(B), width=4)), embed(towers, nobody))


def test_reading_the_mentioned_pins_alone_changes_nothing(towers: TwoTower) -> None:
    queries, pins = random_queries(B, longest=2), random_pins()
    mentioned = mentioned_pins(queries)
    assert len(mentioned) < NUM_PINS
    few = PinBatch(rows=mentioned, features={name: value[mentioned] for name, value in pins.features.items()})
    with torch.no_grad():
        found = towers.query(queries, seen_by(towers, few), mentioned)
    torch.testing.assert_close(found, embed(towers, queries))


@pytest.mark.parametrize(
    "what", ["surface", "subject_pin", "query_words", "history_pin", "history_age", "history_action", "history_surface"]
)
def test_everything_that_a_query_says_changes_its_embedding(towers: TwoTower, what: str) -> None:
    queries = rows_of(random_queries(56), torch.tensor([13, 55]))  # a full history, a subject pin and words each
    changed = {
        "surface": (queries.surface + 1) % 3,
        "subject_pin": (queries.subject_pin + 1) % NUM_PINS,
        "query_words": queries.query_words + 1,
        "history_pin": (queries.history_pin + 1) % NUM_PINS,
        "history_age": queries.history_age.flip(1) / 50,
        "history_action": queries.history_action % 4 + 1,
        "history_surface": (queries.history_surface + 2) % 4 - 1,
    }
    different = differ(embed(towers, replace(queries, **{what: changed[what]})), embed(towers, queries))
    assert different.all() == (what != "surface" or towers.config.surface)


@pytest.mark.parametrize("name", ["kind", "styles", "price", "visual"])
def test_every_feature_of_people_and_pins_changes_the_embedding(towers: TwoTower, name: str) -> None:
    queries, pins = random_queries(B), random_pins()
    others = replace(queries, features=queries.features | {name: random_features(B, 99)[name]})
    same = (queries.features[name] == others.features[name]).reshape(B, -1).all(1)
    moved = differ(embed(towers, others), embed(towers, queries))
    assert moved[~same].float().mean() > 0.9
    assert not moved[same].any()
    with torch.no_grad():
        changed = replace(pins, features=pins.features | {name: random_features(NUM_PINS, 99)[name]})
        moved = differ(towers.pin(towers.pin.inputs(changed)), towers.pin(towers.pin.inputs(pins)))
    assert moved.float().mean() > 0.6


@pytest.mark.parametrize("name", ["two heads", "task token", "everything", "default"])
def test_what_is_asked_for_matters_where_the_model_is_told(name: str) -> None:
    towers, queries = random_towers(config=VARIANTS[name]), random_queries(B)
    other = embed(towers, replace(queries, task=1 - queries.task))
    assert (differ(other, embed(towers, queries)) == (name != "default")).all()


def test_with_two_heads_each_row_uses_that_of_its_task() -> None:
    towers, queries = random_towers(config=VARIANTS["two heads"]), random_queries(B)
    mixed = embed(towers, queries)
    with torch.no_grad():
        inputs = towers.pin.inputs(random_pins())
        pins = {task: towers.pin(inputs, None, task) for task in TASKS}
        assert torch.equal(towers.pin(inputs), pins[Task.CONVERSION])
        assert differ(pins[Task.CONVERSION], pins[Task.ENGAGEMENT]).all()
        for task, head in zip(TASKS, towers.pin.layers.heads, strict=True):
            torch.testing.assert_close(pins[task], F.normalize(head(towers.pin.layers.trunk(inputs)), dim=-1))
    for task in TASKS:
        alone = embed(towers, replace(queries, task=torch.full((B,), TASK_CODE[task])))
        torch.testing.assert_close(alone[queries.task == TASK_CODE[task]], mixed[queries.task == TASK_CODE[task]])


def test_dropout_acts_in_training_alone(towers: TwoTower) -> None:
    queries = random_queries(B)
    assert torch.equal(embed(towers, queries), embed(towers, queries))
    towers.train()
    assert differ(embed(towers, queries), embed(towers, queries)).any()


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_reach_every_parameter(name: str) -> None:
    shapes = FeatureShapes(pin=(replace(SHAPES.pin[0], dropout=0.3, hashed_rows=32), *SIDE), user=SIDE)
    config = VARIANTS[name].model_copy(update={"history_dropout": 0.0})
    towers = random_towers(config=config, shapes=shapes).train()
    torch.manual_seed(0)
    pins, queries = random_pins(), random_queries(4 * B)
    pins.features["visual"][::5] = 0
    queries.features["visual"][::5] = 0
    inputs = towers.pin.inputs(pins)
    query = towers.query(queries, towers.pin.seen(inputs, pins.rows))
    loss = query.new_zeros(())
    for task in TASKS:
        loss = loss + (query @ towers.pin(inputs, None, task).T / towers.temperature).logsumexp(1).sum()
    loss.backward()
    gradients = {name: each.grad for name, each in towers.named_parameters()}
    assert [name for name, each in gradients.items() if each is None or not each.any()] == []
    assert [name for name, each in gradients.items() if each is not None and not torch.isfinite(each).all()] == []


def test_options_that_add_to_a_sum_start_at_nothing() -> None:
    """What the pins start from is not disturbed by layers that have yet to learn."""
    for name in ("default", "context layer", "transformer", "two heads", "free length"):
        torch.manual_seed(3)
        pin = TwoTower(VARIANTS[name], SHAPES).eval().pin
        inputs = pin.inputs(random_pins())
        torch.testing.assert_close(F.normalize(pin(inputs), dim=1), F.normalize(inputs, dim=1))
        torch.manual_seed(3)
        towers = TwoTower(VARIANTS[name], FeatureShapes(pin=SHAPES.pin, user=())).eval()
        query = random_queries(B)
        parts = [towers.query.history(query, seen_by(towers)[query.history_pin], query.history_pin != PADDING)]
        parts += towers.query.request(query, seen_by(towers), None)
        torch.testing.assert_close(embed(towers, query), F.normalize(sum(parts), dim=1).detach())


def test_the_context_is_hidden_in_training_from_its_share_of_rows() -> None:
    config = CONFIG.model_copy(update={"context_dropout": 0.4, "history_dropout": 0.0, **both(TowerKind.RESIDUAL)})
    config = config.model_copy(update=both(TowerKind.RESIDUAL, hidden=(16,), dropout=0.0))
    towers = random_towers(config=config)
    queries = rows_of(random_queries(56), torch.tensor([13, 55]).repeat(500))
    bare = replace(
        queries,
        subject_pin=torch.full_like(queries.subject_pin, PADDING),
        query_words=torch.full_like(queries.query_words, PADDING),
    )
    whole, hidden = embed(towers, queries), embed(towers, bare)
    torch.manual_seed(0)
    found = embed(towers.train(), queries)
    is_hidden, is_whole = ~differ(found, hidden), ~differ(found, whole)
    assert (is_hidden ^ is_whole).all()  # subject and words together, or neither
    assert 0.35 < is_hidden.float().mean() < 0.45


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_a_config_survives_json(config: ModelConfig) -> None:
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_options_draw_nothing_while_they_are_off() -> None:
    """Counted: the numbers that a default model takes from the generator, and what comes after."""
    torch.manual_seed(7)
    TwoTower(CONFIG, SHAPES)
    after = torch.rand(1)
    torch.manual_seed(7)
    TwoTower(CONFIG.model_copy(update={"pin_length": PinLength.FREE, "context_dropout": 0.5, "prefixes": (4,)}), SHAPES)
    assert torch.equal(torch.rand(1), after)
    states = []
    for config in (CONFIG, VARIANTS["free length"]):
        torch.manual_seed(7)
        states.append(TwoTower(config, SHAPES).state_dict())
    assert not states[1].pop("pin.log_gain").any()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_concatenated_features_have_a_norm_each() -> None:
    towers = random_towers(config=VARIANTS["concat"])
    fresh = TwoTower(VARIANTS["concat"], SHAPES)
    assert fresh.config.inputs is InputKind.CONCAT
    inputs = fresh.pin.inputs(random_pins()).unflatten(1, (5, 6))
    torch.testing.assert_close(inputs.mean(2), torch.zeros(NUM_PINS, 5), atol=1e-5, rtol=0)
    parts = towers.pin.features(random_pins().features, ALL)
    expected = [
        F.layer_norm(part, (6,), norm.weight, norm.bias)
        for part, norm in zip(parts, towers.pin.join.norms, strict=True)
    ]
    torch.testing.assert_close(towers.pin.inputs(random_pins()), torch.cat(expected, dim=1))
