"""From prepared data and a config to what is trained: the towers as they start, the pins, the spread of targets."""

from dataclasses import dataclass

import torch

from convcg.config import RunConfig
from convcg.data.encode import PinEncoder
from convcg.data.prepared import Prepared
from convcg.features import FeatureShapes, Kind
from convcg.graph.vectors import GraphVectors, completed, start_of_pins
from convcg.model.advertiser import Advertisers
from convcg.model.loss import LossConfig, PinShares
from convcg.model.two_tower import PinStart, TwoTower
from convcg.storage import Location
from convcg.train import TrainConfig, Trained
from convcg.types import TASKS, Task
from convcg.validation import Validation
from ray_jobs.feed import Feed, Mix


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The pins as the towers read them, and the shapes of all features, those of graph vectors with their length."""

    pins: PinEncoder
    shapes: FeatureShapes
    vectors: GraphVectors | None

    @classmethod
    def read(cls, data: Prepared, graph: Location, *, start_dim: int | None = None) -> "Catalogue":
        """The catalogue of prepared data; with the graph stage's vectors where a feature is made of them, or where pins
        of width `start_dim` start from them.

        Raises:
            ConfigError: there are no vectors, or they have another width.
            StorageError, DataError: as `GraphVectors.read`.
        """
        table, shapes = data.pins(), data.encoders().shapes
        vectors = None
        if start_dim is not None or any(shape.kind is Kind.GRAPH for shape in shapes.pin):
            vectors = GraphVectors.read(graph, num_pins=len(table))
        if start_dim is not None:
            vectors = start_of_pins(vectors, dim=start_dim)
        shapes = completed(shapes, vectors)
        pins = PinEncoder(table, shapes.pin, data.pin_days(), None if vectors is None else vectors.vector_Nd)
        return cls(pins=pins, shapes=shapes, vectors=vectors)

    @classmethod
    def of_run(cls, config: RunConfig, data: Prepared, graph: Location) -> "Catalogue":
        """The catalogue as a run's towers need it; raises as `read`."""
        starts = config.model.pin_start is PinStart.GRAPH
        return cls.read(data, graph, start_dim=config.model.feature_width if starts else None)

    def towers(self, config: RunConfig, *, start: bool = True) -> TwoTower:
        """New towers, drawn with the run's seed. Without `start`, pins that start from vectors are left random."""
        torch.manual_seed(config.train.seed)
        towers = TwoTower(config.model, self.shapes)
        if start and config.model.pin_start is PinStart.GRAPH:
            assert self.vectors is not None
            towers.pin.start_from(torch.from_numpy(self.vectors.vector_Nd), torch.from_numpy(self.vectors.degree_N))
        return towers


def mix_of(data: Prepared, config: TrainConfig) -> Mix:
    """How the batches of a run are made up.

    Raises:
        ConfigError: as `Mix.of`.
    """
    return Mix.of(
        data.summary().num_train,
        batch_size=config.batch_size,
        shares={task.value: share for task, share in config.shares.items()},
        max_repeats=config.max_repeats,
        world_size=config.num_workers,
    )


def trained_on(
    config: RunConfig,
    data: Prepared,
    catalogue: Catalogue,
    feed: Feed,
    *,
    validates: bool,
) -> Trained:
    """What is trained on, with the batches of `feed`."""
    asked = config.train.validation_queries if validates else 0
    return Trained(
        pins=catalogue.pins,
        shares=_shares(data),
        advertisers=advertisers_of(data, config.loss),
        num_batches=feed.mix.num_batches,
        batches=feed,
        validate=Validation(data, catalogue.pins, limit=asked).recall if asked else None,
    )


def _shares(data: Prepared) -> PinShares:
    """How each task's targets are spread over the pins, and what was served and not engaged."""
    counts = data.frequencies()

    def spread(name: str) -> torch.Tensor:
        count = counts[name].to_numpy()
        return torch.from_numpy(count / max(1, count.sum())).float()

    return PinShares(trained=torch.stack([spread(task.value) for task in TASKS]), served=spread("served"))


def advertisers_of(data: Prepared, loss: LossConfig) -> Advertisers | None:
    """Who advertises which pin, where the loss asks for it.

    Raises:
        ConfigError: the pin table does not say, or no advertiser can be used.
    """
    if not loss.names_advertisers:
        return None
    counts = data.frequencies()
    return Advertisers.of(
        data.pins().column("advertiser_id"),
        conversions=counts[Task.CONVERSION.value].to_numpy(),
        engagements=counts[Task.ENGAGEMENT.value].to_numpy(),
        config=loss.advertiser,
    )
