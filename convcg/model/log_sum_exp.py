"""The log of a softmax's denominator over a large pool, chunk by chunk: no matrix of queries times pool is ever held.

Forward keeps one number a query; backward computes each chunk's logits again. What a query may not be compared with is
given as ids and looked up within each chunk. All sums are in float32 at least, whatever the embeddings are in.

Shape suffixes: B queries, P pool, K own pins of a query, E excluded pairs, d width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_NOTHING = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """Pairs of a query and a place in the pool that are left out: two parallel [E] int64, ordered by place."""

    query: Tensor
    place: Tensor

    @classmethod
    def of(cls, *pairs: tuple[Tensor, Tensor]) -> "Excluded":
        """All given pairs (query, place), in any order and with repetitions."""
        place, order = torch.cat([place for _, place in pairs]).sort(stable=True)
        return cls(query=torch.cat([query for query, _ in pairs])[order], place=place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Which pool members belong to a query's group: all others are left out with `only`, else the group itself.

    of_query: [B] int64; a number that no pool member has where a query has no group.  of_pool: [P] int64.
    """

    of_query: Tensor
    of_pool: Tensor
    only: bool


def equal_pairs(key_BK: Tensor, key_P: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair of a query and a place in the pool that share a key: ([E], [E]) int64.

    key_BK: [B, K] int64.  key_P: [P] int64.
    """
    ordered, order = key_P.sort(stable=True)
    wanted = key_BK.flatten()
    first = torch.searchsorted(ordered, wanted)
    number = torch.searchsorted(ordered, wanted, right=True) - first
    query = torch.arange(len(wanted), device=wanted.device).repeat_interleave(number)
    within = torch.arange(len(query), device=wanted.device) - (number.cumsum(0) - number)[query]
    return query // max(1, key_BK.shape[1]), order[first[query] + within]


def pool_log_sum_exp(
    query_Bd: Tensor,
    pool_Pd: Tensor,
    *,
    offset_P: Tensor | None = None,
    excluded: Excluded | None = None,
    groups: Groups | None = None,
    chunk: int,
) -> Tensor:
    """[B]: log sum over the pool of exp(query . member + offset); -inf where everything is left out.

    query_Bd: divided by the temperature.  offset_P: [P], added to each member's logit; it gets no gradient.
    chunk: how many pool members are compared at once.
    """
    wide = torch.promote_types(query_Bd.dtype, torch.float32)
    with torch.autocast(query_Bd.device.type, enabled=False):
        query_Bd, pool_Pd = query_Bd.to(wide), pool_Pd.to(wide)
        offset_P = pool_Pd.new_zeros(len(pool_Pd)) if offset_P is None else offset_P.detach().to(wide)
        result: Tensor = _PoolLogSumExp.apply(query_Bd, pool_Pd, _Logits(offset_P, excluded, groups, chunk))  # type: ignore[no-untyped-call]
        return result


@dataclass(frozen=True, slots=True)
class _Logits:
    """Makes the logits of one chunk after the other."""

    offset_P: Tensor
    excluded: Excluded | None
    groups: Groups | None
    chunk: int

    def __call__(self, query_Bd: Tensor, pool_Pd: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Each chunk's place in the pool and its logits [B, chunk], which the caller may overwrite."""
        starts = range(0, len(pool_Pd), self.chunk)
        borders = self._borders(starts, len(pool_Pd))
        for number, start in enumerate(starts):
            here = slice(start, min(start + self.chunk, len(pool_Pd)))
            logits = torch.addmm(self.offset_P[here], query_Bd, pool_Pd[here].T)
            if self.groups is not None:
                same = self.groups.of_query[:, None] == self.groups.of_pool[None, here]
                logits.masked_fill_(~same if self.groups.only else same, _NOTHING)
            if self.excluded is not None and borders[number] < borders[number + 1]:
                pairs = slice(borders[number], borders[number + 1])
                # Not `logits.view(-1)`: two indices keep this within the chunk whatever its width.
                logits[self.excluded.query[pairs], self.excluded.place[pairs] - start] = _NOTHING
            yield here, logits

    def _borders(self, starts: range, num_pool: int) -> list[int]:
        if self.excluded is None:
            return []
        edges = torch.tensor([*starts, num_pool], device=self.excluded.place.device)
        borders: list[int] = torch.searchsorted(self.excluded.place, edges).tolist()
        return borders


class _PoolLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_Bd: Tensor, pool_Pd: Tensor, logits_of: _Logits) -> Tensor:
        parts = [query_Bd.new_full((len(query_Bd),), _NOTHING)]
        for _, logits in logits_of(query_Bd, pool_Pd):
            highest = logits.amax(1).clamp_(min=torch.finfo(logits.dtype).min)  # -inf less -inf would be NaN
            parts.append(logits.sub_(highest[:, None]).exp_().sum(1).log_().add_(highest))
        result = torch.stack(parts).logsumexp(0)
        ctx.save_for_backward(query_Bd, pool_Pd, result)
        ctx.logits_of = logits_of
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, Tensor, None]:
        query_Bd, pool_Pd, result = ctx.saved_tensors
        finite = result.clamp(min=torch.finfo(result.dtype).min)[:, None]
        towards_query, towards_pool = torch.zeros_like(query_Bd), torch.empty_like(pool_Pd)
        scaled_Bd = query_Bd * grad_B[:, None]
        for here, logits in ctx.logits_of(query_Bd, pool_Pd):
            share = logits.sub_(finite).exp_()
            towards_query.addmm_(share, pool_Pd[here])
            torch.mm(share.T, scaled_Bd, out=towards_pool[here])
        return towards_query.mul_(grad_B[:, None]), towards_pool, None
