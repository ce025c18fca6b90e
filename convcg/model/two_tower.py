"""The two towers: a query becomes a unit vector and a pin a vector, whose dot product says how likely the purchase is.

The pin's input vector is shared: the pin tower reads it, and so do the user's history and the subject pin. Sharing is
what lets a pin that nobody bought yet be found by those who clicked it.

Shape suffixes: B queries, L history length, P pins, N catalogue, D width of the pin's input, d of the embeddings.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from convcg.batch import PADDING, PinBatch, QueryBatch
from convcg.errors import ConfigError
from convcg.features import FeatureShape, FeatureShapes, Kind
from convcg.model.context import ContextLayer, RequestContext
from convcg.model.history import HistoryEncoderConfig, HistoryKind, HistoryPool, HistoryTransformer
from convcg.model.inputs import FeatureInputs, InputKind, Join, positions
from convcg.model.towers import HeadKind, Tower, TowerConfig
from convcg.setting import Settings
from convcg.types import TASKS, Task


class PinStart(StrEnum):
    """What the trained vectors of pins start from."""

    RANDOM = "random"
    GRAPH = "graph"  # the vectors of the graph stage


class PinLength(StrEnum):
    """How long the embedding of a pin may be."""

    UNIT = "unit"  # the score is a cosine
    FREE = "free"  # the score is a dot product; a long pin is near to everybody


class ModelConfig(Settings):
    """The shape of the two towers."""

    dim: int = Field(default=64, ge=2, le=4096)
    inputs: InputKind = InputKind.SUM
    #: The width of each feature where `inputs` is concat.
    feature_dim: int = Field(default=32, ge=2, le=4096)
    pin_start: PinStart = PinStart.RANDOM
    pin_length: PinLength = PinLength.UNIT
    #: Whether each pin has a trained factor by which a history or a request reads it longer or shorter.
    history_gain: bool = False
    heads: HeadKind = HeadKind.SINGLE
    #: Whether the query tower is told the surface. Where a log has but one, that is the same vector for everybody: it
    #: learns what is popular and drowns the history (LOG.md).
    surface: bool = True
    #: Whether the query tower is told what is asked for.
    task_token: bool = False
    #: Whether subject pin, query and surface are also read together, through a small MLP. The history's transformer,
    #: which asks with what comes out, always has one.
    context_layer: bool = False
    query_tower: TowerConfig = TowerConfig()
    pin_tower: TowerConfig = TowerConfig()
    history: HistoryEncoderConfig = HistoryEncoderConfig()
    #: The share of history actions hidden from each training example.
    history_dropout: float = Field(default=0.2, ge=0, lt=1)
    #: The share of training examples whose subject pin and query are hidden.
    context_dropout: float = Field(default=0.0, ge=0, lt=1)
    #: Widths below `dim`, ascending, at which the first numbers of an embedding are trained to be one of their own
    #: (Matryoshka: Kusupati et al., 2022, arXiv 2205.13147); `index.dim` may then be one of them.
    prefixes: tuple[int, ...] = ()
    #: Rows of the table that the hashed words of a search query share.
    num_query_words: int = Field(default=16_384, ge=1)
    temperature: float = Field(default=0.07, gt=0)
    min_temperature: float = Field(default=0.01, gt=0)
    max_temperature: float = Field(default=0.2, gt=0)

    @model_validator(mode="after")
    def _temperature_within_bounds(self) -> "ModelConfig":
        if not self.min_temperature <= self.temperature <= self.max_temperature:  # outside it would never learn
            raise ValueError(
                f"temperature = {self.temperature} must lie between min_temperature = {self.min_temperature} "
                f"and max_temperature = {self.max_temperature}"
            )
        return self

    @model_validator(mode="after")
    def _prefixes_ascend(self) -> "ModelConfig":
        widths = (1, *self.prefixes, self.dim)
        if any(one >= other for one, other in zip(widths, widths[1:], strict=False)):
            raise ValueError(f"prefixes = {list(self.prefixes)} must ascend between 2 and dim - 1 = {self.dim - 1}")
        return self

    @property
    def feature_width(self) -> int:
        """The width of one feature."""
        return self.dim if self.inputs is InputKind.SUM else self.feature_dim

    @property
    def num_heads(self) -> int:
        """The last layers of a tower."""
        return len(TASKS) if self.heads is HeadKind.MULTI else 1

    def input_width(self, pin: Sequence[FeatureShape]) -> int:
        """The width of a pin's input vector (D)."""
        num_features = sum(shape.kind is not Kind.COUNT for shape in pin)
        return self.dim if self.inputs is InputKind.SUM else num_features * self.feature_dim

    def served_dim(self, index_dim: int | None) -> int:
        """The width of the embeddings that are served, where `index.dim` is this.

        Raises:
            ConfigError: the model is not trained for that width.
        """
        widths = (*self.prefixes, self.dim)
        if index_dim is not None and index_dim not in widths:
            raise ConfigError(
                f"index.dim = {index_dim} is none of the widths that the model is trained for "
                f"({', '.join(map(str, widths))}). Choose one of these, or add it to model.prefixes and train again."
            )
        return self.dim if index_dim is None else index_dim


