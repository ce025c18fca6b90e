"""What a training step draws and knows beside its batch of examples.

Shape suffixes: B queries, K own pins, M pool, N catalogue, C counts, A advertisers.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convcg.batch import PADDING
from convcg.types import TASK_CODE, TASKS, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPins:
    """What each row is compared with by itself: [B, K] int64 pin rows, `PADDING` where there is none.

    The first column is the target, the next `num_draws` are drawn of its advertiser, the rest are negatives of its
    request. A pin may stand in a row several times.
    """

    rows: Tensor
    num_draws: int = 0

    @property
    def is_first(self) -> Tensor:
        """[B, K] bool: True where a pin stands for the first time in its row."""
        repeats = (self.rows[:, :, None] == self.rows[:, None, :]).tril(-1).any(-1)
        return ~repeats & (self.rows != PADDING)

    def of(self, rows_B: Tensor) -> "OwnPins":
        """Those of some rows."""
        return replace(self, rows=self.rows[rows_B])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The shared negatives of a step: pin rows [M] int64; the first `num_in_batch` are all ranks' positives, the last
    `num_served` were served and not engaged, those between are drawn uniformly.

    user, task: [num_in_batch] int64 of the positives' rows.
    """

    rows: Tensor
    num_in_batch: int
    num_served: int
    user: Tensor
    task: Tensor

    @property
    def num_uniform(self) -> int:
        """How many are drawn uniformly."""
        return len(self.rows) - self.num_in_batch - self.num_served

    @property
    def in_batch_T(self) -> Tensor:
        """[T] int64: how many of the positives each task has."""
        return torch.bincount(self.task, minlength=len(TASKS))

    def of_task(self, task: Task) -> tuple["Pool", Tensor]:
        """The same pool with the positives of one task alone, and the places that its members had in the whole one."""
        mine = torch.nonzero(self.task == TASK_CODE[task]).flatten()
        drawn = torch.arange(self.num_in_batch, len(self.rows), device=self.rows.device)
        places = torch.cat([mine, drawn])
        return (
            replace(self, rows=self.rows[places], num_in_batch=len(mine), user=self.user[mine], task=self.task[mine]),
            places,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """log(1 + count) of a step's pins, float32, where features count something.

    own: [B, K, C] as of each row's own day.  others: [N, C] of the catalogue, or [M, C] of the pool's members.
    """

    own: Tensor
    others: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Own pins, pool (None for the whole catalogue) and counts of a step.

    row_weight_B: [B] float32, see `convcg.model.loss.row_weights`.  hard_weight: of the loss over the negatives of the
    own request, at this step.  kept_tables_A: [A] bool, see `convcg.model.advertiser.Prototypes`.
    """

    own: OwnPins
    pool: Pool | None
    counts: StepCounts | None
    row_weight_B: Tensor
    hard_weight: float = 0.0
    kept_tables_A: Tensor | None = None

    def of_task(self, rows_B: Tensor, task: Task | None) -> "Step":
        """The part of the rows at `rows_B`, with the in-batch pool of their task; None: of all tasks."""
        own, pool, counts = self.own.of(rows_B), self.pool, self.counts
        others = None if counts is None else counts.others
        if pool is not None and task is not None:
            pool, places = pool.of_task(task)
            others = None if others is None else others[places]
        return replace(
            self,
            own=own,
            pool=pool,
            counts=None if counts is None or others is None else StepCounts(own=counts.own[rows_B], others=others),
            row_weight_B=self.row_weight_B[rows_B],
        )
