"""What a training step draws: the pool, each row's own pins, counts as of days. Seeded, and the same on every rank.

All ranks draw with one generator for the global batch and keep their own rows, so that several processes train what
one with the whole batch would.

Shape suffixes: B queries of this rank, K own pins, M draws, T tasks.
"""

from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from convcg.batch import PADDING, ExampleBatch, PinBatch
from convcg.data.encode import PinEncoder
from convcg.model.advertiser import AdvertiserForm, Advertisers, Prototypes
from convcg.model.loss import LossConfig, LossKind, PinShares, row_weights
from convcg.model.step import OwnPins, Pool, Step, StepCounts
from convcg.model.two_tower import mentioned_pins
from convcg.types import TASKS


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that train together."""

    rank: int
    world_size: int

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in their order; every rank has as many."""
        if self.world_size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world_size)]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def summed(self, value: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.world_size > 1:
            torch.distributed.all_reduce(value)
        return value

    def own_part(self, rows: Tensor) -> Tensor:
        """This rank's part of what was drawn for the rows of all ranks."""
        size = len(rows) // self.world_size
        return rows[self.rank * size : (self.rank + 1) * size]


class StepDraws:
    """Makes what a step needs beside its batch."""

    def __init__(
        self,
        pins: PinEncoder,
        shares: PinShares,
        advertisers: Advertisers | None,
        loss: LossConfig,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        """`shares` and `advertisers` are on `device`."""
        self.pins, self.advertisers, self.loss, self.ranks, self.device = pins, advertisers, loss, ranks, device
        self.catalogue = pins.all().to(device) if loss.kind is LossKind.FULL_SOFTMAX else None
        self.served_up_to = shares.served.cpu().double().cumsum(0)

    def __call__(self, batch: ExampleBatch, generator: torch.Generator, *, hard_weight: float) -> tuple[PinBatch, Step]:
        """The pins that take part, and the rest of the step. `generator` is seeded alike on every rank."""
        pool = None if self.catalogue is not None else self._pool(batch, generator)
        own = self._own(batch, generator, with_negatives=hard_weight > 0)
        counts = None
        if self.pins.has_counts:
            assert batch.day is not None, "counts are as of a day, which the batch lacks"
            counts = counts_of_step(self.pins, batch.day, own, pool, self.ranks.gathered(batch.day), generator)
        kept_tables = None
        if self.loss.advertiser.form is AdvertiserForm.PROTOTYPE and self.advertisers is not None:
            kept_tables = Prototypes.kept_tables(len(self.advertisers.usable), generator).to(self.device)
        step = Step(
            own=own,
            pool=pool,
            counts=counts,
            row_weight_B=self._row_weights(batch),
            hard_weight=hard_weight,
            kept_tables_A=kept_tables,
        )
        if pool is None:
            assert self.catalogue is not None
            return self.catalogue, step
        mentioned = mentioned_pins(batch.query, pool.rows, own.rows)
        return self.pins.batch(mentioned.cpu()).to(self.device), step

    def _pool(self, batch: ExampleBatch, generator: torch.Generator) -> Pool:
        in_batch = self.ranks.gathered(batch.target)
        uniform = torch.randint(self.pins.num_pins, (self.loss.num_uniform_negatives,), generator=generator)
        draw = torch.rand(self.loss.num_served_negatives, generator=generator, dtype=torch.float64)
        served = torch.searchsorted(self.served_up_to, draw * self.served_up_to[-1], right=True)
        return Pool(
            rows=torch.cat([in_batch, uniform.to(self.device), served.to(self.device)]),
            num_in_batch=len(in_batch),
            num_served=len(served),
            user=self.ranks.gathered(batch.user),
            task=self.ranks.gathered(batch.query.task),
        )

    def _own(self, batch: ExampleBatch, generator: torch.Generator, *, with_negatives: bool) -> OwnPins:
        columns, num_draws = [batch.target[:, None]], 0
        if self.loss.advertiser.form is AdvertiserForm.SOFT_BAG and self.advertisers is not None:
            num_draws = self.loss.advertiser.draws
            number = len(batch) * self.ranks.world_size
            chance = torch.rand(number, num_draws, generator=generator, dtype=torch.float64)
            advertiser = self.advertisers.of_conversions(batch.query.task, batch.target)
            columns.append(self.advertisers.draw(advertiser, self.ranks.own_part(chance).to(self.device)))
        if with_negatives:
            columns.append(torch.where(batch.negatives == batch.target[:, None], PADDING, batch.negatives))
        return OwnPins(rows=torch.cat(columns, dim=1), num_draws=num_draws)

    def _row_weights(self, batch: ExampleBatch) -> Tensor:
        task_B = batch.query.task
        global_T = self.ranks.summed(batch.weight.new_zeros(len(TASKS)).index_add(0, task_B, batch.weight))
        return row_weights(
            batch.weight,
            task_B,
            global_weight_T=global_T,
            conversion_share=self.loss.conversion_share,
            world_size=self.ranks.world_size,
        )


def counts_of_step(
    pins: PinEncoder, day_B: Tensor, own: OwnPins, pool: Pool | None, days: Tensor, generator: torch.Generator
) -> StepCounts:
    """What is counted of the pins of a step: of a row's own pins as of its day, of in-batch members as of theirs, of
    all others as of one day that is drawn from `days`, those of all ranks' batches together.

    No positive is seen as of a later day than its query's, or its count would hold the answer.
    """
    day = int(days[torch.randint(len(days), (), generator=generator)])
    if pool is None:
        others = pins.all_counts(day)
    else:
        of_pool = torch.cat([days.cpu(), torch.full((len(pool.rows) - pool.num_in_batch,), day)])
        others = pins.counts(pool.rows.cpu(), of_pool)
    rows = torch.where(own.rows == PADDING, own.rows[:, :1], own.rows).cpu()
    counted = pins.counts(rows.flatten(), day_B.cpu().repeat_interleave(rows.shape[1]))
    assert others is not None
    assert counted is not None
    device = own.rows.device
    return StepCounts(own=counted.view(*rows.shape, -1).to(device), others=others.to(device))
