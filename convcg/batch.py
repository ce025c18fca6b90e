"""Batches of tensors: what `convcg.data.encode` makes and `convcg.model` reads. Neither knows the other.

Shape suffixes: B queries, L history length, Q query words, P pins.
"""

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
    """Requests: who asks, where, and what they did before.

    surface: [B] int64 codes.
    subject_pin: [B] int64 pin rows, `PADDING` where there is none.
    query_words: [B, Q] int64 hashed words, padded with `PADDING`.
    history_pin, history_action, history_surface: [B, L] int64, oldest first, padded on the right with `PADDING`.
    history_age: [B, L] float32, seconds before the request.
    features: the user's, by name, shaped like those of `PinBatch`.
    """

    surface: Tensor
    subject_pin: Tensor
    query_words: Tensor
    history_pin: Tensor
    history_action: Tensor
    history_surface: Tensor
    history_age: Tensor
    features: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.surface)


@dataclass(frozen=True, kw_only=True)
class ExampleBatch(_Batch):
    """Training examples: a query, the pin that was engaged with or bought, and the weight of that evidence.

    target: [B] int64 pin rows.  weight: [B] float32, >= 0.
    """

    query: QueryBatch
    target: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.target)
