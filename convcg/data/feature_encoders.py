"""Feature columns to codes and standardised numbers, with what `prepare` learned from them: one encoder a feature."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from convcg.errors import DataError
from convcg.features import MAX_BAG_LENGTH, UNKNOWN_CODE, Feature, FeatureShape, FeatureShapes, Kind

#: Encoded columns carry this prefix, so that they stand beside the raw columns that filters read.
PREFIX = "feature:"
#: A deviation that is smaller than this, relative to the mean, is rounding error.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureEncoder:
    """Turns a column into what the model reads. `values` are the known categories, their codes counted from 1."""

    feature: Feature
    size: int
    values: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def shape(self) -> FeatureShape:
        """What the model must know."""
        feature = self.feature
        return FeatureShape(
            name=feature.name,
            kind=feature.kind,
            size=self.size,
            action=feature.action,
            days=feature.days,
            hashed_rows=feature.hashed_rows,
            dropout=feature.dropout,
        )

    def encode(self, column: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Codes (int32; lists of them for a bag), standardised numbers (float32), vectors (fixed_size_list<float32>),
        log(1 + count) (float32).

        Missing numbers and vectors are null; missing bags are empty, missing counts 0.

        Raises:
            DataError: the column's type does not fit the feature's kind, a vector has another length, or a count is
                negative.
        """
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        try:
            return self._encode(array)
        except pa.ArrowException as error:
            raise DataError(
                f"feature {self.feature.name!r} is declared as {self.feature.kind.value}, but its column is "
                f"{array.type}: {error}. Mend the column or the feature's kind."
            ) from error

    def _encode(self, array: pa.Array) -> pa.Array:
        match self.feature.kind:
            case Kind.CATEGORY:
                return self._codes(_strings(array))
            case Kind.BAG:
                bags = array.cast(pa.list_(pa.string()))
                ends = np.cumsum(pc.fill_null(pc.list_value_length(bags), 0).to_numpy(), dtype=np.int32)
                return pa.ListArray.from_arrays(np.r_[np.int32(0), ends], self._codes(pc.list_flatten(bags)))
            case Kind.NUMBER:
                number = _number(array, self.feature.log)
                return pc.divide(pc.subtract(number, self.mean), self.deviation).cast(pa.float32())
            case Kind.VECTOR:
                return array.cast(pa.list_(pa.float32(), self.size))
            case Kind.COUNT:
                return pa.array(log_count(self._count(array)))
        raise AssertionError(f"{self.feature.kind} has no column to encode")

    def _count(self, array: pa.Array) -> NDArray[np.int64]:
        """Whole numbers; 0 where it is missing, as of a person of whom nothing is known."""
        count: NDArray[np.int64] = pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        if (count < 0).any():
            raise DataError(f"feature {self.feature.name!r} is a count and cannot be {count.min()}; give 0 or more.")
        return count

    def _codes(self, strings: pa.Array) -> pa.Array:
        known = pc.index_in(strings, value_set=pa.array(self.values, pa.string()))
        return pc.add(pc.fill_null(known, UNKNOWN_CODE - 1), 1).cast(pa.int32())

    def to_json(self) -> dict[str, Any]:
        """Plain types, for a manifest."""
        plain: dict[str, Any] = {"feature": self.feature.model_dump(mode="json"), "size": self.size}
        match self.feature.kind:
            case Kind.CATEGORY | Kind.BAG:
                plain["values"] = list(self.values)
            case Kind.NUMBER:
                plain |= {"mean": self.mean, "deviation": self.deviation}
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "FeatureEncoder":
        """The inverse of `to_json`."""
        return cls(
            feature=Feature.model_validate(plain["feature"]),
            size=plain["size"],
            values=tuple(plain.get("values", ())),
            mean=plain.get("mean", 0.0),
            deviation=plain.get("deviation", 1.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """The encoders of both sides, in the order of the feature spec."""

    pin: tuple[FeatureEncoder, ...]
    user: tuple[FeatureEncoder, ...]

    @property
    def shapes(self) -> FeatureShapes:
        """What the model must know."""
        return FeatureShapes(
            pin=tuple(encoder.shape for encoder in self.pin), user=tuple(encoder.shape for encoder in self.user)
        )

    def to_bytes(self) -> bytes:
        """Readable JSON."""
        sides = {"pin": self.pin, "user": self.user}
        plain = {side: [encoder.to_json() for encoder in encoders] for side, encoders in sides.items()}
        return json.dumps(plain, indent=1).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Encoders":
        """The inverse of `to_bytes`."""
        plain = json.loads(content)
        return cls(
            pin=tuple(FeatureEncoder.from_json(item) for item in plain["pin"]),
            user=tuple(FeatureEncoder.from_json(item) for item in plain["user"]),
        )


def fit_encoders(table: pa.Table, features: Sequence[Feature]) -> tuple[FeatureEncoder, ...]:
    """Learn each feature's categories or moments from a whole table.

    Raises:
        DataError: a column is missing or of a type that the feature's kind cannot read.
    """
    encoders = []
    for feature in features:
        if feature.kind is Kind.ID:
            encoders.append(FeatureEncoder(feature=feature, size=table.num_rows))
            continue
        if feature.kind is Kind.COUNT:  # no column, and nothing to learn
            encoders.append(FeatureEncoder(feature=feature, size=2))
            continue
        if feature.kind is Kind.GRAPH:  # its length is that of the graph stage, which comes later
            encoders.append(FeatureEncoder(feature=feature, size=0))
            continue
        if feature.name not in table.column_names:
            raise DataError(
                f"the features name the column {feature.name!r}, which the table lacks; it has "
                f"{', '.join(table.column_names)}. Add the column or drop the feature."
            )
        encoders.append(_fit(feature, table[feature.name]))
    return tuple(encoders)


def _fit(feature: Feature, column: pa.ChunkedArray) -> FeatureEncoder:
    try:
        match feature.kind:
            case Kind.CATEGORY:
                return _fit_values(feature, _strings(column))
            case Kind.BAG:
                return _fit_values(feature, pc.list_flatten(column.cast(pa.list_(pa.string()))))
            case Kind.NUMBER:
                number = _number(column, feature.log)
                mean, deviation = pc.mean(number).as_py() or 0.0, pc.stddev(number).as_py() or 0.0
                if deviation <= _ROUNDING * abs(mean):  # all the same
                    deviation = 1.0
                return FeatureEncoder(feature=feature, size=2, mean=mean, deviation=deviation)
            case Kind.VECTOR:
                lengths = pc.unique(pc.drop_null(pc.list_value_length(column))).to_pylist()
                if len(lengths) != 1:
                    raise DataError(f"vector {feature.name!r} has lengths {sorted(lengths)}; give all pins one length.")
                return FeatureEncoder(feature=feature, size=lengths[0])
    except pa.ArrowException as error:
        raise DataError(
            f"feature {feature.name!r} is declared as {feature.kind.value}, but its column is {column.type}: {error}. "
            "Mend the column or the feature's kind."
        ) from error
    raise AssertionError(f"{feature.kind} is not fitted")


def _fit_values(feature: Feature, strings: pa.ChunkedArray) -> FeatureEncoder:
    values = pc.unique(strings).drop_null().sort()
    return FeatureEncoder(feature=feature, size=len(values) + 1, values=tuple(values.to_pylist()))


def log_count(count: NDArray[np.int64]) -> NDArray[np.float32]:
    """Counts as the model reads them, of pins and people, in training and serving: log(1 + count)."""
    return np.log1p(count).astype(np.float32)


def _strings(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string())


def _number(column: Any, log: bool) -> Any:
    """float64; null where it is missing, not finite or without a logarithm."""
    number = column.cast(pa.float64())
    number = pc.log1p(number) if log else number
    return pc.if_else(pc.is_finite(number), number, None)


def as_array(column: pa.Array, shape: FeatureShape) -> np.ndarray[Any, Any]:
    """An encoded Arrow column as the array that `convcg.batch` describes; a copy, because tensors must be writable."""
    match shape.kind:
        case Kind.CATEGORY:
            return np.array(column, dtype=np.int64)
        case Kind.BAG:
            return padded_lists(column, MAX_BAG_LENGTH)
        case Kind.NUMBER | Kind.COUNT:
            missing = np.asarray(column.is_null())
            value = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
            return np.stack([value, missing.astype(np.float32)], axis=1)
        case Kind.VECTOR:
            filled = pc.fill_null(column, pa.scalar([0.0] * shape.size, column.type)) if column.null_count else column
            return np.array(filled.flatten()).reshape(len(column), shape.size)
    raise AssertionError(f"{shape.kind} has no array of its own")


def padded_lists(column: pa.Array, max_length: int | None = None, dtype: Any = np.int64) -> np.ndarray[Any, Any]:
    """Arrow lists of numbers as [rows, longest], padded on the right with -1; nulls are empty.

    With `max_length` exactly that many columns, of which longer lists keep the first.
    """
    length = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    width = max_length if max_length is not None else int(length.max(initial=0))
    kept = np.minimum(length, width)
    padded = np.full((len(column), width), -1, dtype)
    inside = np.arange(width)[None, :] < kept[:, None]
    flat = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    within = np.arange(len(flat)) - np.repeat(np.cumsum(length) - length, length)
    padded[inside] = flat[within < np.repeat(kept, length)]
    return padded
