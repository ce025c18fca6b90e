"""The loss against torch and hand-derived values: the softmax, expected counts, weights of rows, widths."""

import math

import pytest
import torch
import torch.nn.functional as F
from losses import TEMPERATURE, softmax, unit
from pydantic import ValidationError
from torch import Tensor

from convcg.batch import PADDING
from convcg.errors import ConfigError
from convcg.model.log_sum_exp import Excluded
from convcg.model.loss import Embedded, LossConfig, PinShares, Softmax, log_expected_count, row_weights, width_weights
from convcg.model.step import OwnPins
from convcg.model.two_tower import ModelConfig, PinLength


def targets(number: int, *, every: int) -> Tensor:
    return (torch.arange(number) * every)[:, None]


def test_a_pool_of_the_whole_catalogue_is_torchs_cross_entropy() -> None:
    query, pins, target = unit(64, 16, seed=1), unit(400, 16, seed=2), targets(64, every=5)
    loss = softmax(query, pins, target).target_loss()
    expected = F.cross_entropy(query.double() @ pins.double().T / 0.2, target[:, 0], reduction="none")
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=1e-5)
    assert abs(loss.mean().double() - expected.mean()) < 1e-6


def test_other_own_pins_change_nothing_of_an_exact_softmax() -> None:
    """They move from the pool to the known set; twice, or as the target again, they count once."""
    query, pins, target = unit(32, 16, seed=1), unit(100, 16, seed=2), targets(32, every=3)
    others = torch.randint(100, (32, 4), generator=torch.Generator().manual_seed(0))
    others[:, 3] = others[:, 2]
    others[::2, 1] = PADDING
    others[5, 0] = target[5, 0]
    known = softmax(query, pins, torch.cat([target, others], dim=1))
    alone = softmax(query, pins, target)
    torch.testing.assert_close(known.target_loss(), alone.target_loss(), rtol=0, atol=1e-5)


def test_the_order_of_a_pool_and_a_count_of_one_change_nothing() -> None:
    query, pins, target = unit(32, 16, seed=3), unit(200, 16, seed=4), targets(32, every=6)
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    found = softmax(query, pins, target, shuffled, torch.zeros(200)).target_loss()
    torch.testing.assert_close(found, softmax(query, pins, target).target_loss(), rtol=0, atol=2e-6)


def test_two_pins_by_hand() -> None:
    # Cosines 1 and 0 at temperature 0.5: logits 2 and 0. The only negative is expected 4 times: -log 4.
    query, pins, target = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0]])
    half = torch.tensor(0.5)
    full = softmax(query, pins, target, temperature=half).target_loss()
    assert full.item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)
    log_4 = torch.tensor([math.log(4)])
    once = softmax(query, pins, target, torch.tensor([1]), log_4, temperature=half).target_loss()
    assert once.item() == pytest.approx(math.log(1 + math.exp(-2) / 4), abs=1e-6)
    rows = torch.ones(4, dtype=torch.int64)
    four_times = softmax(query, pins, target, rows, log_4.expand(4), temperature=half).target_loss()
    assert four_times.item() == pytest.approx(full.item(), abs=1e-6)


def test_own_pins_by_hand() -> None:
    # Logits 2 (target), 0 (drawn of the advertiser), -2 (of the request), and 0 (pool, expected twice).
    pins = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    own, query = torch.tensor([[0, 1, 2]]), torch.tensor([[1.0, 0.0]])
    log_2 = torch.tensor([math.log(2)])
    found = softmax(query, pins, own, torch.tensor([3]), log_2, num_draws=1, temperature=torch.tensor(0.5))
    log_z = math.log(math.exp(2) + 1 + math.exp(-2) + 0.5)
    assert found.target_loss().item() == pytest.approx(log_z - 2, abs=1e-6)
    assert found.draws_loss().item() == pytest.approx(log_z, abs=1e-6)
    assert found.request_loss().item() == pytest.approx(math.log(1 + math.exp(-4)), abs=1e-6)


def test_a_target_drawn_again_stays_in_the_mean_of_draws_and_once_in_the_sum() -> None:
    pins = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = softmax(
        torch.tensor([[1.0, 0.0]]), pins, torch.tensor([[0, 0, 1, 0]]), num_draws=3, temperature=torch.tensor(0.5)
    )
    log_z = math.log(math.exp(2) + 1)
    assert found.draws_loss().item() == pytest.approx(log_z - (2 + 0 + 2) / 3, abs=1e-6)


def test_a_request_without_negatives_has_no_loss() -> None:
    pins = unit(5, 4, seed=1)
    found = softmax(unit(2, 4, seed=2), pins, torch.tensor([[0, PADDING], [1, 3]]))
    assert found.request_loss()[0] == 0
    assert found.request_loss()[1] > 0


