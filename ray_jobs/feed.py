"""What feeds training: Ray Data shards as batches that can be replayed exactly.

Ray restores no position in the data, so a resumed run reads the epoch again from its start and skips what it had done.
That is exact because the order is: files are read in order, and mixing is seeded by the epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.data.collate_fn import ArrowBatchCollateFn

from convcg.batch import ExampleBatch
from convcg.data.encode import encode_examples
from convcg.features import FeatureShape


class Encode(ArrowBatchCollateFn):  # type: ignore[misc]
    """Arrow rows to tensors, in Ray Data's own threads, while the model computes."""

    def __init__(self, features: Sequence[FeatureShape]) -> None:
        super().__init__()
        self._features = tuple(features)

    def __call__(self, batch: pa.Table) -> ExampleBatch:
        """See `convcg.data.encode.encode_examples`."""
        return encode_examples(batch, self._features)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The batches of one worker. `shard` is its Ray Data iterator, `batch_size` its part of a global batch."""

    shard: Any
    features: tuple[FeatureShape, ...]
    batch_size: int
    shuffle_buffer: int
    seed: int

    def __call__(self, epoch: int) -> Iterator[ExampleBatch]:
        """The batches of an epoch; the same ones whenever it is asked for again. A last partial batch is dropped."""
        batches: Iterator[ExampleBatch] = self.shard.iter_torch_batches(
            batch_size=self.batch_size,
            drop_last=True,
            local_shuffle_buffer_size=max(self.shuffle_buffer, self.batch_size),
            local_shuffle_seed=self.seed + epoch,
            collate_fn=Encode(self.features),
            prefetch_batches=2,
        )
        return iter(batches)
