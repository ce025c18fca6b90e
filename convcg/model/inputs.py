"""Features to vectors, and vectors to the one that a tower reads: the first layer of both towers.

Shape suffixes: N rows, w width of one feature.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import cast

import torch
from torch import Tensor, nn

from convcg.batch import PADDING
from convcg.errors import ConfigError
from convcg.features import UNKNOWN_CODE, FeatureShape, Kind


class InputKind(StrEnum):
    """How the parts of an input become one vector."""

    SUM = "sum"  # added up, all of the embedding's width
    CONCAT = "concat"  # side by side, each with a LayerNorm of its own


class Join(nn.Module):
    """Parts to one vector."""

    def __init__(self, kind: InputKind, widths: Sequence[int]) -> None:
        super().__init__()
        concat = kind is InputKind.CONCAT
        #: The width of what comes out.
        self.width = sum(widths) if concat else widths[0]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths) if concat else None

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """[N, w] each -> [N, width]."""
        if self.norms is not None:
            return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], dim=-1)
        joined = parts[0]
        for part in parts[1:]:
            joined = joined + part
        return joined


class FeatureInputs(nn.Module):
    """Each feature's embedding or projection."""

    def __init__(self, width: int, shapes: Sequence[FeatureShape]) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.layers = nn.ModuleList(_layer(width, shape) for shape in shapes)

    def forward(self, features: Mapping[str, Tensor], rows_N: Tensor | None) -> list[Tensor]:
        """[N, w] each, in the order of the shapes. `rows_N` ([N] int64) is what an id feature reads."""
        parts = []
        for shape, layer in zip(self.shapes, self.layers, strict=True):
            assert rows_N is not None or shape.kind is not Kind.ID, "an id feature needs the rows"
            parts.append(layer(rows_N if shape.kind is Kind.ID else features[shape.name]))
        return parts

    def id_table(self) -> nn.Embedding:
        """The trained vectors of the id feature, one a pin.

        Raises:
            ConfigError: there is no such feature, or its rows are shared by several pins.
        """
        for shape, layer in zip(self.shapes, self.layers, strict=True):
            if shape.kind is Kind.ID and shape.hashed_rows is None:
                return cast(_Id, layer).table
        raise ConfigError(
            "model.pin_start needs trained pin vectors, one a pin; add {name: pin_id, kind: id} to features.pin, "
            "without hashed_rows."
        )


class _Id(nn.Module):
    """A trained vector a pin, or two halves of one, each found by a hash of its own in a table that all pins share.

    In training, a share of the rows reads the unknown vector instead, so that a pin's other features must do without.
    """

    def __init__(self, width: int, shape: FeatureShape) -> None:
        super().__init__()
        self.width, self.dropout, self.hashed_rows = width, shape.dropout, shape.hashed_rows
        num_rows, row_width = shape.size, width
        if shape.hashed_rows is not None:
            num_rows, row_width = shape.hashed_rows, (width + 1) // 2
        self.table = nn.Embedding(num_rows, row_width)
        nn.init.normal_(self.table.weight, std=width**-0.5)  # vectors of length about one
        self.unknown = nn.Parameter(torch.randn(width) * width**-0.5) if shape.dropout else None

    def forward(self, rows_N: Tensor) -> Tensor:
        if self.hashed_rows is None:
            found = self.table(rows_N)
        else:
            halves = [self.table(hashes(rows_N, self.hashed_rows, number)) for number in range(2)]
            found = torch.cat(halves, dim=-1)[..., : self.width]
        if self.training and self.unknown is not None:
            hidden = torch.rand(len(rows_N), 1, device=rows_N.device) < self.dropout
            found = torch.where(hidden, self.unknown.to(found.dtype), found)
        return cast(Tensor, found)


class _Category(nn.Embedding):
    """A trained vector a value; in training, a share of the rows reads that of the unknown value instead."""

    def __init__(self, width: int, shape: FeatureShape) -> None:
        super().__init__(shape.size, width)
        nn.init.normal_(self.weight, std=width**-0.5)
        self.dropout = shape.dropout

    def forward(self, code_N: Tensor) -> Tensor:
        if self.training and self.dropout:
            hidden = torch.rand(code_N.shape, device=code_N.device) < self.dropout
            code_N = code_N.masked_fill(hidden, UNKNOWN_CODE)
        return super().forward(code_N)


class _Bag(nn.Embedding):
    """The mean of its values' trained vectors; zeros for an empty bag."""

    def __init__(self, width: int, shape: FeatureShape) -> None:
        super().__init__(shape.size, width)
        nn.init.normal_(self.weight, std=width**-0.5)

    def forward(self, codes: Tensor) -> Tensor:
        return bag_mean(self.weight, codes)


class _Vector(nn.Linear):
    """The projection of a given vector; all zeros is a missing one, which has a trained vector of its own."""

    def __init__(self, width: int, shape: FeatureShape) -> None:
        super().__init__(shape.size, width)
        self.missing = nn.Parameter(torch.zeros(width))  # drawn as without: nothing is

    def forward(self, vector: Tensor) -> Tensor:
        absent = (vector == 0).all(dim=-1, keepdim=True)
        return super().forward(vector) + absent * self.missing


def _layer(width: int, shape: FeatureShape) -> nn.Module:
    match shape.kind:
        case Kind.ID:
            return _Id(width, shape)
        case Kind.CATEGORY:
            return _Category(width, shape)
        case Kind.BAG:
            return _Bag(width, shape)
        case Kind.NUMBER | Kind.COUNT:
            return nn.Linear(shape.size, width)
        case Kind.VECTOR | Kind.GRAPH:
            if not shape.size:
                raise ConfigError(
                    f"feature {shape.name!r} reads the vectors of the graph stage, and there are none. Choose a "
                    "graph.kind other than none, or drop the feature."
                )
            return _Vector(width, shape)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant


#: The steps and multipliers of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
_STEPS = (_signed(0x9E3779B97F4A7C15), _signed(0xD1B54A32D192ED03))
_MULTIPLIERS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))


def hashes(rows_N: Tensor, num_rows: int, number: int) -> Tensor:
    """The places ([N] int64) of pins in a table of `num_rows`, by the first or second (0, 1) of two hashes; the same on
    every device.
    """
    mixed = (rows_N + 1) * _STEPS[number]
    for shift, multiplier in _MULTIPLIERS:
        mixed = (mixed ^ (mixed >> shift)) * multiplier
    return (mixed ^ (mixed >> 31)).remainder(num_rows)


def bag_mean(table: Tensor, codes: Tensor, *, hashed: bool = False) -> Tensor:
    """The mean of the rows of `table` ([codes, w]) for padded codes ([N, longest] int64) -> [N, w]; zeros for an empty
    bag.

    `hashed` folds codes of any size into the table.
    """
    present = (codes != PADDING).unsqueeze(-1)
    index = codes.remainder(len(table)) if hashed else codes.clamp(min=0)
    return (nn.functional.embedding(index, table) * present).sum(1) / present.sum(1).clamp(min=1)


def positions(rows: Tensor, among_P: Tensor | None) -> Tensor:
    """Where each of `rows` stands among these sorted pins; the rows themselves among all. `PADDING` stays."""
    if among_P is None:
        return rows
    return torch.where(rows == PADDING, rows, torch.searchsorted(among_P, rows.clamp(min=0)))
