"""The losses against torch, hand-derived values and the exact gradient that the sampled softmax estimates."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convcg.model.loss import (
    PinShares,
    full_softmax_loss,
    log_expected_count,
    sampled_softmax_loss,
    weighted_mean,
)

TEMPERATURE = torch.tensor(0.2)


def unit(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def sampled(query_Bd: Tensor, pin_Nd: Tensor, target_B: Tensor, rows_P: Tensor, log_count_P: Tensor) -> Tensor:
    return sampled_softmax_loss(
        query_Bd=query_Bd,
        positive_Bd=pin_Nd[target_B],
        pool_Pd=pin_Nd[rows_P],
        log_count_P=log_count_P,
        drop_BP=target_B[:, None] == rows_P[None, :],
        temperature=TEMPERATURE,
    )


def test_the_full_softmax_is_torchs_cross_entropy() -> None:
    query, pins, target = unit(64, 16, seed=1), unit(400, 16, seed=2), torch.arange(64) * 5
    loss = full_softmax_loss(query_Bd=query, pin_Nd=pins, target_B=target, temperature=TEMPERATURE)
    expected = F.cross_entropy(query.double() @ pins.double().T / 0.2, target, reduction="none")
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=1e-5)
    assert abs(loss.mean().double() - expected.mean()) < 1e-6


def test_two_pins_by_hand() -> None:
    # Cosines 1 and 0 at temperature 0.5: logits 2 and 0. The only negative is expected 4 times: -log 4.
    query, pins = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([0])
    full = full_softmax_loss(query_Bd=query, pin_Nd=pins, target_B=target, temperature=torch.tensor(0.5))
    assert full.item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)
    once = sampled_softmax_loss(
        query_Bd=query,
        positive_Bd=pins[:1],
        pool_Pd=pins[1:],
        log_count_P=torch.tensor([math.log(4)]),
        drop_BP=torch.tensor([[False]]),
        temperature=torch.tensor(0.5),
    )
    assert once.item() == pytest.approx(math.log(1 + math.exp(-2) / 4), abs=1e-6)
    four_times = sampled_softmax_loss(
        query_Bd=query,
        positive_Bd=pins[:1],
        pool_Pd=pins[1:].expand(4, 2),
        log_count_P=torch.full((4,), math.log(4)),
        drop_BP=torch.zeros(1, 4, dtype=torch.bool),
        temperature=torch.tensor(0.5),
    )
    assert four_times.item() == pytest.approx(full.item(), abs=1e-6)


def test_a_pool_of_the_whole_catalogue_is_the_full_softmax() -> None:
    query, pins, target = unit(32, 16, seed=3), unit(200, 16, seed=4), torch.arange(32) * 6
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    found = sampled(query, pins, target, shuffled, torch.zeros(200))
    full = full_softmax_loss(query_Bd=query, pin_Nd=pins, target_B=target, temperature=TEMPERATURE)
    torch.testing.assert_close(found, full, rtol=0, atol=2e-6)
    assert abs(found.mean() - full.mean()) < 1e-6


def test_dropped_columns_have_no_gradient_at_all() -> None:
    query, positive = unit(4, 8, seed=5), unit(4, 8, seed=6)
    pool = unit(10, 8, seed=7).requires_grad_()
    drop = torch.zeros(4, 10, dtype=torch.bool)
    drop[:, 3] = True
    drop[0, 5] = True
    loss = sampled_softmax_loss(
        query_Bd=query,
        positive_Bd=positive,
        pool_Pd=pool,
        log_count_P=torch.zeros(10),
        drop_BP=drop,
        temperature=TEMPERATURE,
    )
    loss.sum().backward()
    assert pool.grad is not None
    assert (pool.grad[3] == 0).all()
    assert (pool.grad[[0, 1, 2, 4, 5, 6, 7, 8, 9]] != 0).all()
    pool.grad = None
    loss = sampled_softmax_loss(
        query_Bd=query[:1],
        positive_Bd=positive[:1],
        pool_Pd=pool,
        log_count_P=torch.zeros(10),
        drop_BP=drop[:1],
        temperature=TEMPERATURE,
    )
    loss.sum().backward()
    assert (pool.grad[5] == 0).all()


def test_a_query_whose_negatives_are_all_dropped_has_loss_zero_and_a_finite_gradient() -> None:
    query = unit(2, 8, seed=8).requires_grad_()
    loss = sampled_softmax_loss(
        query_Bd=query,
        positive_Bd=unit(2, 8, seed=9),
        pool_Pd=unit(3, 8, seed=10),
        log_count_P=torch.zeros(3),
        drop_BP=torch.ones(2, 3, dtype=torch.bool),
        temperature=TEMPERATURE,
    )
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert query.grad is not None
    assert query.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_embeddings_are_float32(dtype: torch.dtype) -> None:
    query, pins, target = unit(4, 8, seed=1).to(dtype), unit(20, 8, seed=2).to(dtype), torch.arange(4)
    full = full_softmax_loss(query_Bd=query, pin_Nd=pins, target_B=target, temperature=TEMPERATURE)
    pool = sampled(query, pins, target, torch.arange(20), torch.zeros(20))
    assert full.dtype == pool.dtype == torch.float32
    torch.testing.assert_close(full, pool, rtol=0, atol=0.1)


def only_trained(trained: Tensor) -> PinShares:
    return PinShares(trained=trained, served=torch.zeros_like(trained))


def test_expected_counts_of_three_streams_by_hand() -> None:
    shares = PinShares(trained=torch.tensor([0.5, 0.5, 0.0]), served=torch.tensor([0.0, 0.25, 0.75]))
    found = log_expected_count(
        rows_P=torch.tensor([0, 1, 2]), shares=shares, num_in_batch=5, num_uniform=3, num_served=8
    )
    torch.testing.assert_close(found, torch.tensor([4 * 0.5 + 1, 4 * 0.5 + 1 + 2, 1 + 6.0]).log())


def test_expected_counts_by_hand() -> None:
    trained = only_trained(torch.tensor([0.5, 0.25, 0.25, 0.0]))
    found = log_expected_count(
        rows_P=torch.tensor([0, 1, 3, 0]), shares=trained, num_in_batch=9, num_uniform=8, num_served=0
    )
    expected = [8 * 0.5 + 8 / 4, 8 * 0.25 + 8 / 4, 8 / 4, 8 * 0.5 + 8 / 4]
    torch.testing.assert_close(found, torch.tensor(expected).log())
    assert found.dtype == torch.float32


def test_expected_counts_of_one_source_alone() -> None:
    trained, rows = only_trained(torch.tensor([0.75, 0.25])), torch.tensor([0, 1])
    uniform = log_expected_count(rows_P=rows, shares=trained, num_in_batch=1, num_uniform=6, num_served=0)
    torch.testing.assert_close(uniform, torch.tensor([3.0, 3.0]).log())
    in_batch = log_expected_count(rows_P=rows, shares=trained, num_in_batch=5, num_uniform=0, num_served=0)
    torch.testing.assert_close(in_batch, torch.tensor([3.0, 1.0]).log())


def test_the_correction_scales_the_log_of_the_count() -> None:
    def count(correction: float) -> Tensor:
        return log_expected_count(
            rows_P=torch.tensor([0, 1]),
            shares=only_trained(torch.tensor([0.9, 0.1])),
            num_in_batch=11,
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
        shares=only_trained(torch.tensor([1.0, 0.0])),
        num_in_batch=1,
        num_uniform=0,
        num_served=0,
    )
    assert torch.isfinite(count).all()


@pytest.mark.parametrize(
    ("num_in_batch", "num_uniform", "num_served"),
    [(1, 1024, 0), (2049, 0, 0), (1, 0, 2048), (385, 640, 0), (385, 384, 256)],
    ids=["uniform", "in batch", "served", "mixed", "mixed with served"],
)
def test_the_mean_sampled_gradient_is_the_exact_one(num_in_batch: int, num_uniform: int, num_served: int) -> None:
    num_pins, dim = 48, 6
    generator = torch.Generator().manual_seed(11)
    frequency = 1 / torch.arange(1, num_pins + 1.0)
    frequency /= frequency.sum()
    served = frequency.flip(0)  # what is served is spread otherwise than what is bought
    target = torch.tensor([0, 0, 1, 3, 8, 20, 33, 47])  # head, middle and tail
    query = unit(len(target), dim, seed=12).requires_grad_()
    pins = unit(num_pins, dim, seed=13).requires_grad_()

    def gradient(loss_B: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss_B.mean(), (query, pins))])

    exact = gradient(full_softmax_loss(query_Bd=query, pin_Nd=pins, target_B=target, temperature=TEMPERATURE))
    num_pools, total = 300, torch.zeros_like(exact)
    for _ in range(num_pools):
        # Beside its own positive, which is dropped wherever it is, a query sees the others of its batch.
        others = (
            torch.multinomial(frequency, num_in_batch - 1, replacement=True, generator=generator)
            if num_in_batch > 1
            else target[:0]
        )
        shown = torch.multinomial(served, max(1, num_served), replacement=True, generator=generator)[:num_served]
        rows = torch.cat([others, torch.randint(num_pins, (num_uniform,), generator=generator), shown])
        log_count = log_expected_count(
            rows_P=rows,
            shares=PinShares(trained=frequency, served=served),
            num_in_batch=num_in_batch,
            num_uniform=num_uniform,
            num_served=num_served,
        )
        total += gradient(sampled(query, pins, target, rows, log_count))
    mean = total / num_pools
    assert F.cosine_similarity(mean, exact, dim=0) > 0.99
    assert mean.norm().item() == pytest.approx(exact.norm().item(), rel=0.02)


def test_the_average_of_the_ranks_shares_is_the_weighted_mean_of_all() -> None:
    generator = torch.Generator().manual_seed(14)
    loss, weight = torch.rand(3, 10, generator=generator), torch.rand(3, 10, generator=generator)
    weight[1] *= 20  # one rank has most of the conversions
    weight[2, :5] = 0
    shares = [
        weighted_mean(loss[rank], weight[rank], global_weight=weight.sum(), world_size=3).item() for rank in range(3)
    ]
    assert sum(shares) / 3 == pytest.approx(((loss * weight).sum() / weight.sum()).item(), rel=1e-6)
    alone = weighted_mean(loss[0], weight[0], global_weight=weight[0].sum(), world_size=1)
    assert alone.item() == pytest.approx(((loss[0] * weight[0]).sum() / weight[0].sum()).item(), rel=1e-6)
