"""What a training step costs: beside a two-tower in plain PyTorch, how the loss grows with the catalogue, and where
the time of a step goes.

    python -m benchmarks.step speed      # examples a second, both, in turns
    python -m benchmarks.step loss       # seconds and memory of the loss alone, chunked and whole
    python -m benchmarks.step profile    # torch's profiler on one step

The plain two-tower is what one writes without this project: the same tables, MLPs, history mean and sampled softmax
(in-batch and uniform, logQ correction), and nothing else; with AdamW as it comes, and with the fused one that we use.
All see the same batches in turns, several times. Times are of the processor, not the clock, so that a busy machine
disturbs them little; read the ratios all the same.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from convcg.batch import PADDING, ExampleBatch, QueryBatch
from convcg.data.encode import PinEncoder
from convcg.data.tables import RowTable
from convcg.features import FeatureShape, FeatureShapes, Kind
from convcg.model.log_sum_exp import Excluded, pool_log_sum_exp
from convcg.model.loss import LossConfig, LossKind, PinShares
from convcg.model.objective import Objective
from convcg.model.towers import TowerConfig
from convcg.model.two_tower import ModelConfig, TwoTower
from convcg.train import TrainConfig, optimizer_of
from convcg.train_step import Ranks, StepDraws
from convcg.types import ACTIONS, SURFACES

DIM, HIDDEN, BATCH, HISTORY, NUM_UNIFORM = 128, 256, 1024, 50, 4096
TEMPERATURE = 0.07

Pins = Annotated[int, typer.Option(help="Pins of the catalogue.")]
Repetitions = Annotated[int, typer.Option(help="Measured steps of each, in turns.")]
Threads = Annotated[int, typer.Option(help="Threads that torch computes with.")]

app = typer.Typer(add_completion=False, help="What a training step costs.")


def examples(num_pins: int, seed: int) -> ExampleBatch:
    """A batch with full histories and nothing else known."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    query = QueryBatch(
        task=torch.zeros(BATCH, dtype=torch.int64),
        surface=drawn(len(SURFACES), BATCH),
        subject_pin=torch.full((BATCH,), PADDING),
        query_words=torch.full((BATCH, 0), PADDING),
        history_pin=drawn(num_pins, BATCH, HISTORY),
        history_action=drawn(len(ACTIONS), BATCH, HISTORY),
        history_surface=drawn(len(SURFACES), BATCH, HISTORY),
        history_age=torch.rand(BATCH, HISTORY, generator=generator) * 1e6,
        history_dwell=torch.full((BATCH, HISTORY), float("nan")),
        features={},
    )
    return ExampleBatch(
        query=query,
        target=drawn(num_pins, BATCH),
        weight=torch.ones(BATCH),
        user=torch.arange(BATCH),
        negatives=torch.full((BATCH, 0), PADDING),
    )


class PlainTwoTower(nn.Module):
    """The two-tower of a tutorial."""

    def __init__(self, num_pins: int) -> None:
        super().__init__()
        self.pins = nn.Embedding(num_pins, DIM)
        self.surfaces = nn.Embedding(len(SURFACES), DIM)
        self.actions = nn.Embedding(len(ACTIONS), 1)
        self.query_layers, self.pin_layers = (
            nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, HIDDEN), nn.GELU(), nn.Dropout(0.1), nn.Linear(HIDDEN, DIM))
            for _ in range(2)
        )

    def pin(self, rows: Tensor) -> Tensor:
        """[P, d]."""
        x = self.pins(rows)
        return F.normalize(x + self.pin_layers(x), dim=-1)

    def query(self, query: QueryBatch) -> Tensor:
        """[B, d]."""
        weight = self.actions(query.history_action).exp()
        x = F.normalize((self.pins(query.history_pin) * weight).mean(1), dim=-1) + self.surfaces(query.surface)
        return F.normalize(x + self.query_layers(x), dim=-1)

    def loss(self, batch: ExampleBatch, share_N: Tensor) -> Tensor:
        """The sampled softmax with in-batch and uniform negatives, its logits a matrix of queries times pool."""
        num_pins = len(share_N)
        rows = torch.cat([batch.target, torch.randint(num_pins, (NUM_UNIFORM,))])
        query, pool = self.query(batch.query), self.pin(rows)
        count = (BATCH - 1) * share_N[rows] + NUM_UNIFORM / num_pins
        logits = query @ pool.T / TEMPERATURE
        own = logits.diagonal()
        negative = (logits - count.log()).masked_fill(batch.target[:, None] == rows[None, :], float("-inf"))
        return (torch.cat([own[:, None], negative], 1).logsumexp(1) - own).mean()


@dataclass(frozen=True, slots=True)
class Stepper:
    """A step of training: a batch in, weights changed."""

    loss_of: Callable[[ExampleBatch, int], Tensor]
    module: nn.Module
    optimizer: torch.optim.Optimizer

    def __call__(self, batch: ExampleBatch, number: int) -> float:
        """Processor seconds of one step."""
        started = time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(batch, number)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        return time.process_time() - started


def plain(num_pins: int, *, fused: bool) -> Stepper:
    """The plain two-tower."""
    model, share = PlainTwoTower(num_pins), torch.full((num_pins,), 1 / num_pins)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    return Stepper(lambda batch, _: model.loss(batch, share), model, optimizer)