def test_excluded_columns_have_no_gradient_at_all() -> None:
    pool = unit(10, 8, seed=7).requires_grad_()
    embedded = Embedded(
        query_Bd=unit(4, 8, seed=5),
        own_BKd=unit(4, 1, 8, seed=6),
        pool_Pd=pool,
        offset_P=torch.zeros(10),
        temperature=TEMPERATURE,
    )
    excluded = Excluded.of((torch.tensor([0, 1, 2, 3, 0]), torch.tensor([3, 3, 3, 3, 5])))
    own = OwnPins(rows=torch.zeros(4, 1, dtype=torch.int64))

    def loss() -> Tensor:
        return Softmax.of(embedded, own, excluded=excluded, groups=None, chunk=4).target_loss()

    (gradient,) = torch.autograd.grad(loss().sum(), pool)
    assert (gradient[3] == 0).all()
    assert (gradient[[0, 1, 2, 4, 5, 6, 7, 8, 9]] != 0).all()
    (gradient,) = torch.autograd.grad(loss()[0], pool)
    assert (gradient[5] == 0).all()


def test_a_query_whose_negatives_are_all_left_out_has_loss_zero_and_a_finite_gradient() -> None:
    query = unit(2, 8, seed=8).requires_grad_()
    loss = softmax(query, unit(3, 8, seed=9), torch.tensor([[0], [1]]), torch.tensor([0, 1])[:0]).target_loss()
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert query.grad is not None
    assert query.grad.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_embeddings_are_float32(dtype: torch.dtype) -> None:
    query, pins, own = unit(4, 8, seed=1).to(dtype), unit(20, 8, seed=2).to(dtype), torch.arange(8).view(4, 2)
    found = softmax(query, pins, own, num_draws=1)
    exact = softmax(query.float(), pins.float(), own, num_draws=1)
    for name in ("target_loss", "draws_loss", "request_loss"):
        loss = getattr(found, name)()
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, getattr(exact, name)(), rtol=0, atol=1e-5)


def shares_of(trained: list[list[float]], served: list[float] | None = None) -> PinShares:
    every = torch.tensor(trained)
    return PinShares(trained=every, served=torch.zeros(every.shape[1]) if served is None else torch.tensor(served))


def test_expected_counts_of_three_streams_by_hand() -> None:
    shares = shares_of([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], [0.0, 0.25, 0.75])
    rows = torch.tensor([0, 1, 2])
    one_task = log_expected_count(
        rows_P=rows, shares=shares, in_batch_T=torch.tensor([5, 0]), num_uniform=3, num_served=8
    )
    torch.testing.assert_close(one_task, torch.tensor([4 * 0.5 + 1, 4 * 0.5 + 1 + 2, 1 + 6.0]).log())
    # Of 3 + 6 rows 8 are others, of tasks as 1 : 2.
    both = log_expected_count(rows_P=rows, shares=shares, in_batch_T=torch.tensor([3, 6]), num_uniform=3, num_served=0)
    torch.testing.assert_close(both, torch.tensor([8 / 3 * 0.5 + 1, 8 / 3 * 0.5 + 1, 16 / 3 + 1]).log())
    assert both.dtype == torch.float32


def test_expected_counts_of_one_source_alone() -> None:
    shares, rows = shares_of([[0.75, 0.25], [0.5, 0.5]], [0.1, 0.9]), torch.tensor([0, 1, 0])

    def counts(in_batch: list[int], num_uniform: int, num_served: int) -> list[float]:
        found = log_expected_count(
            rows_P=rows,
            shares=shares,
            in_batch_T=torch.tensor(in_batch),
            num_uniform=num_uniform,
            num_served=num_served,
        )
        return found.exp().tolist()

    assert counts([1, 0], 6, 0) == pytest.approx([3.0, 3.0, 3.0])
    assert counts([0, 0], 6, 0) == pytest.approx([3.0, 3.0, 3.0])
    assert counts([5, 0], 0, 0) == pytest.approx([3.0, 1.0, 3.0])
    assert counts([0, 5], 0, 0) == pytest.approx([2.0, 2.0, 2.0])
    assert counts([1, 0], 0, 10) == pytest.approx([1.0, 9.0, 1.0])


def test_the_correction_scales_the_log_of_the_count() -> None:
    def count(correction: float) -> Tensor:
        return log_expected_count(
            rows_P=torch.tensor([0, 1]),
            shares=shares_of([[0.9, 0.1], [0.0, 0.0]]),
            in_batch_T=torch.tensor([11, 0]),
            num_uniform=0,
            num_served=0,
            correction=correction,
        )

    torch.testing.assert_close(count(0.5), 0.5 * count(1.0))
    assert count(0.0).tolist() == [0, 0]
    assert count(1.0)[0] == pytest.approx(math.log(9))


