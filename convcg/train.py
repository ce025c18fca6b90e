"""The training loop. It knows no cluster: where it runs, how it reports and what feeds it are given to it.

Exact resume: a checkpoint holds the position in the data (epoch and batches), and every random draw is seeded by the
step, so that a run that was interrupted ends with the same weights, bit for bit, as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from convcg.batch import ExampleBatch
from convcg.checkpoint import Progress, read_checkpoint, write_checkpoint
from convcg.data.encode import PinEncoder
from convcg.errors import TrainingError
from convcg.model.advertiser import Advertisers
from convcg.model.loss import LossConfig, PinShares
from convcg.model.objective import Objective
from convcg.model.two_tower import TwoTower
from convcg.setting import Settings
from convcg.train_step import Ranks, StepDraws
from convcg.types import Task

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_STEP_SEED_STRIDE = 1_000_003  # a prime, so that (seed, step, rank) do not collide for neighbouring seeds


class Precision(StrEnum):
    """What the towers compute in; weights, logits and sums are float32 always."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Keep(StrEnum):
    """Which checkpoint becomes the model."""

    BEST = "best"  # the one with the best validation
    LAST = "last"  # where the learning rate falls to the end: there validation chooses by its noise (LOG.md)


class TrainConfig(Settings):
    """How long, how fast and on what the towers are trained."""

    epochs: int = Field(default=5, ge=1)
    #: Examples a step, over all workers.
    batch_size: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    #: Steps over which the learning rate rises from zero.
    warmup_steps: int = Field(default=100, ge=0)
    #: The part of the learning rate that is left at the end, to which it falls along a cosine; 1 for a constant one.
    final_learning_rate_share: float = Field(default=1.0, ge=0, le=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    precision: Precision = Precision.FLOAT32
    seed: int = Field(default=0, ge=0)
    checkpoint_every_steps: int = Field(default=100, ge=1)
    log_every_steps: int = Field(default=20, ge=1)
    #: Task -> its share of the rows of every batch; {} for as many of each as there are.
    shares: dict[Task, Share] = {}
    #: With `shares`: how often an epoch may repeat the examples of the rarer task.
    max_repeats: int = Field(default=4, ge=1)
    #: Examples of a task that are mixed before they are dealt into batches, on each worker. A task that has no more
    #: than these is held in memory after the first pass.
    shuffle_buffer: int = Field(default=65_536, ge=1)
    #: Validation queries after each epoch; 0 for none, and the last checkpoint as the model.
    validation_queries: int = Field(default=5_000, ge=0)
    keep: Keep = Keep.BEST
    num_workers: int = Field(default=1, ge=1)
    use_gpu: bool = False
    #: Logical CPUs that a worker reserves; some must be left for reading data.
    cpus_per_worker: float = Field(default=1.0, gt=0)
    #: Threads that a worker computes with; None for its share of the machine.
    threads_per_worker: int | None = Field(default=None, ge=1)
    #: How often a run is restarted from its last checkpoint when workers are lost.
    max_failures: int = Field(default=3, ge=0)


class Context(Protocol):
    """Where the loop runs."""

    rank: int
    world_size: int
    device: torch.device

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of a step; only rank 0 is asked to."""

    def save(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        """Make a checkpoint durable; every rank is asked at the same step, rank 0 writes it with `write(directory)`.

        The one with the largest `score` in its metrics, of several the last, is the model.
        """


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is trained on.

    batches: this rank's batches of an epoch, the same ones in the same order each time it is called with that epoch.
    num_batches: how many an epoch has; schedules are spread over them.
    shares: how training targets, and served pins that were not engaged, are spread over the catalogue.
    advertisers: who advertises which pin, where the loss asks for it.
    validate: recall@100 of the towers on held-out queries; asked of rank 0 alone.
    """

    pins: PinEncoder
    shares: PinShares
    batches: Callable[[int], Iterable[ExampleBatch]]
    num_batches: int
    advertisers: Advertisers | None = None
    validate: Callable[[TwoTower], float] | None = None


def train(
    towers: TwoTower, config: TrainConfig, loss: LossConfig, task: Trained, context: Context, resume: Path | None
) -> None:
    """Train the towers in place, checkpointing through `context`; continue from the checkpoint at `resume`.

    Raises:
        TrainingError: the loss is no longer finite, there is no full batch, there are no served negatives to draw, or
            the checkpoint does not fit.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a tenth of a step
    if loss.num_served_negatives and not task.shares.served.any():
        raise TrainingError(
            f"loss.num_served_negatives is {loss.num_served_negatives}, but no impression was served and not engaged. "
            "Set it to 0, or look at the impressions on the data card."
        )
    device = context.device
    objective = Objective(
        towers.to(device),
        loss,
        task.shares.to(device),
        None if task.advertisers is None else task.advertisers.to(device),
        bfloat16=config.precision is Precision.BFLOAT16,
    )
    optimizer = optimizer_of(objective, config)
    progress = Progress() if resume is None else read_checkpoint(resume, objective, optimizer)
    stepper = _Stepper(objective, optimizer, config, loss, task, context)
    for epoch in range(progress.epoch, config.epochs):
        progress = stepper.run_epoch(epoch, progress)
    if progress.step == 0:
        raise TrainingError(
            f"there is no full batch of {config.batch_size} training examples. Lower train.batch_size, or check split, "
            "examples.weights and the events' time range."
        )


def optimizer_of(objective: Objective, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW. Decay would pull the temperature towards 1, which is far out of its bounds."""
    temperature = objective.towers.log_temperature
    others = [parameter for parameter in objective.parameters() if parameter is not temperature]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": [temperature], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """The learning rate of a step (counted from 1): up in a straight line, then down along half a cosine."""
    warmth = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    after = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    cooling = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, after))))
    floor = config.final_learning_rate_share
    return config.learning_rate * warmth * (floor + (1 - floor) * cooling)


def hard_weight(loss: LossConfig, step: int, num_steps: int) -> float:
    """The weight of the loss over the own request's negatives at a step (counted from 1)."""
    done = step / max(1, num_steps)
    return loss.hard_weight * max(0.0, min(1.0, (done - loss.hard_from) / (1 - loss.hard_from)))


class _Stepper:
    """The state of a running loop that is not in a checkpoint: modules, and the clock behind the speed metrics."""

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        loss: LossConfig,
        task: Trained,
        context: Context,
    ) -> None:
        self.objective, self.towers, self.optimizer = objective, objective.towers, optimizer
        self.config, self.loss, self.task, self.context = config, loss, task, context
        self.ranks = Ranks(context.rank, context.world_size)
        self.num_steps = config.epochs * task.num_batches
        self.module: nn.Module = objective
        if context.world_size > 1:
            devices = [context.device.index] if context.device.type == "cuda" else None
            self.module = DistributedDataParallel(objective, device_ids=devices)
        self.draws = StepDraws(task.pins, objective.shares, objective.advertisers, loss, self.ranks, context.device)
        self.recent: list[Tensor] = []
        self.examples, self.since, self.waited = 0, time.monotonic(), 0.0

    def run_epoch(self, epoch: int, progress: Progress) -> Progress:
        done = progress.batches if epoch == progress.epoch else 0
        step = progress.step
        batches = iter(self.task.batches(epoch))
        for _ in range(done):
            next(batches, None)
        while (batch := self._next(batches)) is not None:
            step, done = step + 1, done + 1
            self.recent.append(self._step(batch.to(self.context.device), step))
            self.examples += len(batch) * self.context.world_size
            if step % self.config.log_every_steps == 0:
                self._log(step, epoch)
            if step % self.config.checkpoint_every_steps == 0:
                self._save(Progress(epoch=epoch, batches=done, step=step), recall=-1.0)
        recall = self._validate()
        if self.context.rank == 0:
            self.context.log(step, {"epoch": epoch, "validation_recall_at_100": recall})
        progress = Progress(epoch=epoch + 1, batches=0, step=step)
        if done:
            self._save(progress, recall=recall)
        return progress

    def _next(self, batches: Iterable[ExampleBatch]) -> ExampleBatch | None:
        started = time.monotonic()
        batch = next(iter(batches), None)
        self.waited += time.monotonic() - started
        return batch

    def _step(self, batch: ExampleBatch, step: int) -> Tensor:
        torch.manual_seed(self.config.seed * _STEP_SEED_STRIDE + step * self.context.world_size + self.context.rank)
        self.module.train()
        # Every rank draws the same: one pool, whose expected counts are known, and one day.
        generator = torch.Generator().manual_seed(self.config.seed * _STEP_SEED_STRIDE + step)
        pins, rest = self.draws(batch, generator, hard_weight=hard_weight(self.loss, step, self.num_steps))
        loss: Tensor = self.module(batch, pins, rest)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), self.config.max_gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step, self.num_steps)
        self.optimizer.step()
        self.towers.bound_temperature()
        return loss.detach()

    def _validate(self) -> float:
        if not self.config.validation_queries:
            return -1.0
        recall = self.task.validate(self.towers) if self.task.validate else 0.0
        return float(self.ranks.summed(torch.tensor(recall, dtype=torch.float64, device=self.context.device)))

    def _log(self, step: int, epoch: int) -> None:
        loss = self._mean_loss(step)
        seconds = time.monotonic() - self.since
        if self.context.rank == 0:
            self.context.log(
                step,
                {
                    "epoch": epoch,
                    "loss": loss,
                    "temperature": float(self.towers.temperature.detach()),
                    "examples_per_second": self.examples / seconds,
                    "data_wait_share": self.waited / seconds,
                },
            )
        self.examples, self.since, self.waited = 0, time.monotonic(), 0.0

    def _mean_loss(self, step: int) -> float:
        if not self.recent:
            return 0.0
        # Of all ranks, so that all of them go on or none does.
        loss = float(self.ranks.summed(torch.stack(self.recent).mean())) / self.context.world_size
        self.recent = []
        if not torch.isfinite(torch.tensor(loss)):
            raise TrainingError(
                f"the loss is {loss} at step {step}. Lower train.learning_rate (now {self.config.learning_rate}) "
                "or look for extreme values in the number and vector features."
            )
        return loss

    def _save(self, progress: Progress, *, recall: float) -> None:
        if self.recent:
            self._mean_loss(progress.step)  # a checkpoint is never written after a loss that is not finite
        step = float(progress.step)
        metrics = {
            "step": step,
            "epoch": float(progress.epoch),
            "validation_recall_at_100": recall,
            "score": recall if self.config.keep is Keep.BEST else step,
        }
        self.context.save(
            metrics, lambda directory: write_checkpoint(directory, self.objective, self.optimizer, progress)
        )