def prefix_of(embedding_Nd: Tensor, width: int) -> Tensor:
    """[..., width]: the first numbers of unit vectors, as unit vectors again; at full width as they are."""
    return embedding_Nd if width == embedding_Nd.shape[-1] else F.normalize(embedding_Nd[..., :width], dim=-1)


class PinTower(nn.Module):
    """A pin's features become its input vector, and that, with its counts as of a day, its embedding."""

    def __init__(self, config: ModelConfig, shapes: Sequence[FeatureShape]) -> None:
        super().__init__()
        timeless = [shape for shape in shapes if shape.kind is not Kind.COUNT]
        width = config.feature_width
        self.unit = config.pin_length is PinLength.UNIT
        self.features = FeatureInputs(width, timeless)
        self.join = Join(config.inputs, [width] * len(timeless))
        #: The width of a pin's input vector (D).
        self.input_width = self.join.width
        self.layers = Tower(self.input_width, config.dim, config.pin_tower, config.num_heads)
        self.counts: nn.Linear | None = None
        if num_counts := len(shapes) - len(timeless):
            with torch.random.fork_rng(devices=()):  # no other layer draws other numbers
                self.counts = nn.Linear(num_counts, self.input_width, bias=False)
            nn.init.zeros_(self.counts.weight)  # the tower starts as it would without counts
        self.log_gain = nn.Parameter(torch.zeros(_num_pins(timeless))) if config.history_gain else None

    def start_from(self, vectors_Nd: Tensor, degree_N: Tensor) -> None:
        """Put given vectors ([N, w], w the width of a feature) into the table of pin ids; a pin whose vector is zero
        keeps its random one.

        degree_N: how many people acted on each pin. Trained history gains start from its inverse root, relative to the
        mean one, so that in a history what everybody acts on counts for less.

        Raises:
            ConfigError: pins have no trained vectors of their own.
        """
        table = self.features.id_table()
        assert vectors_Nd.shape[1] == table.embedding_dim, "a start must be as wide as what it starts"
        given, known = vectors_Nd.norm(dim=1) > 0, degree_N > 0
        with torch.no_grad():
            table.weight[given] = vectors_Nd[given].to(table.weight)
            if self.log_gain is not None and known.any():
                log_degree = degree_N[known].double().log()
                self.log_gain[known] = (-0.5 * (log_degree - log_degree.mean())).to(self.log_gain)

    def inputs(self, pins: PinBatch) -> Tensor:
        """[P, D]: the pins' features, joined: what the tower reads."""
        inputs_PD: Tensor = self.join(self.features(pins.features, pins.rows))
        return inputs_PD

    def seen(self, inputs_PD: Tensor, rows_P: Tensor) -> Tensor:
        """[P, D]: the inputs of the pins at `rows_P` ([P] int64) as a history or a request reads them: each as long as
        its trained gain makes it.
        """
        return inputs_PD if self.log_gain is None else inputs_PD * self.log_gain[rows_P].exp().unsqueeze(1)

    def forward(self, inputs_PD: Tensor, counts_PC: Tensor | None = None, task: Task = Task.CONVERSION) -> Tensor:
        """[P, D] pin inputs -> [P, d]; unit vectors unless the length is free.

        `counts_PC`: [P, C] log(1 + count) of the features that count, as of the day that the pins are embedded for.
        They are no part of the inputs, which histories share: what a person did long ago does not change with the day.
        With two heads `task` chooses one.
        """
        assert (counts_PC is None) == (self.counts is None), "count features need their counts, and nothing else does"
        if self.counts is not None:
            inputs_PD = inputs_PD + self.counts(counts_PC)
        embedding: Tensor = self.layers(inputs_PD, task)
        return F.normalize(embedding, dim=-1) if self.unit else embedding


