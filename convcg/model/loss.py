"""The retrieval losses: exact full softmax for small catalogues, sampled softmax with logQ correction for large ones.

Cosine logits over a temperature. For the sampled softmax the positive's logit stays raw and each negative's is lowered
by the log of its expected count in the pool; in the limit of a large pool this is the full softmax (Khrylchenko et al.,
2025, arXiv 2507.09331; in the mixture form of this project's design notes). All log-sum-exps are in float32.

Shape suffixes: B queries, N catalogue, P pool, d width.
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
from pydantic import Field
from torch import Tensor

from convcg.setting import Settings


class LossKind(StrEnum):
    """How the denominator of the softmax is obtained."""

    FULL_SOFTMAX = "full_softmax"
    SAMPLED_SOFTMAX = "sampled_softmax"


class LossConfig(Settings):
    """The training objective. The exact full softmax is right up to some hundred thousand pins."""

    kind: LossKind = LossKind.FULL_SOFTMAX
    #: Negatives drawn uniformly from the catalogue for each step, beside those in the batch.
    num_uniform_negatives: int = Field(default=4096, ge=0)
    #: Negatives drawn for each step from what was served and not engaged, as often as it was served.
    num_served_negatives: int = Field(default=0, ge=0)
    #: How much of the log expected count is taken off a negative's logit; 1 is the unbiased correction.
    correction: float = Field(default=1.0, ge=0, le=1)


def full_softmax_loss(
    *, query_Bd: Tensor, pin_Nd: Tensor, target_B: Tensor, temperature: Tensor, positive_Bd: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each query's target among the whole catalogue: [B] float32.

    query_Bd, pin_Nd: unit vectors. target_B: [B] int64 rows of `pin_Nd`. positive_Bd: the targets' embeddings where
    they are others than those in `pin_Nd` (as of another day), which they then replace.
    """
    # The temperature divides the [B, d] queries, not the [B, N] logits: a quarter of a step's time at N = 12,000.
    logits_BN = ((query_Bd / temperature) @ pin_Nd.T).float()
    if positive_Bd is not None:
        positive_B = (query_Bd * positive_Bd).sum(-1).float() / temperature
        logits_BN = logits_BN.scatter_(1, target_B[:, None], positive_B[:, None])  # in place: the logits are large
    return torch.nn.functional.cross_entropy(logits_BN, target_B, reduction="none")


def sampled_softmax_loss(
    *, query_Bd: Tensor, positive_Bd: Tensor, pool_Pd: Tensor, log_count_P: Tensor, drop_BP: Tensor, temperature: Tensor
) -> Tensor:
    """Cross-entropy of each query's positive against a corrected pool of negatives: [B] float32.

    L = -s+ + log( exp(s+) + sum over kept j of exp(s_j - log c_j) ).

    query_Bd, positive_Bd, pool_Pd: unit vectors. log_count_P: [P] float32, correction times the log of each pool
    member's expected count. drop_BP: [B, P] bool, True where a pool member is one of the query's own positives.
    """
    positive_B = (query_Bd * positive_Bd).sum(-1).float() / temperature
    negative_BP = ((query_Bd / temperature) @ pool_Pd.T).float() - log_count_P
    negative_BP = negative_BP.masked_fill(drop_BP, float("-inf"))
    return torch.cat([positive_B[:, None], negative_BP], dim=1).logsumexp(1) - positive_B


@dataclass(frozen=True, kw_only=True)
class PinShares:
    """How the two streams of pins that a pool is filled from are spread over the catalogue; each sums to 1, or is zero.

    trained: [N] float32, the pins' shares of the training targets as they are sampled.  served: [N] float32, their
    shares of the impressions that were not engaged.
    """

    trained: Tensor
    served: Tensor


def log_expected_count(
    *, rows_P: Tensor, shares: PinShares, num_in_batch: int, num_uniform: int, num_served: int, correction: float = 1.0
) -> Tensor:
    """[P] float32: correction * log c_j, with c_j = (n_b - 1) f_j + n_u / N + n_s g_j, the expected copies of pin j.

    rows_P: [P] int64 pool members. f and g are the two `shares`. `num_in_batch` is the global batch size n_b, one of
    whose rows is the query's own; n_u members are drawn uniformly, n_s from g.
    """
    num_pins = len(shares.trained)
    count_P = (num_in_batch - 1) * shares.trained[rows_P] + num_uniform / num_pins + num_served * shares.served[rows_P]
    return correction * count_P.float().clamp(min=torch.finfo(torch.float32).tiny).log()


def weighted_mean(loss_B: Tensor, weight_B: Tensor, *, global_weight: Tensor, world_size: int) -> Tensor:
    """This rank's share of the weighted mean loss over the global batch, as a scalar.

    Scaled by `world_size` because data-parallel training averages gradients over ranks: the average of these shares is
    the exact mean, also where the ranks' weights differ. `global_weight` is the sum of weights over all ranks.
    """
    return (loss_B * weight_B).sum() * world_size / global_weight
