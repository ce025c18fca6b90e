"""The one feature path: rows to tensors, for training, index build, evaluation and serving alike.

A second path would be a bug: what the model saw in training is what it must see online.
"""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from convcg.batch import PADDING, ExampleBatch, PinBatch, QueryBatch
from convcg.data.day_counts import DayCounts
from convcg.data.feature_encoders import PREFIX, as_array, log_count, padded_lists
from convcg.data.split import DAY
from convcg.data.tables import RowTable, single_chunk
from convcg.data.text_hash import text_hash
from convcg.features import MAX_BAG_LENGTH, FeatureShape, Kind
from convcg.types import TASK_CODE, Task

_WORD = re.compile(r"\w+")

#: The columns of a query, wherever it comes from: a training example, an evaluation query, a live request.
QUERY_SCHEMA = pa.schema(
    [
        ("surface", pa.int8()),
        ("subject_pin", pa.int32()),
        ("query", pa.string()),
        ("history_pin", pa.list_(pa.int32())),
        ("history_action", pa.list_(pa.int8())),
        ("history_surface", pa.list_(pa.int8())),
        ("history_age", pa.list_(pa.float32())),
        ("history_dwell", pa.list_(pa.float32())),
    ]
)


def encode_queries(queries: pa.Table, features: Sequence[FeatureShape], task: Task = Task.CONVERSION) -> QueryBatch:
    """Rows with the columns of `QUERY_SCHEMA` and the encoded user features, as tensors; all ask for `task`."""
    column = {name: single_chunk(queries[name]) for name in queries.column_names}
    return QueryBatch(
        task=torch.full((queries.num_rows,), TASK_CODE[task]),
        surface=_tensor(column["surface"]),
        subject_pin=_tensor(column["subject_pin"]),
        query_words=torch.from_numpy(_query_words(column["query"])),
        history_pin=torch.from_numpy(padded_lists(column["history_pin"])),
        history_action=torch.from_numpy(padded_lists(column["history_action"])),
        history_surface=torch.from_numpy(padded_lists(column["history_surface"])),
        history_age=torch.from_numpy(padded_lists(column["history_age"], dtype=np.float32)),
        history_dwell=torch.from_numpy(padded_lists(column["history_dwell"], dtype=np.float32)),
        features={shape.name: torch.from_numpy(as_array(column[PREFIX + shape.name], shape)) for shape in features},
    )


def encode_examples(examples: pa.Table, features: Sequence[FeatureShape], task: Task) -> ExampleBatch:
    """Training examples of one task.

    The columns of a query, user_id (string), target (int32 pin row), weight (float32), negatives (lists of int32 pin
    rows) and, where pins have counts, time (int64 microseconds since the epoch).
    """
    timed = "time" in examples.column_names
    return ExampleBatch(
        query=encode_queries(examples.drop_columns(["target", "weight"]), features, task),
        target=_tensor(single_chunk(examples["target"])),
        weight=torch.from_numpy(np.array(single_chunk(examples["weight"]), dtype=np.float32)),
        user=torch.from_numpy(text_hash(single_chunk(examples["user_id"]))),
        negatives=torch.from_numpy(padded_lists(single_chunk(examples["negatives"]))),
        day=_tensor(single_chunk(examples["time"])) // DAY if timed else None,
    )


class PinEncoder:
    """Pins as tensors. The arrays are prepared once; `batch` only gathers rows, and `counts` looks up days."""

    def __init__(
        self,
        pins: RowTable,
        features: Sequence[FeatureShape],
        pin_days: DayCounts | None = None,
        graph_Nd: NDArray[np.float32] | None = None,
    ) -> None:
        """`pin_days` is what features of kind `count` count, `graph_Nd` what those of kind `graph` read ([N, d], zeros
        for a pin that has none); without such features they are not needed.
        """
        self.num_pins = len(pins)
        self._features: dict[str, Tensor] = {}
        self._counted = [shape for shape in features if shape.kind is Kind.COUNT]
        self._pin_days = pin_days if self._counted else None
        assert pin_days is not None or not self._counted, "the pin table was built without day counts"
        for shape in features:
            if shape.kind in (Kind.ID, Kind.COUNT):
                continue
            if shape.kind is Kind.GRAPH:
                assert graph_Nd is not None, f"the feature {shape.name!r} needs the vectors of the graph stage"
                self._features[shape.name] = torch.from_numpy(graph_Nd)
                continue
            column = pins.column(PREFIX + shape.name)
            assert column is not None, f"the pin table was built without the feature {shape.name!r}"
            self._features[shape.name] = torch.from_numpy(as_array(column, shape))

    def batch(self, rows: Tensor) -> PinBatch:
        """The pins at `rows` ([P] int64)."""
        return PinBatch(rows=rows, features={name: column[rows] for name, column in self._features.items()})

    def all(self) -> PinBatch:
        """The whole catalogue, in row order."""
        return PinBatch(rows=torch.arange(self.num_pins), features=self._features)

    @property
    def has_counts(self) -> bool:
        """Whether a feature is a count."""
        return bool(self._counted)

    def counts(self, rows: Tensor, days: Tensor | int) -> Tensor | None:
        """[P, C] float32: what was counted of the pins at `rows` ([P] int64) before `days` (UTC day numbers, [P] int64
        or one for all), as log(1 + count); None where no feature is a count.
        """
        if self._pin_days is None:
            return None
        key = rows.numpy()
        day = np.broadcast_to(np.asarray(days, np.int64), key.shape)
        counted = [log_count(self._pin_days.feature(shape, key, day)) for shape in self._counted]
        return torch.from_numpy(np.stack(counted, axis=1))

    def all_counts(self, day: int) -> Tensor | None:
        """[N, C] float32: `counts` of the whole catalogue as of one day."""
        return self.counts(torch.arange(self.num_pins), day)


def _tensor(column: pa.Array) -> Tensor:
    return torch.from_numpy(column.to_numpy(zero_copy_only=False).astype(np.int64))


@lru_cache(maxsize=65_536)
def _words(query: str) -> tuple[int, ...]:
    # CRC-32 is stable across processes and versions, which Python's own hash is not.
    return tuple(zlib.crc32(word.encode()) for word in _WORD.findall(query.lower())[:MAX_BAG_LENGTH])


def _query_words(column: pa.Array) -> NDArray[np.int64]:
    words = [_words(query) if query else () for query in column.to_pylist()]
    padded = np.full((len(words), max(map(len, words), default=0)), PADDING, np.int64)
    for row, hashed in enumerate(words):
        padded[row, : len(hashed)] = hashed
    return padded
