"""Planted data that only both towers together can learn, and a place for the training loop to run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import Tensor

from convcg.batch import PADDING, ExampleBatch, QueryBatch
from convcg.data.encode import PinEncoder
from convcg.data.tables import RowTable
from convcg.errors import TrainingError
from convcg.features import FeatureShape, FeatureShapes, Kind
from convcg.model.advertiser import AdvertiserForm, AdvertiserLossConfig, Advertisers
from convcg.model.loss import LossConfig, LossKind, PinShares
from convcg.model.towers import HeadKind, TowerConfig
from convcg.model.two_tower import ModelConfig, TwoTower
from convcg.train import TrainConfig, Trained, train

NUM_GROUPS, NUM_SURFACES, PINS_PER_GROUP = 4, 3, 3
_FIRST_TARGET = NUM_GROUPS * PINS_PER_GROUP
NUM_PINS = _FIRST_TARGET + NUM_GROUPS
NUM_BATCHES, BATCH = 12, 64

SHAPES = FeatureShapes(
    pin=(FeatureShape(name="pin_id", kind=Kind.ID, size=NUM_PINS),),
    user=(FeatureShape(name="taste", kind=Kind.VECTOR, size=2),),
)
MODEL = ModelConfig(
    dim=16, query_tower=TowerConfig(hidden=(32,)), pin_tower=TowerConfig(hidden=(32,)), num_query_words=8
)
#: Nothing random but the data and the negatives.
CALM = MODEL.model_copy(
    update={
        "history_dropout": 0.0,
        "query_tower": TowerConfig(hidden=(32,), dropout=0.0),
        "pin_tower": TowerConfig(hidden=(32,), dropout=0.0),
    }
)
#: With a head for each task, and one prefix.
TWO_HEADS = CALM.model_copy(update={"heads": HeadKind.MULTI, "prefixes": (8,)})
LOSSES = {kind: LossConfig(kind=kind, num_uniform_negatives=48, num_served_negatives=16) for kind in LossKind}
#: Everything that a loss can have at once, but for the form of the advertiser loss, of which there is one.
EVERYTHING = {
    f"{kind.value}-{form.value}": loss.model_copy(
        update={
            "advertiser": AdvertiserLossConfig(form=form, weight=0.3, max_share=1.0),
            "conversion_share": 0.6,
            "hard_weight": 0.2,
            "mask_same_advertiser": form is AdvertiserForm.NONE,
        }
    )
    for kind, loss in LOSSES.items()
    for form in AdvertiserForm
}


def planted(seed: int, *, count: int = BATCH, shuffled: bool = False) -> ExampleBatch:
    """A checkerboard: the target follows from history and surface together, and from neither alone.

    `shuffled` gives the targets to other queries.
    """
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(NUM_GROUPS, (count,), generator=generator)
    surface = torch.randint(NUM_SURFACES, (count,), generator=generator)
    within = torch.randint(PINS_PER_GROUP, (count, 3), generator=generator)
    target = _FIRST_TARGET + (group + surface) % NUM_GROUPS
    if shuffled:
        target = target[torch.randperm(count, generator=generator)]
    query = QueryBatch(
        task=torch.arange(count) % 2,
        surface=surface,
        subject_pin=torch.full((count,), PADDING),
        query_words=torch.full((count, 0), PADDING),
        history_pin=group[:, None] * PINS_PER_GROUP + within,
        history_action=torch.randint(1, 5, (count, 3), generator=generator),
        history_surface=torch.randint(-1, NUM_SURFACES, (count, 3), generator=generator),
        history_age=torch.rand(count, 3, generator=generator) * 1e5,
        history_dwell=torch.where(within == 0, float("nan"), torch.rand(count, 3, generator=generator) * 100),
        features={"taste": torch.randn(count, 2, generator=generator)},
    )
    others = _FIRST_TARGET + (target[:, None] - _FIRST_TARGET + torch.tensor([1, 2])) % NUM_GROUPS
    return ExampleBatch(
        query=query,
        target=target,
        weight=torch.rand(count, generator=generator) + 0.1,
        user=torch.arange(count) + count * seed,
        negatives=others.where(torch.rand(count, 2, generator=generator) < 0.5, PADDING),
    )


def catalogue() -> PinEncoder:
    return PinEncoder(RowTable(pa.table({"pin_id": [f"p{row:02d}" for row in range(NUM_PINS)]})), SHAPES.pin)


def fresh_towers(model: ModelConfig = MODEL, seed: int = 0) -> TwoTower:
    torch.manual_seed(seed)
    return TwoTower(model, SHAPES)


def task(
    batches: Callable[[int], Iterator[ExampleBatch]] | None = None,
    validate: Callable[[TwoTower], float] | None = None,
) -> Trained:
    """The planted data, in other batches each epoch."""
    shares = PinShares(trained=torch.zeros(2, NUM_PINS), served=torch.ones(NUM_PINS) / NUM_PINS)
    shares.trained[:, _FIRST_TARGET:] = 1 / NUM_GROUPS
    usual = lambda epoch: (planted(1000 * epoch + batch) for batch in range(NUM_BATCHES))  # noqa: E731
    return Trained(
        pins=catalogue(),
        shares=shares,
        batches=batches or usual,
        num_batches=NUM_BATCHES,
        advertisers=advertisers(),
        validate=validate,
    )


def advertisers() -> Advertisers:
    """Each target's advertiser has two pins that nobody buys, too."""
    of_pin = [f"a{row // PINS_PER_GROUP}" if row % PINS_PER_GROUP < 2 else None for row in range(_FIRST_TARGET)]
    conversions = np.arange(NUM_PINS) >= _FIRST_TARGET
    return Advertisers.of(
        pa.array([*of_pin, *(f"a{group}" for group in range(NUM_GROUPS))]),
        conversions=conversions.astype(np.int64),
        engagements=np.zeros(NUM_PINS, np.int64),
        config=AdvertiserLossConfig(form=AdvertiserForm.SOFT_BAG, max_share=1.0),
    )


