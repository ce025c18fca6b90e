"""The retrieval loss: one softmax whose denominator is what a row is known to be compared with, and a pool.

    Z_i = sum over own pins k of exp(s_ik)  +  sum over pool members j, own pins left out, of exp(s_ij - alpha log c_j)
    L_i = log Z_i - s_iy

Own pins are the target y, pins drawn of its advertiser and negatives of the row's own request; their logits stay raw.
A pool member's is lowered by the log of its expected count c_j in the pool. The full softmax is the pool of the whole
catalogue with no correction. A sampled pool (in-batch, uniform, served) has the full softmax's gradient in the limit
(Khrylchenko et al., 2025, arXiv 2507.09331; here for a mixture, with several pins known).

Shape suffixes: B queries, K own pins, P pool, T tasks, N catalogue, d width.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from convcg.batch import PADDING
from convcg.errors import ConfigError
from convcg.model.advertiser import AdvertiserLossConfig
from convcg.model.log_sum_exp import Excluded, Groups, pool_log_sum_exp
from convcg.model.step import OwnPins
from convcg.model.two_tower import ModelConfig, PinLength, prefix_of
from convcg.setting import Settings

PrefixWeight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
    #: Whether what the same person did elsewhere in the batch is no negative.
    mask_same_user: bool = True
    #: Whether other pins of a conversion's advertiser are no negatives.
    mask_same_advertiser: bool = False
    #: The share of conversions in the loss, the rest is engagement's; None for what their weights add up to.
    conversion_share: float | None = Field(default=None, ge=0, le=1)
    #: The weight of a softmax over the row's target and its own request's negatives; 0 leaves it out.
    hard_weight: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    #: The share of all steps after which that weight rises from zero, in a straight line until the last step.
    hard_from: float = Field(default=0.3, ge=0, lt=1)
    advertiser: AdvertiserLossConfig = AdvertiserLossConfig()
    #: What the loss of each of `model.prefixes` weighs beside the whole embedding's 1; () for 1/2, 1/4 ... from the
    #: longest one down.
    prefix_weights: tuple[PrefixWeight, ...] = ()
    #: Pool members that are compared at once; it bounds memory and changes nothing else.
    chunk: int = Field(default=2048, ge=1)

    @property
    def names_advertisers(self) -> bool:
        """Whether the advertisers of pins are needed."""
        return self.advertiser.is_on or self.mask_same_advertiser


def width_weights(model: ModelConfig, loss: LossConfig) -> dict[int, float]:
    """The widths that embeddings are compared at, and each one's share of the loss; they sum to 1.

    Raises:
        ConfigError: the weights do not fit the prefixes.
    """
    if loss.prefix_weights and len(loss.prefix_weights) != len(model.prefixes):
        raise ConfigError(
            f"loss.prefix_weights names {len(loss.prefix_weights)} weights for {len(model.prefixes)} prefixes; give "
            "one for each of model.prefixes, or none."
        )
    if model.prefixes and model.pin_length is PinLength.FREE:
        raise ConfigError(
            "model.prefixes needs pins of unit length, as a prefix is brought back to it; set model.pin_length to unit."
        )
    halved = tuple(0.5 ** (len(model.prefixes) - place) for place in range(len(model.prefixes)))
    weights = {**dict(zip(model.prefixes, loss.prefix_weights or halved, strict=True)), model.dim: 1.0}
    return {width: weight / sum(weights.values()) for width, weight in weights.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What a softmax is taken of: query_Bd, own_BKd, pool_Pd; offset_P is -alpha log c_j, None for no correction."""

    query_Bd: Tensor
    own_BKd: Tensor
    pool_Pd: Tensor
    offset_P: Tensor | None
    temperature: Tensor

    def prefix(self, width: int) -> "Embedded":
        """The first `width` numbers of each embedding; see `convcg.model.two_tower.prefix_of`."""
        return replace(
            self,
            query_Bd=prefix_of(self.query_Bd, width),
            own_BKd=prefix_of(self.own_BKd, width),
            pool_Pd=prefix_of(self.pool_Pd, width),
        )

    @property
    def scaled_Bd(self) -> Tensor:
        """[B, d]: queries over the temperature, in float32 at least. Dividing the logits would cost more."""
        wide = torch.promote_types(self.query_Bd.dtype, torch.float32)
        return self.query_Bd.to(wide) / self.temperature

    def pool_sum(self, *, excluded: Excluded, groups: Groups | None, chunk: int) -> Tensor:
        """[B]: the log of the pool's part of a denominator."""
        return pool_log_sum_exp(
            self.scaled_Bd, self.pool_Pd, offset_P=self.offset_P, excluded=excluded, groups=groups, chunk=chunk
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """Each row's own logits [B, K] (-inf where there is no pin) and the log of its denominator [B], both float32."""

    own_BK: Tensor
    log_z_B: Tensor
    is_first_BK: Tensor
    num_draws: int

    @classmethod
    def of(
        cls, embedded: Embedded, own: OwnPins, *, excluded: Excluded, groups: Groups | None, chunk: int
    ) -> "Softmax":
        """`excluded` and `groups`: what of the pool is no negative of a row; its own pins must be among it."""
        query_Bd = embedded.scaled_Bd
        logits_BK = torch.einsum("bd,bkd->bk", query_Bd, embedded.own_BKd.to(query_Bd))
        own_BK = logits_BK.masked_fill(own.rows == PADDING, float("-inf"))
        is_first_BK = own.is_first
        pool_B = embedded.pool_sum(excluded=excluded, groups=groups, chunk=chunk)
        return cls(
            own_BK=own_BK,
            log_z_B=_log_sum(own_BK, is_first_BK, pool_B),
            is_first_BK=is_first_BK,
            num_draws=own.num_draws,
        )

    def log_sum_with(self, pool_B: Tensor, among_BK: Tensor) -> Tensor:
        """[B]: the log of the sum over those own pins that are `among_BK`, each once, and a part of the pool."""
        return _log_sum(self.own_BK, self.is_first_BK & among_BK, pool_B)

    def target_loss(self) -> Tensor:
        """[B]: the cross-entropy of the targets."""
        return self.log_z_B - self.own_BK[:, 0]

    def draws_loss(self) -> Tensor:
        """[B]: the mean cross-entropy of the pins drawn of the advertiser; infinite without any."""
        return self.log_z_B - self.own_BK[:, 1 : 1 + self.num_draws].mean(1)

    def request_loss(self) -> Tensor:
        """[B]: the target's cross-entropy among it and the negatives of its own request alone; 0 without any."""
        local = torch.cat([self.own_BK[:, :1], self.own_BK[:, 1 + self.num_draws :]], dim=1)
        return local.logsumexp(1) - local[:, 0]


def _log_sum(own_BK: Tensor, kept_BK: Tensor, pool_B: Tensor) -> Tensor:
    return torch.cat([own_BK.masked_fill(~kept_BK, float("-inf")), pool_B[:, None]], dim=1).logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class PinShares:
    """How the streams of pins that a pool is filled from are spread over the catalogue; each sums to 1, or is zero.

    trained: [T, N] float32, the pins' shares of the training targets of each task.  served: [N] float32, their shares
    of the impressions that were not engaged.
    """

    trained: Tensor
    served: Tensor

    def to(self, device: torch.device) -> "PinShares":
        """The same on another device."""
        return PinShares(trained=self.trained.to(device), served=self.served.to(device))


def log_expected_count(
    *, rows_P: Tensor, shares: PinShares, in_batch_T: Tensor, num_uniform: int, num_served: int, correction: float = 1.0
) -> Tensor:
    """[P] float32: correction * log c_j, with c_j = (n_b - 1) f_j + n_u / N + n_s g_j, the expected copies of pin j.

    rows_P: [P] int64 pool members. `in_batch_T` ([T] int64) says how many of the pool's n_b in-batch members each task
    has, and with the tasks' shares makes f; one of them is the query's own. n_u members are drawn uniformly from the N
    pins, n_s from g, the served shares.
    """
    num_in_batch = int(in_batch_T.sum())
    num_others_T = in_batch_T.double() * (max(0, num_in_batch - 1) / max(1, num_in_batch))
    count_P = torch.einsum("t,tp->p", num_others_T, shares.trained[:, rows_P].double())
    count_P = count_P + num_uniform / len(shares.served) + num_served * shares.served[rows_P].double()
    return correction * count_P.float().clamp(min=torch.finfo(torch.float32).tiny).log()


def row_weights(
    weight_B: Tensor, task_B: Tensor, *, global_weight_T: Tensor, conversion_share: float | None, world_size: int
) -> Tensor:
    """[B]: what each row's loss is multiplied by, so that their sum is this rank's part of the global mean.

    Each task's rows are weighted among themselves and share what the task has of the loss: `conversion_share` and the
    rest, or in proportion to their weights. A task without weight in this batch leaves its share to the other.
    `global_weight_T` ([T]) sums the weights over all ranks. Scaled by `world_size` because data-parallel training
    averages gradients over ranks: the average of these parts is the exact mean, also where the ranks' weights differ.
    """
    tiny = torch.finfo(weight_B.dtype).tiny
    if conversion_share is None:
        return weight_B * (world_size / global_weight_T.sum().clamp(min=tiny))
    share_T = weight_B.new_tensor([conversion_share, 1 - conversion_share]) * (global_weight_T > 0)
    share_T = share_T / share_T.sum().clamp(min=tiny)
    return weight_B * (world_size * share_T / global_weight_T.clamp(min=tiny))[task_B]
