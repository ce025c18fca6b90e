"""Batches of tensors: what `convcg.data.encode` makes and `convcg.model` reads. Neither knows the other.

Shape suffixes: B queries, L history length, Q query words, P pins, H hard negatives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

#: Marks an empty place in a padded tensor of pin rows or codes.
PADDING = -1


class _Batch:
    """Moves and casts every tensor of a dataclass, also those inside a dictionary."""

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        """The same batch on another device, its floating-point tensors as `dtype`."""
        moved = {field.name: _moved(getattr(self, field.name), device, dtype) for field in fields(self)}  # type: ignore[arg-type]
        return replace(self, **moved)  # type: ignore[type-var]


def _moved(value: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {name: _moved(tensor, device, dtype) for name, tensor in value.items()}
    if isinstance(value, _Batch):
        return value.to(device, dtype)
    if value is None:
        return None
    return value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class PinBatch(_Batch):
    """Pins and their features.

    rows: [P] int64, the pins' row numbers in the pin table.
    features: by name; category [P] int64, bag [P, MAX_BAG_LENGTH] int64 padded with `PADDING`, number [P, 2] float32
        (standardised value, 1.0 where missing), vector [P, size] float32 (zeros where missing).
    """

    rows: Tensor
    features: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class QueryBatch(_Batch):
    """Requests: who asks, where, for what, and what they did before.

    task: [B] int64 codes of what is asked for; conversions are what is served.
    surface: [B] int64 codes.
    subject_pin: [B] int64 pin rows, `PADDING` where there is none.
    query_words: [B, Q] int64 hashed words, padded with `PADDING`.
    history_pin, history_action, history_surface: [B, L] int64, oldest first, padded on the right with `PADDING`.
    history_age: [B, L] float32, seconds before the request.
    history_dwell: [B, L] float32, seconds that a click lasted; NaN where it is not known.
    features: the user's, by name, shaped like those of `PinBatch`.
    """

    task: Tensor
    surface: Tensor
    subject_pin: Tensor
    query_words: Tensor
    history_pin: Tensor
    history_action: Tensor
    history_surface: Tensor
    history_age: Tensor
    history_dwell: Tensor
    features: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.surface)


@dataclass(frozen=True, kw_only=True)
class ExampleBatch(_Batch):
    """Training examples: a query, the pin that was engaged with or bought, and the weight of that evidence.

    target: [B] int64 pin rows.  weight: [B] float32, >= 0.
    user: [B] int64, the same for the same person.
    negatives: [B, H] int64 rows of pins that the query's own request served and the person did not engage with, padded
        with `PADDING`.
    day: [B] int64, the UTC day number of each query; None where no feature of pins is a count.
    """

    query: QueryBatch
    target: Tensor
    weight: Tensor
    user: Tensor
    negatives: Tensor
    day: Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    @classmethod
    def concatenated(cls, parts: Sequence["ExampleBatch"]) -> "ExampleBatch":
        """The rows of all parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        queries = [vars(part.query) for part in parts]
        columns = {name: _stacked([query[name] for query in queries]) for name in queries[0] if name != "features"}
        features = {name: _stacked([query["features"][name] for query in queries]) for name in queries[0]["features"]}
        return cls(
            query=QueryBatch(**columns, features=features),
            target=torch.cat([part.target for part in parts]),
            weight=torch.cat([part.weight for part in parts]),
            user=torch.cat([part.user for part in parts]),
            negatives=_stacked([part.negatives for part in parts]),
            day=None if parts[0].day is None else torch.cat([part.day for part in parts if part.day is not None]),
        )


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenated rows; padded on the right to the widest."""
    if tensors[0].ndim == 1:
        return torch.cat(list(tensors))
    width = max(tensor.shape[1] for tensor in tensors)
    padded = [torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=PADDING) for tensor in tensors]
    return torch.cat(padded)
