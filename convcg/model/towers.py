"""What a tower does with its input vector: the kinds of tower, and the heads on them.

The parallel tower is that of Pinterest's shopping conversion model of 2025, the sequential one that of 2023, whose
narrow projection sees nothing but what the cross layers made; the matched one is as deep as the sequential and as large
as the parallel, so that the two can be told apart. LayerNorm throughout: a pin must not depend on its batch.

Shape suffixes: N rows, D width of the input, d of the embedding.
"""

from collections.abc import Sequence
from enum import StrEnum

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from convcg.model.cross import CrossLayers
from convcg.setting import Settings
from convcg.types import TASK_CODE, Task


class TowerKind(StrEnum):
    """The shape of a tower. `hidden` are the widths of its MLP."""

    RESIDUAL = "residual"  # x + MLP(x); without hidden layers the input passes through as it is
    MLP = "mlp"
    CROSS = "cross"  # cross layers alone
    PARALLEL = "parallel"  # cross layers beside an MLP
    SEQUENTIAL = "sequential"  # cross layers, then one narrow hidden layer
    SEQUENTIAL_MATCHED = "sequential_matched"  # cross layers, then an MLP so wide that it is as large as `parallel`


class HeadKind(StrEnum):
    """How many last layers a tower has."""

    SINGLE = "single"
    MULTI = "multi"  # one for each task; the one for conversions is served


_CROSSING = (TowerKind.CROSS, TowerKind.PARALLEL, TowerKind.SEQUENTIAL, TowerKind.SEQUENTIAL_MATCHED)
_DEEP = (TowerKind.MLP, TowerKind.PARALLEL, TowerKind.SEQUENTIAL_MATCHED)


class TowerConfig(Settings):
    """A tower. What its kind does not have keeps its default."""

    kind: TowerKind = TowerKind.RESIDUAL
    #: Widths of the hidden layers.
    hidden: tuple[int, ...] = (256,)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    cross_layers: int = Field(default=3, ge=1, le=16)
    #: The rank of the cross layers' matrices; None for full rank.
    cross_rank: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _settings_mean_something(self) -> "TowerConfig":
        if self.kind not in _CROSSING and (self.cross_layers, self.cross_rank) != (_default("cross_layers"), None):
            raise ValueError(f"a {self.kind} tower has no cross layers; leave cross_layers and cross_rank out")
        if self.kind is TowerKind.CROSS and (self.hidden, self.dropout) != (_default("hidden"), _default("dropout")):
            raise ValueError("a cross tower has no MLP; leave hidden and dropout out, or choose parallel")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden = {list(self.hidden)} holds a width below 1")
        if self.kind in _DEEP and not self.hidden:
            raise ValueError(f"a {self.kind} tower needs hidden layers; give hidden one width or more")
        if self.kind is TowerKind.SEQUENTIAL and len(self.hidden) != 1:
            raise ValueError(
                f"a sequential tower has one narrow layer, and hidden = {list(self.hidden)}; give hidden one width, or "
                "choose sequential_matched"
            )
        return self


def _default(name: str) -> object:
    return TowerConfig.model_fields[name].default


