"""The training objective as one module, so that data-parallel training can wrap it: a batch in, a loss a row out.

Shape suffixes: B queries, P pins, M pool, d width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convcg.batch import ExampleBatch, PinBatch
from convcg.model.loss import LossConfig, full_softmax_loss, log_expected_count, sampled_softmax_loss
from convcg.model.two_tower import TwoTower


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The shared negatives of a step: pin rows [M] int64; the first `num_in_batch` are all ranks' positives."""

    rows: Tensor
    num_in_batch: int


class Objective(nn.Module):
    """Both towers under the configured loss. `frequency_N`: [N] each pin's share of the training targets."""

    frequency_N: Tensor

    def __init__(self, towers: TwoTower, config: LossConfig, frequency_N: Tensor) -> None:
        super().__init__()
        self.towers, self.config = towers, config
        self.register_buffer("frequency_N", frequency_N, persistent=False)

    def forward(self, batch: ExampleBatch, pins: PinBatch, pool: Pool | None) -> Tensor:
        """[B] float32 losses.

        With `pool` None (the full softmax) `pins` is the whole catalogue in row order; else the sorted, distinct pins
        that batch and pool mention.
        """
        inputs_Pd = self.towers.pin.inputs(pins)
        if pool is None:
            return full_softmax_loss(
                query_Bd=self.towers.query(batch.query, inputs_Pd),
                pin_Nd=self.towers.pin(inputs_Pd),
                target_B=batch.target,
                temperature=self.towers.temperature,
            )
        pin_Pd = self.towers.pin(inputs_Pd)
        return sampled_softmax_loss(
            query_Bd=self.towers.query(batch.query, inputs_Pd, pins.rows),
            positive_Bd=F.embedding(torch.searchsorted(pins.rows, batch.target), pin_Pd),
            pool_Pd=F.embedding(torch.searchsorted(pins.rows, pool.rows), pin_Pd),
            log_count_P=log_expected_count(
                rows_P=pool.rows,
                frequency_N=self.frequency_N,
                num_in_batch=pool.num_in_batch,
                num_uniform=len(pool.rows) - pool.num_in_batch,
                correction=self.config.correction,
            ),
            drop_BP=batch.target[:, None] == pool.rows[None, :],
            temperature=self.towers.temperature,
        )
