"""The objective: what both towers, the pool and the row's own pins make, against the same written down plainly."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training import BATCH, CALM, EVERYTHING, NUM_PINS, advertisers, catalogue, fresh_towers, planted, task

from convcg.batch import PADDING, ExampleBatch
from convcg.model.advertiser import AdvertiserForm, AdvertiserLossConfig
from convcg.model.loss import LossConfig, LossKind
from convcg.model.objective import Objective
from convcg.model.step import Step
from convcg.model.towers import HeadKind
from convcg.model.two_tower import ModelConfig, TwoTower
from convcg.train_step import Ranks, StepDraws
from convcg.types import Task

FULL = LossConfig()
SAMPLED = LossConfig(kind=LossKind.SAMPLED_SOFTMAX, num_uniform_negatives=40, num_served_negatives=20)
TWO_HEADS = CALM.model_copy(update={"heads": HeadKind.MULTI})


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def step_of(
    loss: LossConfig, batch: ExampleBatch, *, seed: int = 0, hard_weight: float = 0.0
) -> tuple[ExampleBatch, object, Step]:
    draws = StepDraws(catalogue(), task().shares, advertisers(), loss, Ranks(0, 1), torch.device("cpu"))
    pins, step = draws(batch, torch.Generator().manual_seed(seed), hard_weight=hard_weight)
    return batch, pins, step


def objective_of(loss: LossConfig, model: ModelConfig = CALM, *, bfloat16: bool = False) -> Objective:
    return Objective(towers_of(model), loss, task().shares, advertisers(), bfloat16=bfloat16)


def towers_of(model: ModelConfig) -> TwoTower:
    """Towers in which no layer is still at its start."""
    towers = fresh_towers(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in towers.named_parameters():
            if name != "log_temperature":
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return towers


def embeddings(towers: TwoTower, batch: ExampleBatch, head: Task = Task.CONVERSION) -> tuple[Tensor, Tensor]:
    """Queries over the temperature, and the catalogue, in float64."""
    pins = catalogue().all()
    inputs = towers.pin.inputs(pins)
    query = towers.query(batch.query, towers.pin.seen(inputs, pins.rows))
    return query.double() / towers.temperature.double(), towers.pin(inputs, None, head).double()


def weighted(loss_B: Tensor, batch: ExampleBatch) -> Tensor:
    return (loss_B * batch.weight).sum() / batch.weight.sum()


def found(objective: Objective, made: tuple[ExampleBatch, object, Step]) -> float:
    return objective(*made).item()


def test_the_full_softmax_is_the_weighted_cross_entropy_over_the_catalogue() -> None:
    batch, objective = planted(1), objective_of(FULL)
    query, pins = embeddings(objective.towers, batch)
    expected = weighted(F.cross_entropy(query @ pins.T, batch.target, reduction="none"), batch)
    assert found(objective, step_of(FULL, batch)) == pytest.approx(expected.item(), abs=1e-6)


def plain_sampled(objective: Objective, batch: ExampleBatch, step: Step, dropped_BM: Tensor) -> Tensor:
    query, pins = embeddings(objective.towers, batch)
    assert step.pool is not None
    rows, shares = step.pool.rows, objective.shares
    in_batch = (BATCH - 1) * shares.trained.double().mean(0)  # the tasks have half of the rows each
    count = in_batch + SAMPLED.num_uniform_negatives / NUM_PINS + SAMPLED.num_served_negatives * shares.served.double()
    logits = (query @ pins[rows].T - count[rows].log()).masked_fill(dropped_BM, float("-inf"))
    own = (query * pins[batch.target]).sum(1)
    return weighted(torch.cat([own[:, None], logits], 1).logsumexp(1) - own, batch)


@pytest.mark.parametrize("mask_same_user", [True, False])
def test_a_sampled_softmax_leaves_out_the_target_and_what_the_same_person_did(mask_same_user: bool) -> None:
    loss = SAMPLED.model_copy(update={"mask_same_user": mask_same_user})
    batch = replace(planted(1), user=torch.arange(BATCH) // 4)
    objective, made = objective_of(loss), step_of(loss, batch)
    pool = made[2].pool
    assert pool is not None
    dropped = batch.target[:, None] == pool.rows[None, :]
    if mask_same_user:
        dropped[:, :BATCH] |= batch.user[:, None] == batch.user[None, :]
    expected = plain_sampled(objective, batch, made[2], dropped)
    assert found(objective, made) == pytest.approx(expected.item(), abs=1e-6)


def test_other_pins_of_a_conversions_advertiser_can_be_left_out() -> None:
    loss = SAMPLED.model_copy(update={"mask_same_advertiser": True, "mask_same_user": False})
    batch = planted(1)
    objective, made = objective_of(loss), step_of(loss, batch)
    pool, of_pin = made[2].pool, advertisers().of_pin
    assert pool is not None
    same = (of_pin[batch.target][:, None] == of_pin[pool.rows][None, :]) & (batch.query.task == 0)[:, None]
    dropped = (batch.target[:, None] == pool.rows[None, :]) | same
    assert (dropped.sum(1) > (batch.target[:, None] == pool.rows[None, :]).sum(1)).any()
    assert found(objective, made) == pytest.approx(plain_sampled(objective, batch, made[2], dropped).item(), abs=1e-6)


def with_advertiser(form: AdvertiserForm, base: LossConfig = FULL) -> LossConfig:
    return base.model_copy(update={"advertiser": AdvertiserLossConfig(form=form, weight=0.7, max_share=1.0)})


def test_a_soft_bag_adds_the_cross_entropy_of_what_was_drawn_for_conversions() -> None:
    batch, loss = planted(1), with_advertiser(AdvertiserForm.SOFT_BAG)
    objective, made = objective_of(loss), step_of(loss, batch)
    query, pins = embeddings(objective.towers, batch)
    log_share = (query @ pins.T).log_softmax(1)
    drawn, bought = made[2].own.rows[:, 1:], batch.query.task == 0
    assert drawn.shape == (BATCH, 2)
    assert (drawn[~bought] == PADDING).all()
    of_pin = advertisers().of_pin
    assert (of_pin[drawn[bought]] == of_pin[batch.target[bought]][:, None]).all()
    bag = -log_share.gather(1, drawn.clamp(min=0)).mean(1) * bought
    own = -log_share.gather(1, batch.target[:, None])[:, 0]
    assert found(objective, made) == pytest.approx(weighted(own + 0.7 * bag, batch).item(), abs=1e-6)


def test_a_marginal_bag_adds_the_cross_entropy_of_the_advertisers_pins_together() -> None:
    batch, loss = planted(1), with_advertiser(AdvertiserForm.MARGINAL_BAG)
    objective = objective_of(loss)
    query, pins = embeddings(objective.towers, batch)
    logits, of_pin = query @ pins.T, advertisers().of_pin
    same = of_pin[batch.target][:, None] == of_pin[None, :]
    bag = logits.logsumexp(1) - logits.masked_fill(~same, float("-inf")).logsumexp(1)
    own = F.cross_entropy(logits, batch.target, reduction="none")
    expected = weighted(own + 0.7 * bag * (batch.query.task == 0), batch)
    assert found(objective, step_of(loss, batch)) == pytest.approx(expected.item(), abs=1e-6)


def test_prototypes_add_the_cross_entropy_of_the_advertiser_among_all() -> None:
    batch, loss = planted(1), with_advertiser(AdvertiserForm.PROTOTYPE)
    objective, made = objective_of(loss), step_of(loss, batch)
    assert objective.prototypes is not None
    assert made[2].kept_tables_A is not None
    query, pins = embeddings(objective.towers, batch)
    of_pin = advertisers().of_pin
    mean = torch.stack([pins[of_pin == code].mean(0) for code in range(4)])
    vectors = F.normalize(mean + objective.prototypes.table.weight * made[2].kept_tables_A[:, None], dim=1)
    of_advertiser = F.cross_entropy(query @ vectors.T, of_pin[batch.target], reduction="none")
    own = F.cross_entropy(query @ pins.T, batch.target, reduction="none")
    expected = weighted(own + 0.7 * of_advertiser * (batch.query.task == 0), batch)
    assert found(objective, made) == pytest.approx(expected.item(), abs=1e-6)


def change_of_advertisers_pins(loss: LossConfig) -> float:
    """How much nearer a step brings a conversion's query to the pins of its advertiser that nobody bought."""
    batch = planted(1)
    objective, made = objective_of(loss), step_of(loss, batch)
    # One whose history holds none of these pins: else they are taught as history, too.
    row = torch.nonzero((batch.query.task == 0) & (batch.query.surface != 0)).flatten()[:1]
    only = replace(made[2], row_weight_B=torch.zeros(BATCH).index_fill(0, row, 1.0))
    objective(*made[:2], only).backward()
    table = objective.towers.pin.features.id_table().weight
    assert table.grad is not None
    bag = torch.nonzero(advertisers().in_bag == advertisers().of_rows(batch.target[row])).flatten()
    others = bag[bag != batch.target[row]]
    assert len(others) == 2
    with torch.no_grad():
        query, pins = embeddings(objective.towers, batch)
        table -= 1e-3 * table.grad
        _, moved = embeddings(objective.towers, batch)
    return ((moved - pins)[others] @ query[row].T).sum().item()


