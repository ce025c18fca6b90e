"""The two towers: a query and a pin become unit vectors whose dot product says how likely the purchase is.

The pin's input vector is shared: the pin tower reads it, and so do the user's history and the subject pin. Sharing is
what lets a pin that nobody bought yet be found by those who clicked it.

Shape suffixes: B queries, L history length, P pins, d width.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from convcg.batch import PADDING, PinBatch, QueryBatch
from convcg.features import FeatureShape, FeatureShapes, Kind
from convcg.model.inputs import FeatureInputs, bag_mean
from convcg.setting import Settings
from convcg.types import ACTIONS, SURFACES

#: Ages are read in powers of two of a minute, up to about two years.
_NUM_AGE_BUCKETS = 21
#: Dwells are read in powers of two of a second, up to half an hour; 0 is an unknown one.
_NUM_DWELL_BUCKETS = 12


class PinStart(StrEnum):
    """What the trained vectors of pins start from."""

    RANDOM = "random"
    SPECTRAL = "spectral"  # co-engagement: the singular vectors of who acted on what (`convcg.data.co_engagement`)


class TowerConfig(Settings):
    """A residual MLP on its input; no hidden layer means that the input passes through as it is."""

    hidden: tuple[int, ...] = (256,)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class ModelConfig(Settings):
    """The shape of the two towers."""

    dim: int = Field(default=64, ge=2, le=4096)
    pin_start: PinStart = PinStart.RANDOM
    query_tower: TowerConfig = TowerConfig()
    pin_tower: TowerConfig = TowerConfig()
    #: The share of history actions hidden from each training example.
    history_dropout: float = Field(default=0.2, ge=0, lt=1)
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


class ResidualMLP(nn.Module):
    """x + MLP(x), with LayerNorm before and GELU between the layers; identity without hidden layers."""

    def __init__(self, dim: int, config: TowerConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if config.hidden:
            layers.append(nn.LayerNorm(dim))
            for width_in, width_out in zip((dim, *config.hidden), config.hidden, strict=False):
                layers += [nn.Linear(width_in, width_out), nn.GELU(), nn.Dropout(config.dropout)]
            last = nn.Linear(config.hidden[-1], dim)
            nn.init.zeros_(last.weight)  # the tower starts as the identity
            nn.init.zeros_(last.bias)
            layers.append(last)
        self.layers = nn.Sequential(*layers)

    def forward(self, x_Bd: Tensor) -> Tensor:
        """[B, d] -> [B, d]."""
        return x_Bd + self.layers(x_Bd) if len(self.layers) else x_Bd


class HistoryPool(nn.Module):
    """The weighted mean of the pins in a history; an action's weight depends on its kind, surface, age and dwell."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.action = nn.Parameter(torch.zeros(len(ACTIONS)))
        self.surface = nn.Parameter(torch.zeros(len(SURFACES) + 1))  # the last: unknown
        self.age = nn.Parameter(torch.zeros(_NUM_AGE_BUCKETS))
        self.dwell = nn.Parameter(torch.zeros(_NUM_DWELL_BUCKETS))
        self.empty = nn.Parameter(torch.randn(dim) * dim**-0.5)

    def forward(self, query: QueryBatch, pin_inputs_Pd: Tensor, position_BL: Tensor) -> Tensor:
        """[B, d] unit vectors. `position_BL`: where in `pin_inputs_Pd` each history pin stands, `PADDING` for none."""
        present = position_BL != PADDING
        if self.training and self.dropout:
            present = present & (torch.rand(present.shape, device=present.device) >= self.dropout)
        bucket = torch.log2(query.history_age.clamp(min=0) / 60 + 1).long().clamp(max=_NUM_AGE_BUCKETS - 1)
        lasted = (
            torch.log2(query.history_dwell.nan_to_num(0).clamp(min=0) + 1).long().clamp(max=_NUM_DWELL_BUCKETS - 2) + 1
        )
        lasted = torch.where(query.history_dwell >= 0, lasted, 0)
        logit = self.action[query.history_action] + self.surface[query.history_surface]
        logit = logit + self.age[bucket] + self.dwell[lasted]
        weight_BL = logit.exp() * present
        history = F.embedding(position_BL.clamp(min=0), pin_inputs_Pd)
        pooled = torch.einsum("bl,bld->bd", weight_BL, history)
        pooled = torch.where(present.any(1, keepdim=True), pooled, self.empty)
        return F.normalize(pooled, dim=-1)


