"""The training objective as one module, so that data-parallel training can wrap it: a batch in, a loss a row out.

Shape suffixes: B queries, P pins, M pool, d width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convcg.batch import ExampleBatch, PinBatch
from convcg.model.loss import LossConfig, PinShares, full_softmax_loss, log_expected_count, sampled_softmax_loss
from convcg.model.two_tower import TwoTower


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The shared negatives of a step: pin rows [M] int64; the first `num_in_batch` are all ranks' positives, the last
    `num_served` were served and not engaged, those between are drawn uniformly.
    """

    rows: Tensor
    num_in_batch: int
    num_served: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """log(1 + count) of a step's pins, float32, where features count something.

    targets: [B, C] as of each row's own day.  others: [N, C] of the catalogue, or [M, C] of the pool's members.
    """

    targets: Tensor
    others: Tensor


class Objective(nn.Module):
    """Both towers under the configured loss."""

    trained_N: Tensor
    served_N: Tensor

    def __init__(self, towers: TwoTower, config: LossConfig, shares: PinShares) -> None:
        super().__init__()
        self.towers, self.config = towers, config
        self.register_buffer("trained_N", shares.trained, persistent=False)
        self.register_buffer("served_N", shares.served, persistent=False)

    def forward(
        self, batch: ExampleBatch, pins: PinBatch, pool: Pool | None, counts: StepCounts | None = None
    ) -> Tensor:
        """[B] float32 losses.

        With `pool` None (the full softmax) `pins` is the whole catalogue in row order; else the sorted, distinct pins
        that batch and pool mention. `counts` are there where features of pins count something.
        """
        inputs_Pd = self.towers.pin.inputs(pins)
        if pool is None:
            positive_Bd = None
            if counts is not None:
                positive_Bd = self.towers.pin(F.embedding(batch.target, inputs_Pd), counts.targets)
            return full_softmax_loss(
                query_Bd=self.towers.query(batch.query, inputs_Pd),
                pin_Nd=self.towers.pin(inputs_Pd, None if counts is None else counts.others),
                target_B=batch.target,
                temperature=self.towers.temperature,
                positive_Bd=positive_Bd,
            )
        own_B, member_M = torch.searchsorted(pins.rows, batch.target), torch.searchsorted(pins.rows, pool.rows)
        if counts is None:
            pin_Pd = self.towers.pin(inputs_Pd)
            positive_Bd, pool_Md = F.embedding(own_B, pin_Pd), F.embedding(member_M, pin_Pd)
        else:  # one pin may stand for several days
            positive_Bd = self.towers.pin(F.embedding(own_B, inputs_Pd), counts.targets)
            pool_Md = self.towers.pin(F.embedding(member_M, inputs_Pd), counts.others)
        return sampled_softmax_loss(
            query_Bd=self.towers.query(batch.query, inputs_Pd, pins.rows),
            positive_Bd=positive_Bd,
            pool_Pd=pool_Md,
            log_count_P=log_expected_count(
                rows_P=pool.rows,
                shares=PinShares(trained=self.trained_N, served=self.served_N),
                num_in_batch=pool.num_in_batch,
                num_uniform=len(pool.rows) - pool.num_in_batch - pool.num_served,
                num_served=pool.num_served,
                correction=self.config.correction,
            ),
            drop_BP=batch.target[:, None] == pool.rows[None, :],
            temperature=self.towers.temperature,
        )
