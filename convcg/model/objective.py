"""The training objective as one module, so that data-parallel training can wrap it: a batch in, a loss out.

Shape suffixes: B queries, K own pins, P pins, D pin inputs, M pool, A advertisers, d width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convcg.batch import PADDING, ExampleBatch, PinBatch
from convcg.model.advertiser import NO_ROW_GROUP, AdvertiserForm, Advertisers, Prototypes
from convcg.model.log_sum_exp import Excluded, Groups, equal_pairs, pool_log_sum_exp
from convcg.model.loss import Embedded, LossConfig, PinShares, Softmax, log_expected_count, width_weights
from convcg.model.step import Step
from convcg.model.towers import HeadKind
from convcg.model.two_tower import TwoTower
from convcg.types import TASK_CODE, TASKS, Task


class Objective(nn.Module):
    """Both towers under the configured loss, and what only the loss trains."""

    def __init__(
        self,
        towers: TwoTower,
        config: LossConfig,
        shares: PinShares,
        advertisers: Advertisers | None = None,
        *,
        bfloat16: bool = False,
    ) -> None:
        """`shares` and `advertisers` are on the device of the towers. `bfloat16`: the towers compute in it; logits and
        their sums stay float32.

        Raises:
            ConfigError: the loss does not fit the model.
        """
        super().__init__()
        self.towers, self.config, self.shares, self.advertisers = towers, config, shares, advertisers
        self.in_bfloat16 = bfloat16
        self.widths = width_weights(towers.config, config)
        assert advertisers is not None or not config.names_advertisers, "the loss needs the advertisers of pins"
        self.prototypes: Prototypes | None = None
        if config.advertiser.form is AdvertiserForm.PROTOTYPE and advertisers is not None:
            self.prototypes = Prototypes(len(advertisers.usable), towers.config.dim).to(shares.served.device)

    def own_state(self) -> dict[str, Tensor]:
        """What the loss trains beside the towers; a checkpoint must hold it, a bundle must not."""
        return {} if self.prototypes is None else self.prototypes.state_dict()

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `own_state` returned.

        Raises:
            RuntimeError: it is another loss's.
        """
        (nn.Module() if self.prototypes is None else self.prototypes).load_state_dict(state)

    def forward(self, batch: ExampleBatch, pins: PinBatch, step: Step) -> Tensor:
        """The sum of the rows' losses times their weights, a float32 scalar.

        `pins`: the whole catalogue where `step.pool` is None, else every pin that is mentioned; rows sorted, distinct.
        """
        with self._precision():
            inputs_PD = self.towers.pin.inputs(pins)
            seen_PD = self.towers.pin.seen(inputs_PD, pins.rows)
            query_Bd = self.towers.query(batch.query, seen_PD, None if step.pool is None else pins.rows)
        total = step.row_weight_B.new_zeros(())
        for task, rows_B in self._softmaxes(batch.query.task):
            part = step.of_task(rows_B, task)
            own_BKd, pool_Md = self._embedded(inputs_PD, pins, part, Task.CONVERSION if task is None else task)
            embedded = Embedded(
                query_Bd=query_Bd[rows_B],
                own_BKd=own_BKd,
                pool_Pd=pool_Md,
                offset_P=self._offset(part),
                temperature=self.towers.temperature,
            )
            total = total + self._loss(embedded, part, batch.user[rows_B], batch.query.task[rows_B], pins.rows)
        return total

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.shares.served.device.type, torch.bfloat16, enabled=self.in_bfloat16)

    def _softmaxes(self, task_B: Tensor) -> Iterator[tuple[Task | None, Tensor]]:
        """Each softmax's task (None for all of them) and its rows. A head without rows still takes part, or
        data-parallel training would wait for its gradient.
        """
        if self.towers.config.heads is HeadKind.SINGLE:
            yield None, torch.arange(len(task_B), device=task_B.device)
            return
        for task in TASKS:
            yield task, torch.nonzero(task_B == TASK_CODE[task]).flatten()

    def _embedded(self, inputs_PD: Tensor, pins: PinBatch, step: Step, head: Task) -> tuple[Tensor, Tensor]:
        """Own pins [B, K, d] and pool [M, d]; what stands for no pin is the row's target."""
        own_BK = torch.where(step.own.rows == PADDING, step.own.rows[:, :1], step.own.rows)
        with self._precision():
            if step.pool is None:
                pool_Md = self.towers.pin(inputs_PD, None if step.counts is None else step.counts.others, head)
                if step.counts is None:
                    return F.embedding(own_BK, pool_Md), pool_Md
                own_KD = F.embedding(own_BK.flatten(), inputs_PD)
                own_Kd = self.towers.pin(own_KD, step.counts.own.flatten(0, 1), head)
                return own_Kd.unflatten(0, own_BK.shape), pool_Md
            # All at once; one pin may stand for several days, and is embedded once where nothing is counted.
            rows, place = torch.cat([own_BK.flatten(), step.pool.rows]), None
            counts = None
            if step.counts is None:
                rows, place = torch.unique(rows, return_inverse=True)
            else:
                counts = torch.cat([step.counts.own.flatten(0, 1), step.counts.others])
            pin_d = self.towers.pin(F.embedding(torch.searchsorted(pins.rows, rows), inputs_PD), counts, head)
            own_Kd, pool_Md = (pin_d if place is None else F.embedding(place, pin_d)).tensor_split([own_BK.numel()])
            return own_Kd.unflatten(0, own_BK.shape), pool_Md

    def _offset(self, step: Step) -> Tensor | None:
        if step.pool is None:
            return None
        return -log_expected_count(
            rows_P=step.pool.rows,
            shares=self.shares,
            in_batch_T=step.pool.in_batch_T,
            num_uniform=step.pool.num_uniform,
            num_served=step.pool.num_served,
            correction=self.config.correction,
        )

    def _loss(self, embedded: Embedded, step: Step, user_B: Tensor, task_B: Tensor, pin_rows_P: Tensor) -> Tensor:
        excluded = self._excluded(step, user_B)
        members = pin_rows_P if step.pool is None else step.pool.rows
        advertiser_B, groups = self._advertisers(task_B, step.own.rows[:, 0], members)
        bought = torch.nonzero(advertiser_B != NO_ROW_GROUP).flatten()
        prototypes_Ad = self._prototypes(embedded.pool_Pd, members, step)
        weight_B, total = step.row_weight_B, step.row_weight_B.new_zeros(())
        for width, share in self.widths.items():
            part = embedded.prefix(width)
            softmax = Softmax.of(part, step.own, excluded=excluded, groups=groups, chunk=self.config.chunk)
            total = total + share * (weight_B * softmax.target_loss()).sum()
            if step.hard_weight:
                total = total + share * step.hard_weight * (weight_B * softmax.request_loss()).sum()
            match self.config.advertiser.form:
                case AdvertiserForm.NONE:
                    continue
                case AdvertiserForm.SOFT_BAG:
                    loss = softmax.draws_loss()[bought]
                case AdvertiserForm.PROTOTYPE:
                    assert prototypes_Ad is not None
                    loss = self._prototype_loss(part, bought, advertiser_B, prototypes_Ad[:, :width])
                case AdvertiserForm.MARGINAL_BAG:
                    loss = self._bag_loss(part, softmax, step, excluded, members, advertiser_B)[bought]
            total = total + share * self.config.advertiser.weight * (weight_B[bought] * loss).sum()
        return total

    def _excluded(self, step: Step, user_B: Tensor) -> Excluded:
        if step.pool is None:  # a row of the catalogue is its own place
            query, column = torch.nonzero(step.own.is_first, as_tuple=True)
            return Excluded.of((query, step.own.rows[query, column]))
        pairs = [equal_pairs(step.own.rows, step.pool.rows)]
        if self.config.mask_same_user:
            pairs.append(equal_pairs(user_B[:, None], step.pool.user))
        return Excluded.of(*pairs)

    def _advertisers(self, task_B: Tensor, target_B: Tensor, members: Tensor) -> tuple[Tensor, Groups | None]:
        """The usable advertiser of each conversion, and what the mask of same advertisers leaves out."""
        if self.advertisers is None:
            return torch.full_like(task_B, NO_ROW_GROUP), None
        usable_B = self.advertisers.of_conversions(task_B, target_B)
        if not self.config.mask_same_advertiser:
            return usable_B, None
        is_bought = task_B == TASK_CODE[Task.CONVERSION]
        any_B = self.advertisers.of_pin[target_B]
        of_query = torch.where(is_bought & (any_B >= 0), any_B, NO_ROW_GROUP)
        return usable_B, Groups(of_query=of_query, of_pool=self.advertisers.of_pin[members], only=False)

    def _prototypes(self, pool_Md: Tensor, members: Tensor, step: Step) -> Tensor | None:
        if self.prototypes is None:
            return None
        assert self.advertisers is not None
        assert step.kept_tables_A is not None
        prototypes_Ad: Tensor = self.prototypes(pool_Md, self.advertisers.in_bag[members], step.kept_tables_A)
        return prototypes_Ad

    def _prototype_loss(self, part: Embedded, bought: Tensor, advertiser_B: Tensor, prototypes_Ad: Tensor) -> Tensor:
        """[bought]: the cross-entropy of the conversion's advertiser among all usable ones."""
        assert self.advertisers is not None
        unit_Ad = F.normalize(prototypes_Ad, dim=-1)
        query_Bd = part.query_Bd[bought].to(unit_Ad) / part.temperature
        absent = torch.zeros_like(unit_Ad[:, 0]).masked_fill(~self.advertisers.usable, float("-inf"))
        own = F.embedding(advertiser_B[bought], unit_Ad)
        log_z = pool_log_sum_exp(query_Bd, unit_Ad, offset_P=absent, chunk=self.config.chunk)
        return log_z - (query_Bd * own).sum(-1)

    def _bag_loss(
        self, part: Embedded, softmax: Softmax, step: Step, excluded: Excluded, members: Tensor, advertiser_B: Tensor
    ) -> Tensor:
        """[B]: the cross-entropy of the whole bag of the row's advertiser, of which the target is always one."""
        assert self.advertisers is not None
        groups = Groups(of_query=advertiser_B, of_pool=self.advertisers.in_bag[members], only=True)
        pool_B = part.pool_sum(excluded=excluded, groups=groups, chunk=self.config.chunk)
        is_in = self.advertisers.in_bag[step.own.rows.clamp(min=0)] == advertiser_B[:, None]
        is_in[:, 0] = True
        return softmax.log_z_B - softmax.log_sum_with(pool_B, is_in)
