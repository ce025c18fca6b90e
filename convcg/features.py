"""The feature spec: which columns of the pin and user tables the model reads, and as what.

Users bring their own columns by naming them in the recipe's `features`; no code changes.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from convcg.setting import Settings

#: The code of a value that `prepare` did not see, or that is missing. It has an embedding of its own.
UNKNOWN_CODE = 0
#: How many words of a query, and entries of a bag, are read at most.
MAX_BAG_LENGTH = 16


class Kind(StrEnum):
    """How a column is read."""

    ID = "id"  # the pin's own row number: one trained vector a pin
    CATEGORY = "category"  # one of the values seen in `prepare`: one trained vector a value
    BAG = "bag"  # a list of such values: the mean of their vectors
    NUMBER = "number"  # a number, standardised with the mean and deviation seen in `prepare`
    VECTOR = "vector"  # a fixed embedding from elsewhere (visual, text, graph), projected


class Feature(Settings):
    """One column that the model reads. `log` takes log(1 + x) of a number first (prices, counts)."""

    name: str
    kind: Kind
    log: bool = False


def _distinct(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    names = [feature.name for feature in features]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"feature {twice[0]!r} is named twice; name each column once a side")
    return features


Features = Annotated[tuple[Feature, ...], AfterValidator(_distinct)]


class FeatureSpec(Settings):
    """The features of each side.

    A pin with nothing but `pin_id` is known by its identity alone. User identifiers are not a feature: they memorise
    the buyers of yesterday and have nothing to say about those of tomorrow.
    """

    pin: Features = Field(default=(Feature(name="pin_id", kind=Kind.ID),), min_length=1)
    user: Features = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureShape:
    """What the model must know of a prepared feature.

    `size` is the number of codes of a category or bag (with `UNKNOWN_CODE`), the length of a vector, the number of
    pins of an id, and 2 for a number (the value, and whether it is missing).
    """

    name: str
    kind: Kind
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureShapes:
    """The prepared features of both sides, in the order of the spec."""

    pin: tuple[FeatureShape, ...]
    user: tuple[FeatureShape, ...]