@pytest.mark.parametrize("kind", list(LossKind))
def test_an_advertiser_loss_teaches_pins_that_nobody_bought(kind: LossKind) -> None:
    base = LossConfig(kind=kind, num_uniform_negatives=200)
    change = {form: change_of_advertisers_pins(with_advertiser(form, base)) for form in AdvertiserForm}
    assert change[AdvertiserForm.NONE] < 0  # pushed away, as all negatives are
    assert all(change[form] > change[AdvertiserForm.NONE] for form in AdvertiserForm if form is not AdvertiserForm.NONE)
    assert change[AdvertiserForm.SOFT_BAG] > 0


def test_negatives_of_the_own_request_are_a_softmax_of_their_own() -> None:
    batch, objective = planted(1), objective_of(FULL)
    query, pins = embeddings(objective.towers, batch)
    logits = query @ pins.T
    there = batch.negatives != PADDING
    local = logits.gather(1, batch.negatives.clamp(min=0)).masked_fill(~there, float("-inf"))
    own = logits.gather(1, batch.target[:, None])
    hard = torch.cat([own, local], 1).logsumexp(1) - own[:, 0]
    plain = F.cross_entropy(logits, batch.target, reduction="none")
    made = step_of(FULL, batch, hard_weight=0.3)
    assert found(objective, made) == pytest.approx(weighted(plain + 0.3 * hard, batch).item(), abs=1e-6)
    assert found(objective, step_of(FULL, batch)) == pytest.approx(weighted(plain, batch).item(), abs=1e-6)