def recall_at_1(towers: TwoTower, batch: ExampleBatch) -> float:
    """The share of examples whose target is the best pin of the catalogue."""
    towers.eval()
    with torch.no_grad():
        inputs = towers.pin.inputs(catalogue().all())
        best = (towers.query(batch.query, inputs) @ towers.pin(inputs).T).argmax(1)
    return (best == batch.target).float().mean().item()


@dataclass
class LocalContext:
    """`convcg.train.Context` that keeps every checkpoint as `directory/<step>-<n>` and every metric in memory."""

    directory: Path
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    saved: list[dict[str, float]] = field(default_factory=list)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        assert self.rank == 0
        self.logged.append((step, metrics))

    def save(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        self.saved.append(metrics)
        if self.rank == 0:
            directory = self.directory / f"{int(metrics['step']):04d}-{len(self.saved)}"
            directory.mkdir(parents=True)
            write(directory)

    def checkpoints(self) -> list[Path]:
        return sorted(self.directory.glob("*")) if self.directory.exists() else []


def config(**parts: float) -> TrainConfig:
    usual = {"epochs": 2, "learning_rate": 0.01, "warmup_steps": 5, "checkpoint_every_steps": 5, "log_every_steps": 4}
    return TrainConfig(**usual | {"validation_queries": 0} | parts)


def weights_of(towers: TwoTower) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in towers.state_dict().items()}


def part_of(batch: ExampleBatch, rows: slice) -> ExampleBatch:
    query = {name: getattr(batch.query, name)[rows] for name in vars(batch.query) if name != "features"}
    features = {name: value[rows] for name, value in batch.query.features.items()}
    columns = {name: value[rows] for name, value in vars(batch).items() if name != "query" and value is not None}
    return ExampleBatch(query=QueryBatch(**query, features=features), **columns)


@contextmanager
def as_rank(rank: int, world_size: int, directory: str, *, batch: int) -> Iterator[slice]:
    """Be one of several processes that train together; the slice is this one's rows of every batch of `batch`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=world_size
    )
    yield slice(rank * batch // world_size, (rank + 1) * batch // world_size)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def train_as_rank(rank: int, world_size: int, directory: str) -> None:
    """What one of several processes does: train under both losses, then run into a loss that only rank 1 sees."""
    with as_rank(rank, world_size, directory, batch=BATCH) as own:
        _train_as_rank(rank, world_size, directory, own)


def _train_as_rank(rank: int, world_size: int, directory: str, own: slice) -> None:
    mine = lambda epoch: (part_of(batch, own) for batch in task().batches(epoch))  # noqa: E731
    for kind, loss in LOSSES.items():
        # Other initial weights on each rank: rank 0's must win.
        towers = fresh_towers(CALM, seed=rank)
        context = LocalContext(Path(directory) / kind / str(rank), rank, world_size)
        validate = (lambda towers: 0.25) if rank == 0 else None
        train(towers, config(validation_queries=10), loss, task(mine, validate), context, None)
        save_file(weights_of(towers), f"{directory}/{kind}-{rank}.safetensors")
        assert [metrics["validation_recall_at_100"] for metrics in context.saved if metrics["step"] == 24] == [0.25]
    for name, loss in EVERYTHING.items():
        towers, context = fresh_towers(TWO_HEADS, seed=rank), LocalContext(Path(directory) / name, rank, world_size)
        train(towers, config(epochs=1), loss, task(mine), context, None)
        save_file(weights_of(towers), f"{directory}/{name}-{rank}.safetensors")
    context = LocalContext(Path(directory) / "poisoned" / str(rank), rank, world_size)
    try:
        poisoned = lambda epoch: _poisoned_at_the_end(mine(epoch), rank)  # noqa: E731
        train(fresh_towers(CALM), config(epochs=1), LOSSES[LossKind.FULL_SOFTMAX], task(poisoned), context, None)
    except TrainingError:
        (Path(directory) / f"stopped-{rank}").touch()


def _poisoned_at_the_end(batches: Iterator[ExampleBatch], rank: int) -> Iterator[ExampleBatch]:
    for number, batch in enumerate(batches, start=1):
        if rank == 1 and number == NUM_BATCHES:
            taste = torch.full_like(batch.query.features["taste"], float("nan"))
            yield replace(batch, query=replace(batch.query, features={"taste": taste}))
        else:
            yield batch
