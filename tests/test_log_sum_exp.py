"""The chunked log-sum-exp against plain torch: values, gradients, and how much it holds at a time."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convcg.model.log_sum_exp import Excluded, Groups, equal_pairs, pool_log_sum_exp

NUM_QUERIES, NUM_POOL, DIM = 7, 23, 5


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_pairs(share: float, seed: int = 3) -> Tensor:
    return torch.rand(NUM_QUERIES, NUM_POOL, generator=torch.Generator().manual_seed(seed)) < share


def excluded(pairs_BP: Tensor) -> Excluded:
    query, place = torch.nonzero(pairs_BP, as_tuple=True)
    return Excluded.of((query, place), (query[:2], place[:2]))  # twice does not harm


def groups(only: bool) -> tuple[Groups, Tensor]:
    """Groups, and the matrix of what they leave out."""
    of_query, of_pool = torch.tensor([0, 1, 2, -2, 0, 5, 1]), torch.arange(NUM_POOL) % 4 - 1
    same = of_query[:, None] == of_pool[None, :]
    return Groups(of_query=of_query, of_pool=of_pool, only=only), ~same if only else same


@pytest.mark.parametrize("chunk", [1, 4, NUM_POOL, 1000])
@pytest.mark.parametrize("only", [True, False])
def test_values_and_gradients_are_plain_torchs(chunk: int, only: bool) -> None:
    query, pool = drawn(NUM_QUERIES, DIM, seed=1).requires_grad_(), drawn(NUM_POOL, DIM, seed=2).requires_grad_()
    offset, pairs = drawn(NUM_POOL, seed=4), some_pairs(0.2)
    grouped, left_out = groups(only)
    towards = drawn(NUM_QUERIES, seed=5)
    found = pool_log_sum_exp(query, pool, offset_P=offset, excluded=excluded(pairs), groups=grouped, chunk=chunk)
    logits = (query @ pool.T + offset).masked_fill(pairs | left_out, float("-inf"))
    there = torch.isfinite(logits).any(1)
    assert there.sum() > 3
    assert (found[~there] == float("-inf")).all()
    torch.testing.assert_close(found[there], logits[there].logsumexp(1))
    expected = torch.autograd.grad((logits[there].logsumexp(1) * towards[there]).sum(), (query, pool))
    gradient = torch.autograd.grad((found[there] * towards[there]).sum(), (query, pool))
    for one, other in zip(gradient, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_gradients_are_finite_differences() -> None:
    query, pool = drawn(3, 4, seed=1).requires_grad_(), drawn(9, 4, seed=2).requires_grad_()
    pairs = Excluded.of((torch.tensor([0, 2, 2]), torch.tensor([8, 1, 0])))
    assert torch.autograd.gradcheck(
        lambda query, pool: pool_log_sum_exp(query, pool, excluded=pairs, chunk=4), (query, pool)
    )


def test_a_query_that_nothing_is_left_for_is_minus_infinity_with_a_gradient_of_zero() -> None:
    query, pool = drawn(2, DIM, seed=1).requires_grad_(), drawn(6, DIM, seed=2).requires_grad_()
    nothing = Excluded.of((torch.zeros(6, dtype=torch.int64), torch.arange(6)))
    found = pool_log_sum_exp(query, pool, excluded=nothing, chunk=4)
    assert found[0] == float("-inf")
    assert torch.isfinite(found[1])
    torch.logaddexp(found, torch.zeros(2, dtype=found.dtype)).sum().backward()
    assert query.grad is not None
    assert pool.grad is not None
    assert (query.grad[0] == 0).all()
    assert torch.isfinite(pool.grad).all()
    assert (pool.grad != 0).all()


def test_an_empty_pool_and_no_queries_are_fine() -> None:
    query, pool = drawn(2, DIM, seed=1).requires_grad_(), drawn(6, DIM, seed=2).requires_grad_()
    assert pool_log_sum_exp(query, pool[:0], chunk=4).tolist() == [float("-inf")] * 2
    nobody = pool_log_sum_exp(query[:0], pool, chunk=4)
    nobody.sum().backward()
    assert nobody.shape == (0,)
    assert pool.grad is not None
    assert pool.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    query, pool = drawn(4, DIM, seed=1).to(dtype), drawn(300, DIM, seed=2).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = pool_log_sum_exp(query, pool, chunk=100)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (query.float() @ pool.float().T).logsumexp(1), rtol=0, atol=1e-5)


def test_logits_that_would_overflow_do_not() -> None:
    query, pool = torch.full((1, 2), 100.0), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert pool_log_sum_exp(query, pool, chunk=1).tolist() == [200.0]


def test_pairs_with_equal_keys_by_hand() -> None:
    query, place = equal_pairs(torch.tensor([[7, 9], [-1, 7], [3, 3]]), torch.tensor([9, 7, 4, 7]))
    assert sorted(zip(query.tolist(), place.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 3), (1, 1), (1, 3)]


class _Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                self.numel = max(self.numel, each.numel())
        return result


@pytest.mark.parametrize("num_pool", [1_000, 40_000])
def test_nothing_as_large_as_queries_times_pool_is_ever_held(num_pool: int) -> None:
    """The pool and its gradient are given and asked for; beside these, what is held does not grow with the pool."""
    num_queries, dim, chunk = 64, 2, 128
    query, pool = torch.randn(num_queries, dim).requires_grad_(), torch.randn(num_pool, dim).requires_grad_()
    owner = torch.arange(num_pool) % 50
    with _Largest() as largest:
        pool_log_sum_exp(
            query,
            pool,
            excluded=Excluded.of((torch.arange(num_queries), torch.arange(num_queries))),
            groups=Groups(of_query=owner[:num_queries], of_pool=owner, only=False),
            chunk=chunk,
        ).sum().backward()
    assert pool.grad is not None
    assert num_queries * chunk <= largest.numel <= max(num_queries * chunk, num_pool * dim, num_queries * 400)
    assert largest.numel < num_queries * num_pool / 7
