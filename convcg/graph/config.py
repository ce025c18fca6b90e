"""The settings of the graph stage."""

from enum import StrEnum

from pydantic import Field

from convcg.setting import Settings


class GraphKind(StrEnum):
    """How the vectors of pins are made."""

    NONE = "none"  # no vectors
    SPECTRAL = "spectral"  # singular vectors of the normalised person x pin matrix; seconds
    ALS = "als"  # pin factors of implicit matrix factorisation; needs the extra `eval`
    GRAPHSAGE = "graphsage"  # a graph network over co-engagement and content; needs the extra `graph`


class AlsConfig(Settings):
    """Implicit matrix factorisation (Hu, Koren, Volinsky 2008)."""

    #: How much more a pair that happened counts than one that did not: the confidence is 1 + alpha against 1.
    alpha: float = Field(default=10.0, gt=0)
    iterations: int = Field(default=15, ge=1)
    #: The penalty on the squared lengths of all factors. Small ones overfit: 0.01 finds half as much (LOG.md).
    regularization: float = Field(default=30.0, ge=0)


class SageConfig(Settings):
    """GraphSAGE (Hamilton, Ying, Leskovec 2017) over the graph of pins, trained on who acted on what."""

    #: Each pin's most similar pins, by the cosine of who acted on them, are its neighbours, and it is theirs.
    num_neighbors: int = Field(default=20, ge=1)
    #: Over how many steps along the graph a pin hears of others.
    layers: int = Field(default=2, ge=1)
    #: Each goes over the whole graph once, forward and back.
    steps: int = Field(default=60, ge=1)
    #: Falls to zero over the steps.
    learning_rate: float = Field(default=1e-4, gt=0)
    #: Walks (pin, person, pin) drawn for a step; the ends of the others are each one's negatives.
    batch_size: int = Field(default=4096, ge=2)
    #: Divides the dot products in the loss.
    temperature: float = Field(default=0.3, gt=0)
    #: Larger catalogues are trained on a random part of this size; the network then reads all pins.
    max_training_pins: int = Field(default=200_000, ge=2)


class GraphConfig(Settings):
    """Vectors of pins from the interactions of the training time.

    Models use them as a start (`model.pin_start: graph`) or as a feature (`{name: graph, kind: graph}`). Every action
    counts once a person and pin.
    """

    kind: GraphKind = GraphKind.NONE
    #: The length of a vector. As a model's start it must be that of the model's pin vectors.
    dim: int = Field(default=64, ge=1)
    seed: int = 0
    als: AlsConfig = AlsConfig()
    graphsage: SageConfig = SageConfig()