def test_a_pin_that_cannot_be_in_the_pool_has_a_finite_count() -> None:
    count = log_expected_count(
        rows_P=torch.tensor([1]),
        shares=shares_of([[1.0, 0.0], [0.0, 0.0]]),
        in_batch_T=torch.tensor([1, 0]),
        num_uniform=0,
        num_served=0,
    )
    assert torch.isfinite(count).all()


def test_row_weights_by_hand() -> None:
    weight, task = torch.tensor([1.0, 3.0, 2.0, 2.0]), torch.tensor([0, 0, 1, 1])
    total = torch.tensor([4.0, 4.0])

    def weights(share: float | None, global_weight: Tensor = total) -> list[float]:
        return row_weights(weight, task, global_weight_T=global_weight, conversion_share=share, world_size=1).tolist()

    assert weights(None) == pytest.approx([1 / 8, 3 / 8, 2 / 8, 2 / 8])
    assert weights(0.6) == pytest.approx([0.6 / 4, 0.6 * 3 / 4, 0.4 / 2, 0.4 / 2])
    assert weights(1.0) == pytest.approx([1 / 4, 3 / 4, 0, 0])
    # Where nobody converts, engagement has all of the loss; where nothing weighs, there is none.
    nobody = row_weights(
        torch.tensor([0.0, 2.0]),
        torch.tensor([0, 1]),
        global_weight_T=torch.tensor([0.0, 2.0]),
        conversion_share=0.6,
        world_size=1,
    )
    assert nobody.tolist() == [0, 1]
    nothing = row_weights(
        torch.zeros(2), torch.tensor([0, 1]), global_weight_T=torch.zeros(2), conversion_share=0.6, world_size=1
    )
    assert nothing.tolist() == [0, 0]


@pytest.mark.parametrize("share", [None, 0.3])
def test_the_average_of_the_ranks_parts_is_the_weighted_mean_of_all(share: float | None) -> None:
    generator = torch.Generator().manual_seed(14)
    loss, weight = torch.rand(3, 10, generator=generator), torch.rand(3, 10, generator=generator)
    task = torch.arange(10).remainder(3).clamp(max=1).expand(3, -1)
    weight[1] *= 20  # one rank has most of the conversions
    weight[2, :5] = 0
    total = torch.stack([weight[task == code].sum() for code in (0, 1)])

    def part(rank: int) -> Tensor:
        weights = row_weights(weight[rank], task[rank], global_weight_T=total, conversion_share=share, world_size=3)
        return (weights * loss[rank]).sum()

    means = torch.stack([(loss * weight)[task == code].sum() / total[code] for code in (0, 1)])
    of_task = total / total.sum() if share is None else torch.tensor([share, 1 - share])
    assert sum(part(rank).item() for rank in range(3)) / 3 == pytest.approx((means * of_task).sum().item(), rel=1e-6)


def test_widths_weigh_as_they_are_told() -> None:
    model = ModelConfig(dim=64, prefixes=(16, 32))
    assert width_weights(ModelConfig(dim=64), LossConfig()) == {64: 1.0}
    assert width_weights(model, LossConfig()) == pytest.approx({16: 1 / 7, 32: 2 / 7, 64: 4 / 7})
    assert width_weights(model, LossConfig(prefix_weights=(3, 1))) == pytest.approx({16: 3 / 5, 32: 1 / 5, 64: 1 / 5})


def test_prefixes_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"names 1 weights for 2 prefixes; give one for each"):
        width_weights(ModelConfig(dim=64, prefixes=(16, 32)), LossConfig(prefix_weights=(1.0,)))
    free = ModelConfig(dim=64, prefixes=(16,)).model_copy(update={"pin_length": PinLength.FREE})
    with pytest.raises(ConfigError, match=r"set model.pin_length to unit"):
        width_weights(free, LossConfig())
    with pytest.raises(ValidationError, match="greater than 0"):
        LossConfig(prefix_weights=(0.0,))


def test_a_prefix_is_compared_as_unit_vectors() -> None:
    query, pins, own = unit(3, 8, seed=1), unit(9, 8, seed=2), torch.arange(6).view(3, 2)
    embedded = Embedded(query_Bd=query, own_BKd=pins[own], pool_Pd=pins, offset_P=None, temperature=TEMPERATURE).prefix(
        4
    )
    for tensor in (embedded.query_Bd, embedded.own_BKd, embedded.pool_Pd):
        assert tensor.shape[-1] == 4
        torch.testing.assert_close(tensor.norm(dim=-1), torch.ones(tensor.shape[:-1]))