def ours(num_pins: int, loss: LossConfig) -> Stepper:
    """This project's towers and objective, as `convcg.train` runs them."""
    shapes = FeatureShapes(pin=(FeatureShape(name="pin_id", kind=Kind.ID, size=num_pins),), user=())
    tower = TowerConfig(hidden=(HIDDEN,))
    towers = TwoTower(ModelConfig(dim=DIM, query_tower=tower, pin_tower=tower, num_query_words=16), shapes)
    share = torch.full((num_pins,), 1 / num_pins)
    shares = PinShares(trained=share.expand(2, -1), served=share)
    encoder = PinEncoder(RowTable(pa.table({"pin_id": [f"{row:09d}" for row in range(num_pins)]})), shapes.pin)
    objective = Objective(towers, loss, shares)
    draws = StepDraws(encoder, shares, None, loss, Ranks(0, 1), torch.device("cpu"))

    def loss_of(batch: ExampleBatch, number: int) -> Tensor:
        pins, step = draws(batch, torch.Generator().manual_seed(number), hard_weight=0.0)
        total: Tensor = objective(batch, pins, step)
        return total

    return Stepper(loss_of, objective, optimizer_of(objective, TrainConfig()))


def _set_up(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)  # as `convcg.train` does
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _median(seconds: list[float]) -> float:
    return statistics.median(seconds)


@app.command()
def speed(pins: Pins = 100_000, repetitions: Repetitions = 15, threads: Threads = 1) -> None:
    """Examples a second and core of a whole step."""
    _set_up(threads)
    sampled = LossConfig(kind=LossKind.SAMPLED_SOFTMAX, num_uniform_negatives=NUM_UNIFORM)
    steppers = {
        "convcg": ours(pins, sampled),
        "plain": plain(pins, fused=False),
        "plain, fused": plain(pins, fused=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for number in range(repetitions + 2):
        batch = examples(pins, number)
        for name, stepper in steppers.items():
            seconds[name].append(stepper(batch, number))
    for name, each in seconds.items():
        low, middle, high = statistics.quantiles([BATCH / one for one in each[2:]], n=4)
        ratios = [one / our for one, our in zip(each[2:], seconds["convcg"][2:], strict=True)]
        print(
            f"{name:14s} {middle:8.0f} examples/s a core (quartiles {low:.0f} to {high:.0f}); "
            f"convcg is {_median(ratios):.2f} times as fast"
        )


@app.command()
def loss(
    repetitions: Repetitions = 5,
    threads: Threads = 1,
    chunk: Annotated[int, typer.Option(help="Pins compared at once.")] = LossConfig().chunk,
    whole_up_to: Annotated[int, typer.Option(help="Largest catalogue whose logits are also held whole.")] = 100_000,
) -> None:
    """The full softmax alone, forward and backward, as the catalogue grows."""
    _set_up(threads)
    print(f"{'pins':>8s} {'chunked s':>10s} {'whole s':>8s} {'ratio':>6s} {'chunked MB':>11s} {'whole MB':>9s}")
    for num_pins in (12_000, 100_000, 400_000):
        query = F.normalize(torch.randn(BATCH, DIM), dim=-1).requires_grad_()
        pins = F.normalize(torch.randn(num_pins, DIM), dim=-1).requires_grad_()
        target = torch.randint(num_pins, (BATCH,))
        forms: dict[str, Callable[[], Tensor]] = {"chunked": lambda: _chunked(query, pins, target, chunk)}  # noqa: B023
        if num_pins <= whole_up_to:
            forms["whole"] = lambda: F.cross_entropy(query / TEMPERATURE @ pins.T, target)  # noqa: B023
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(repetitions + 1):
            for name, form in forms.items():
                started = time.process_time()
                torch.autograd.grad(form(), (query, pins))
                seconds[name].append(time.process_time() - started)
        middle = {name: _median(each[1:]) for name, each in seconds.items()}
        held = {name: _megabytes(form, query, pins) for name, form in forms.items()}
        whole = middle.get("whole", float("nan"))
        print(
            f"{num_pins:8d} {middle['chunked']:10.3f} {whole:8.3f} {middle['chunked'] / whole:6.2f} "
            f"{held['chunked']:11.0f} {held.get('whole', float('nan')):9.0f}"
        )


def _chunked(query: Tensor, pins: Tensor, target: Tensor, chunk: int) -> Tensor:
    scaled = query / TEMPERATURE
    # Its gradient would be a second one of all pins, which has nothing to do with the sum over them.
    own = (scaled * F.embedding(target, pins.detach())).sum(-1)
    rest = pool_log_sum_exp(scaled, pins, excluded=Excluded.of((torch.arange(BATCH), target)), chunk=chunk)
    return (torch.logaddexp(rest, own) - own).mean()


def _megabytes(form: Callable[[], Tensor], query: Tensor, pins: Tensor) -> float:
    """The most that is held at a time beyond the embeddings and their gradients."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        torch.autograd.grad(form(), (query, pins))
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return (most - 4 * (query.numel() + pins.numel())) / 1e6


@app.command()
def profile(pins: Pins = 100_000, threads: Threads = 1, rows: Annotated[int, typer.Option()] = 15) -> None:
    """Where the time of a step goes, under the sampled softmax."""
    _set_up(threads)
    stepper = ours(pins, LossConfig(kind=LossKind.SAMPLED_SOFTMAX, num_uniform_negatives=NUM_UNIFORM))
    for number in range(2):
        stepper(examples(pins, number), number)
    with torch.profiler.profile() as profiler:
        for number in range(3):
            stepper(examples(pins, number), number)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows, max_name_column_width=40))


if __name__ == "__main__":
    app()