def _num_pins(shapes: Sequence[FeatureShape]) -> int:
    for shape in shapes:
        if shape.kind is Kind.ID:
            return shape.size
    raise ConfigError("model.history_gain trains a number a pin; add {name: pin_id, kind: id} to features.pin.")


class QueryTower(nn.Module):
    """Who asks, where, for what, and what they did before become a query embedding.

    It reads pins by what is seen of them alone, so that serving needs no pin features.
    """

    def __init__(self, config: ModelConfig, shapes: FeatureShapes) -> None:
        super().__init__()
        width, seen, adds = config.feature_width, config.input_width(shapes.pin), config.inputs is InputKind.SUM
        self.history_dropout = config.history_dropout
        self.features = FeatureInputs(width, shapes.user)
        self.history = HistoryPool(seen, checkouts_first=config.pin_start is PinStart.GRAPH)
        self.request = RequestContext(
            width,
            seen,
            num_words=config.num_query_words,
            surface=config.surface,
            task_token=config.task_token,
            dropout=config.context_dropout,
        )
        widths = [seen, *self.request.widths, *[width] * len(shapes.user)]
        self.context: ContextLayer | None = None
        self.encoder: HistoryTransformer | None = None
        if config.context_layer or config.history.kind is HistoryKind.TRANSFORMER:
            self.context = ContextLayer(self.request.widths, config.dim)
            widths.append(config.dim)
            if adds:
                nn.init.zeros_(self.context.out.weight)  # the tower starts as it would without
        if config.history.kind is HistoryKind.TRANSFORMER:
            out = config.dim if adds else config.history.width
            self.encoder = HistoryTransformer(seen, out, config.dim, config.history)
            widths.append(out)
            if adds:
                nn.init.zeros_(self.encoder.out.weight)
                nn.init.zeros_(self.encoder.out.bias)
        self.join = Join(config.inputs, widths)
        self.layers = Tower(self.join.width, config.dim, config.query_tower, config.num_heads)

    def forward(self, query: QueryBatch, seen_PD: Tensor, rows_P: Tensor | None = None) -> Tensor:
        """Queries -> [B, d] unit vectors, each for what its `task` asks for.

        `seen_PD` is what is seen (`PinTower.seen`) of the whole catalogue, or, with `rows_P` (sorted, distinct, [P]
        int64), of those pins alone; they must contain every pin that the queries mention.
        """
        present_BL = query.history_pin != PADDING
        if self.training and self.history_dropout:
            kept = torch.rand(present_BL.shape, device=present_BL.device) >= self.history_dropout
            present_BL = present_BL & kept
        history_BLD = F.embedding(positions(query.history_pin, rows_P).clamp(min=0), seen_PD)
        request = self.request(query, seen_PD, rows_P)
        parts = [self.history(query, history_BLD, present_BL), *request, *self.features(query.features, None)]
        if self.context is not None:
            context_Bc, read_Bc = self.context(request)
            parts.append(read_Bc)
            if self.encoder is not None:
                parts.append(self.encoder(query, history_BLD, present_BL, context_Bc))
        return F.normalize(self.layers(self.join(parts), query.task), dim=-1)


class TwoTower(nn.Module):
    """Both towers and the temperature they are trained with."""

    def __init__(self, config: ModelConfig, shapes: FeatureShapes) -> None:
        super().__init__()
        self.config = config
        self.pin = PinTower(config, shapes.pin)
        self.query = QueryTower(config, shapes)
        self.log_temperature = nn.Parameter(torch.tensor(config.temperature).log())

    @property
    def temperature(self) -> Tensor:
        """The learned temperature; a scalar."""
        return self.log_temperature.exp()

    def bound_temperature(self) -> None:
        """Put the temperature back within its bounds, after an optimizer's step: a clamp inside the loss would leave
        one that has overshot without a gradient to come back by.
        """
        with torch.no_grad():
            self.log_temperature.clamp_(math.log(self.config.min_temperature), math.log(self.config.max_temperature))


def mentioned_pins(query: QueryBatch, *others: Tensor) -> Tensor:
    """The sorted, distinct rows ([P] int64) of every pin in the queries' histories and contexts and in `others`."""
    rows = torch.cat([query.history_pin.flatten(), query.subject_pin, *(other.flatten() for other in others)])
    distinct: Tensor = torch.unique(rows[rows != PADDING])
    return distinct
