"""The feature spec: which columns of the pin and user tables the model reads, and as what.

Users bring their own columns by naming them in the recipe's `features`; no code changes. A `count` is no column: it is
counted from the log.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from convcg.setting import Settings
from convcg.types import Action

#: The code of a value that `prepare` did not see, or that is missing. It has an embedding of its own.
UNKNOWN_CODE = 0
#: How many words of a query, and entries of a bag, are read at most.
MAX_BAG_LENGTH = 16


class Kind(StrEnum):
    """How a column is read."""

    ID = "id"  # the pin's own row number: one trained vector a pin, or two halves of one from a shared table
    CATEGORY = "category"  # one of the values seen in `prepare`: one trained vector a value
    BAG = "bag"  # a list of such values: the mean of their vectors
    NUMBER = "number"  # a number, standardised with the mean and deviation seen in `prepare`
    VECTOR = "vector"  # a fixed embedding from elsewhere (visual, text), projected
    COUNT = "count"  # how many events of one action were known of the pin or person in the days before; log(1 + count)
    GRAPH = "graph"  # the pin's vector of the graph stage, projected; no column, and for pins alone

    @property
    def has_column(self) -> bool:
        """Whether an encoded column holds it."""
        return self not in (Kind.ID, Kind.COUNT, Kind.GRAPH)


class Feature(Settings):
    """One thing that the model reads: a column, or a count.

    `log` takes log(1 + x) of a number first (prices). A count is that of the events with `action` that became known in
    the `days` whole UTC days before the day of the query. `hashed_rows` is the size of the table that the ids of all
    pins share, each by two hashes (None: a row a pin). `dropout` is the share of rows whose id or category is hidden in
    training: they read the vector of the unknown, so that what else is known of a pin must do.
    """

    name: str
    kind: Kind
    log: bool = False
    action: Action | None = None
    days: int | None = Field(default=None, ge=1, le=3650)
    hashed_rows: int | None = Field(default=None, ge=2, le=1 << 31)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _counts_and_nothing_else_name_what_they_count(self) -> "Feature":
        if self.kind is Kind.COUNT:
            if self.action is None or self.days is None:
                raise ValueError(
                    f"feature {self.name!r} is a count and must say of what; give action (as click) and days (as 7)"
                )
            if self.log:
                raise ValueError(f"feature {self.name!r} is a count, whose logarithm is read anyway; leave log out")
        elif self.action is not None or self.days is not None:
            raise ValueError(f"feature {self.name!r} is a {self.kind.value}; action and days are for kind count alone")
        return self

    @model_validator(mode="after")
    def _vectors_by_code_alone_are_hashed_or_hidden(self) -> "Feature":
        if self.hashed_rows is not None and self.kind is not Kind.ID:
            raise ValueError(f"feature {self.name!r} is a {self.kind.value}; hashed_rows is for kind id alone")
        if self.dropout and self.kind not in (Kind.ID, Kind.CATEGORY):
            raise ValueError(f"feature {self.name!r} is a {self.kind.value}; dropout is for kinds id and category")
        return self


def _distinct(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    names = [feature.name for feature in features]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"feature {twice[0]!r} is named twice; name each column once a side")
    return features


def _more_than_counts(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    if features and all(feature.kind is Kind.COUNT for feature in features):
        raise ValueError("counts alone do not tell one pin from another in a history; add {name: pin_id, kind: id}")
    return features


def _of_people(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    for feature in features:
        if feature.kind in (Kind.ID, Kind.GRAPH):
            raise ValueError(f"feature {feature.name!r} is a {feature.kind.value}, which pins have and people do not")
    return features


Features = Annotated[tuple[Feature, ...], AfterValidator(_distinct)]
PinFeatures = Annotated[Features, AfterValidator(_more_than_counts)]
UserFeatures = Annotated[Features, AfterValidator(_of_people)]


class FeatureSpec(Settings):
    """The features of each side.

    A pin with nothing but `pin_id` is known by its identity alone. User identifiers are not a feature: they memorise
    the buyers of yesterday and have nothing to say about those of tomorrow.
    """

    pin: PinFeatures = Field(default=(Feature(name="pin_id", kind=Kind.ID),), min_length=1)
    user: UserFeatures = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureShape:
    """What the model must know of a prepared feature.

    `size` is the number of codes of a category or bag (with `UNKNOWN_CODE`), the length of a vector (0 of a graph's
    until it is known), the number of pins of an id, and 2 for a number or a count: the value, and whether it is
    missing, which a count never is. The rest is as in `Feature`.
    """

    name: str
    kind: Kind
    size: int
    action: Action | None = None
    days: int | None = None
    hashed_rows: int | None = None
    dropout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureShapes:
    """The prepared features of both sides, in the order of the spec."""

    pin: tuple[FeatureShape, ...]
    user: tuple[FeatureShape, ...]