class PinTower(nn.Module):
    """A pin's features become its input vector, and that, with its counts as of a day, its embedding."""

    def __init__(self, config: ModelConfig, shapes: Sequence[FeatureShape]) -> None:
        super().__init__()
        timeless = [shape for shape in shapes if shape.kind is not Kind.COUNT]
        self.features = FeatureInputs(config.dim, timeless)
        self.layers = ResidualMLP(config.dim, config.pin_tower)
        self.counts: nn.Linear | None = None
        if num_counts := len(shapes) - len(timeless):
            with torch.random.fork_rng(devices=()):  # no other layer draws other numbers
                self.counts = nn.Linear(num_counts, config.dim, bias=False)
            nn.init.zeros_(self.counts.weight)  # the tower starts as it would without counts

    def start_from(self, vectors_Nd: Tensor) -> None:
        """Put given vectors ([N, d]) into the table of pin ids; a pin whose vector is zero keeps its random one."""
        table = self.features.id_table()
        given = vectors_Nd.norm(dim=1) > 0
        with torch.no_grad():
            table.weight[given] = vectors_Nd[given].to(table.weight)

    def inputs(self, pins: PinBatch) -> Tensor:
        """[P, d]: the sum of the pins' projected features, before the tower."""
        inputs_Pd: Tensor = self.features(pins.features, pins.rows)
        return inputs_Pd

    def forward(self, inputs_Pd: Tensor, counts_PC: Tensor | None = None) -> Tensor:
        """[P, d] pin inputs -> [P, d] unit vectors.

        `counts_PC`: [P, C] log(1 + count) of the features that count, as of the day that the pins are embedded for.
        They are no part of the inputs, which histories share: what a person did long ago does not change with the day.
        """
        assert (counts_PC is None) == (self.counts is None), "count features need their counts, and nothing else does"
        if self.counts is not None:
            inputs_Pd = inputs_Pd + self.counts(counts_PC)
        return F.normalize(self.layers(inputs_Pd), dim=-1)


class QueryTower(nn.Module):
    """Who asks, where, and what they did before become a query embedding.

    It reads pins by their input vectors alone, so that serving needs no pin features.
    """

    def __init__(self, config: ModelConfig, shapes: Sequence[FeatureShape]) -> None:
        super().__init__()
        dim = config.dim
        self.features = FeatureInputs(dim, shapes) if shapes else None
        self.history = HistoryPool(dim, config.history_dropout)
        self.surface = nn.Embedding(len(SURFACES), dim)
        self.subject = nn.Linear(dim, dim, bias=False)
        self.query_words = nn.Embedding(config.num_query_words, dim)
        for table in (self.surface, self.query_words):
            nn.init.normal_(table.weight, std=0.1 * dim**-0.5)
        self.layers = ResidualMLP(dim, config.query_tower)

    def forward(self, query: QueryBatch, pin_inputs_Pd: Tensor, rows_P: Tensor | None = None) -> Tensor:
        """Queries -> [B, d] unit vectors.

        `pin_inputs_Pd` holds the inputs of the whole catalogue, or, with `rows_P` (sorted, distinct, [P] int64), of
        those pins alone; they must contain every pin that the queries mention.
        """
        x = self.history(query, pin_inputs_Pd, _positions(query.history_pin, rows_P))
        x = x + self.surface(query.surface) + bag_mean(self.query_words, query.query_words, hashed=True)
        has_subject = (query.subject_pin != PADDING).unsqueeze(1)
        subject = F.embedding(_positions(query.subject_pin, rows_P).clamp(min=0), pin_inputs_Pd)
        x = x + self.subject(F.normalize(subject, dim=-1)) * has_subject
        if self.features is not None:
            x = x + self.features(query.features, None)
        return F.normalize(self.layers(x), dim=-1)


class TwoTower(nn.Module):
    """Both towers and the temperature they are trained with."""

    def __init__(self, config: ModelConfig, shapes: FeatureShapes) -> None:
        super().__init__()
        self.config = config
        self.pin = PinTower(config, shapes.pin)
        self.query = QueryTower(config, shapes.user)
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


def _positions(rows: Tensor, among_P: Tensor | None) -> Tensor:
    if among_P is None:
        return rows
    return torch.where(rows == PADDING, rows, torch.searchsorted(among_P, rows.clamp(min=0)))


def mentioned_pins(query: QueryBatch, *others: Tensor) -> Tensor:
    """The sorted, distinct rows ([P] int64) of every pin in the queries' histories and contexts and in `others`."""
    rows = torch.cat([query.history_pin.flatten(), query.subject_pin, *(other.flatten() for other in others)])
    distinct: Tensor = torch.unique(rows[rows != PADDING])
    return distinct