class ResidualMLP(nn.Module):
    """x + MLP(x), with LayerNorm before and GELU between the layers; identity without hidden layers."""

    def __init__(self, width: int, config: TowerConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if config.hidden:
            layers.append(nn.LayerNorm(width))
            for width_in, width_out in zip((width, *config.hidden), config.hidden, strict=False):
                layers += [nn.Linear(width_in, width_out), nn.GELU(), nn.Dropout(config.dropout)]
            last = nn.Linear(config.hidden[-1], width)
            nn.init.zeros_(last.weight)  # the tower starts as the identity
            nn.init.zeros_(last.bias)
            layers.append(last)
        self.layers = nn.Sequential(*layers)

    def forward(self, x_ND: Tensor) -> Tensor:
        """[N, D] -> [N, D]."""
        return x_ND + self.layers(x_ND) if len(self.layers) else x_ND


class ParallelTrunk(nn.Module):
    """Cross layers and an MLP, both on the input; then one layer that joins them."""

    def __init__(self, width: int, config: TowerConfig) -> None:
        super().__init__()
        self.cross = _cross(width, config)
        self.mlp = _mlp(width, config.hidden, config.dropout)
        last = config.hidden[-1]
        self.join = nn.Sequential(nn.Linear(width + last, last), nn.LayerNorm(last), nn.GELU())

    def forward(self, x_ND: Tensor) -> Tensor:
        """[N, D] -> [N, last hidden width]."""
        joined: Tensor = self.join(torch.cat([self.cross(x_ND), self.mlp(x_ND)], dim=-1))
        return joined


class Tower(nn.Module):
    """A trunk that all tasks share, and one head or one for each task."""

    def __init__(self, width: int, dim: int, config: TowerConfig, num_heads: int) -> None:
        super().__init__()
        self.trunk, trunk_width = _trunk(width, dim, config, num_heads)
        passes = config.kind is TowerKind.RESIDUAL and width == dim
        self.heads = nn.ModuleList()
        if num_heads > 1 or not passes:
            self.heads.extend(nn.Linear(trunk_width, dim) for _ in range(num_heads))
        if passes:
            for head in self.heads:  # the tower starts as the identity
                assert isinstance(head, nn.Linear)
                nn.init.eye_(head.weight)
                nn.init.zeros_(head.bias)

    def forward(self, x_ND: Tensor, task: Task | Tensor = Task.CONVERSION) -> Tensor:
        """[N, D] -> [N, d], for one task or for each row's own ([N] int64 codes)."""
        out: Tensor = self.trunk(x_ND)
        if not self.heads:
            return out
        if len(self.heads) == 1 or isinstance(task, Task):
            head = self.heads[TASK_CODE[task] if len(self.heads) > 1 and isinstance(task, Task) else 0]
            embedding: Tensor = head(out)
            return embedding
        each_NTd = torch.stack([head(out) for head in self.heads], dim=1)
        return each_NTd[torch.arange(len(out), device=out.device), task]


def _trunk(width: int, dim: int, config: TowerConfig, num_heads: int) -> tuple[nn.Module, int]:
    match config.kind:
        case TowerKind.RESIDUAL:
            return ResidualMLP(width, config), width
        case TowerKind.MLP:
            return _mlp(width, config.hidden, config.dropout), config.hidden[-1]
        case TowerKind.CROSS:
            return _cross(width, config), width
        case TowerKind.PARALLEL:
            return ParallelTrunk(width, config), config.hidden[-1]
        case TowerKind.SEQUENTIAL:
            narrow = config.hidden[0]
            layers = (nn.Linear(width, narrow), nn.GELU(), nn.Dropout(config.dropout))
            return nn.Sequential(_cross(width, config), *layers), narrow
        case TowerKind.SEQUENTIAL_MATCHED:
            hidden = matched_hidden(width, dim, config, num_heads)
            return nn.Sequential(_cross(width, config), _mlp(width, hidden, config.dropout)), hidden[-1]


def _cross(width: int, config: TowerConfig) -> CrossLayers:
    return CrossLayers(width, num_layers=config.cross_layers, rank=config.cross_rank)


def _mlp(width: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in zip((width, *hidden), hidden, strict=False):
        layers += [nn.Linear(width_in, width_out), nn.LayerNorm(width_out), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def matched_hidden(width: int, dim: int, config: TowerConfig, num_heads: int) -> tuple[int, ...]:
    """`config.hidden`, widened in proportion until cross layers and MLP in sequence train as many numbers as the
    parallel tower of the same `config` does.
    """
    last = config.hidden[-1]
    join = (width + last + 1) * last + 2 * last
    wanted = _mlp_parameters(width, config.hidden) + join + num_heads * (last + 1) * dim

    def excess(hidden: Sequence[int]) -> int:
        return _mlp_parameters(width, hidden) + num_heads * (hidden[-1] + 1) * dim - wanted

    def scaled(factor: float) -> tuple[int, ...]:
        return tuple(max(1, round(each * factor)) for each in config.hidden)

    low, high = 1.0, 2.0
    while excess(scaled(high)) < 0:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(scaled(middle)) < 0 else (low, middle)
    return min(scaled(low), scaled(high), key=lambda hidden: abs(excess(hidden)))


def _mlp_parameters(width: int, hidden: Sequence[int]) -> int:
    """Weights, biases and the two vectors of a LayerNorm a layer."""
    return sum((one + 3) * other for one, other in zip((width, *hidden), hidden, strict=False))
