"""Features to vectors: the first layer of both towers.

Shape suffixes: N rows, d width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from convcg.batch import PADDING
from convcg.errors import ConfigError
from convcg.features import FeatureShape, Kind


class FeatureInputs(nn.Module):
    """The sum of each feature's embedding or projection."""

    def __init__(self, dim: int, shapes: Sequence[FeatureShape]) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.layers = nn.ModuleList(_layer(dim, shape) for shape in shapes)

    def forward(self, features: Mapping[str, Tensor], rows_N: Tensor | None) -> Tensor:
        """[N, d]. `rows_N` ([N] int64) is what an id feature reads."""
        parts = []
        for shape, layer in zip(self.shapes, self.layers, strict=True):
            if shape.kind is Kind.ID:
                assert rows_N is not None, "an id feature needs the rows"
                parts.append(layer(rows_N))
            elif shape.kind is Kind.BAG:
                parts.append(bag_mean(layer, features[shape.name]))
            else:
                parts.append(layer(features[shape.name]))
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def id_table(self) -> nn.Embedding:
        """The trained vectors of the id feature.

        Raises:
            ConfigError: there is no such feature.
        """
        for shape, layer in zip(self.shapes, self.layers, strict=True):
            if shape.kind is Kind.ID:
                assert isinstance(layer, nn.Embedding)
                return layer
        raise ConfigError("model.pin_start needs trained pin vectors; add {name: pin_id, kind: id} to features.pin.")


def _layer(dim: int, shape: FeatureShape) -> nn.Module:
    if shape.kind in (Kind.NUMBER, Kind.VECTOR, Kind.COUNT):
        return nn.Linear(shape.size, dim)
    table = nn.Embedding(shape.size, dim)
    nn.init.normal_(table.weight, std=dim**-0.5)  # rows of length about one
    return table


def bag_mean(table: nn.Module, codes: Tensor, *, hashed: bool = False) -> Tensor:
    """The mean of the table's rows for padded codes ([N, width] int64) -> [N, d]; zeros for an empty bag.

    `hashed` folds codes of any size into the table.
    """
    assert isinstance(table, nn.Embedding)
    present = (codes != PADDING).unsqueeze(-1)
    index = codes.remainder(table.num_embeddings) if hashed else codes.clamp(min=0)
    mean: Tensor = (table(index) * present).sum(1) / present.sum(1).clamp(min=1)
    return mean