def test_each_head_has_a_softmax_of_its_own_rows_and_pins() -> None:
    batch, objective = planted(1), objective_of(FULL, TWO_HEADS)
    total = torch.zeros(BATCH, dtype=torch.float64)
    for code, head in enumerate(Task):
        query, pins = embeddings(objective.towers, batch, head)
        mine = batch.query.task == code
        total[mine] = F.cross_entropy(query @ pins.T, batch.target, reduction="none")[mine]
    assert found(objective, step_of(FULL, batch)) == pytest.approx(weighted(total, batch).item(), abs=1e-6)


def test_a_heads_sampled_pool_holds_its_own_tasks_rows_and_counts_them() -> None:
    loss = SAMPLED.model_copy(update={"mask_same_user": False})
    batch, objective = planted(1), objective_of(loss, TWO_HEADS)
    shares = objective.shares
    shares.trained[1] = shares.trained[1].roll(1)  # no longer the same for both
    made = step_of(loss, batch)
    pool = made[2].pool
    assert pool is not None
    total = torch.zeros(BATCH, dtype=torch.float64)
    for code, head in enumerate(Task):
        query, pins = embeddings(objective.towers, batch, head)
        mine = torch.nonzero(batch.query.task == code).flatten()
        rows = torch.cat([batch.target[mine], pool.rows[BATCH:]])
        count = (len(mine) - 1) * shares.trained[code].double() + 40 / NUM_PINS + 20 * shares.served.double()
        logits = query[mine] @ pins[rows].T - count[rows].clamp(min=torch.finfo(torch.float32).tiny).log()
        logits = logits.masked_fill(batch.target[mine][:, None] == rows[None, :], float("-inf"))
        own = (query[mine] * pins[batch.target[mine]]).sum(1)
        total[mine] = torch.cat([own[:, None], logits], 1).logsumexp(1) - own
    assert found(objective, made) == pytest.approx(weighted(total, batch).item(), abs=2e-6)


def test_prefixes_are_losses_of_their_own_at_unit_length() -> None:
    model = CALM.model_copy(update={"prefixes": (4, 8)})
    batch, objective = planted(1), objective_of(FULL, model)
    query, pins = embeddings(objective.towers, batch)
    query = query * objective.towers.temperature.double()
    total = torch.zeros((), dtype=torch.float64)
    for width, share in ((4, 1 / 7), (8, 2 / 7), (16, 4 / 7)):
        short, shorts = F.normalize(query[:, :width], dim=1), F.normalize(pins[:, :width], dim=1)
        logits = short @ shorts.T / objective.towers.temperature.double()
        total = total + share * weighted(F.cross_entropy(logits, batch.target, reduction="none"), batch)
    assert found(objective, step_of(FULL, batch)) == pytest.approx(total.item(), abs=1e-6)


@pytest.mark.parametrize("heads", list(HeadKind))
@pytest.mark.parametrize("name", list(EVERYTHING))
def test_everything_at_once_is_finite_and_teaches_every_parameter(name: str, heads: HeadKind) -> None:
    """Also where one task has no rows: data-parallel training waits for every parameter's gradient."""
    loss = EVERYTHING[name]
    model = CALM.model_copy(update={"heads": heads, "prefixes": (8,)})
    for tasks in (torch.arange(BATCH) % 2, torch.zeros(BATCH, dtype=torch.int64), torch.ones(BATCH, dtype=torch.int64)):
        batch = planted(1)
        batch = replace(batch, query=replace(batch.query, task=tasks))
        objective = objective_of(loss, model)
        total = objective(*step_of(loss, batch, hard_weight=0.3))
        total.backward()
        assert torch.isfinite(total)
        missing = [each for each, value in objective.named_parameters() if value.grad is None]
        assert missing == []
        assert all(torch.isfinite(value.grad).all() for value in objective.parameters() if value.grad is not None)


def test_bfloat16_is_near_and_its_loss_float32() -> None:
    batch = planted(1)
    exact = found(objective_of(SAMPLED), step_of(SAMPLED, batch))
    objective = objective_of(SAMPLED, bfloat16=True)
    total = objective(*step_of(SAMPLED, batch))
    total.backward()
    assert total.dtype == torch.float32
    assert total.item() != exact
    assert total.item() == pytest.approx(exact, rel=0.02)
    assert all(value.grad.dtype == torch.float32 for value in objective.parameters() if value.grad is not None)
