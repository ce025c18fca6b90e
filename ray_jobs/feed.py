"""What feeds training: one Ray Data shard a task, mixed into batches that can be replayed exactly.

Ray restores no position in the data, so a resumed run reads the epoch again from its start and skips what it had done.
That is exact because the order is: files are read in order, and mixing is seeded by the epoch.

A shard that fits the shuffle buffer is read once and held: each pass over a Ray Data shard costs a second or two before
its first row comes, and with repeated conversions an epoch has several.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data.collate_fn import ArrowBatchCollateFn

from convcg.batch import ExampleBatch
from convcg.data.encode import QUERY_SCHEMA, encode_examples
from convcg.data.feature_encoders import PREFIX
from convcg.data.history import HistoryConfig
from convcg.data.prepared import Prepared, attached
from convcg.errors import ConfigError
from convcg.features import FeatureShape, FeatureShapes, Kind
from convcg.types import Task

_PASS_SEED_STRIDE = 7919  # a prime, so that (seed, epoch) and pass do not collide


class Encode(ArrowBatchCollateFn):  # type: ignore[misc]
    """Arrow rows to tensors, in Ray Data's own threads, while the model computes."""

    def __init__(self, features: Sequence[FeatureShape], task: Task) -> None:
        super().__init__()
        self._features, self._task = tuple(features), task

    def __call__(self, batch: pa.Table) -> ExampleBatch:
        """See `convcg.data.encode.encode_examples`."""
        return encode_examples(batch, self._features, self._task)


def examples_of(data: Prepared, task: str) -> ray.data.Dataset:
    """The training examples of a task, each with its request, its person and its history, partition after partition."""
    files = data.files(task)
    filesystem: dict[str, Any] = {} if data.location.is_local else {"filesystem": data.location.filesystem}
    return ray.data.read_parquet([file.path for file in files], **filesystem).map_batches(
        with_requests,
        fn_kwargs={
            "directory": data.location.uri,
            "history": data.summary().history,
            "columns": columns_of(data.encoders().shapes),
        },
        batch_format="pyarrow",
        batch_size=None,
    )


def columns_of(shapes: FeatureShapes) -> list[str]:
    """The columns of an example that the towers and the loss read."""
    features = [PREFIX + shape.name for shape in shapes.user]
    moment = ["time"] if any(shape.kind is Kind.COUNT for shape in shapes.pin) else []
    return [*QUERY_SCHEMA.names, *features, *moment, "user_id", "target", "weight", "negatives"]


def with_requests(examples: pa.Table, *, directory: str, history: HistoryConfig, columns: Sequence[str]) -> pa.Table:
    """A block of examples with what they refer to; see `convcg.data.prepared.attached`."""
    return attached(examples, directory, history).select(columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How a batch is made up: rows of each task, over all workers, and how many batches an epoch has."""

    rows: Mapping[str, int]
    num_batches: int

    @classmethod
    def of(
        cls,
        examples: Mapping[str, int],
        *,
        batch_size: int,
        shares: Mapping[str, float],
        max_repeats: int,
        world_size: int,
    ) -> "Mix":
        """Every batch holds the same number of each task's examples, a multiple of `world_size`.

        Without `shares`, in proportion to how many there are: an epoch is one pass over them. With shares, an epoch is
        one pass over the task that takes longest, in which the others repeat, `max_repeats` times at most.

        Raises:
            ConfigError: a share is asked of a task without examples, or the batch is too small to hold every task.
        """
        there = {task: number for task, number in examples.items() if number}
        for task, share in shares.items():
            if share and task not in there:
                raise ConfigError(f"train.shares asks for {task} examples, but there are none. Leave it out.")
        size = max(world_size * len(there), min(batch_size, sum(there.values())))
        wanted = {task: share for task, share in shares.items() if share} or there
        total = sum(wanted.values())
        rows = {task: max(1, round(size * share / total / world_size)) * world_size for task, share in wanted.items()}
        if sum(rows.values()) > max(batch_size, world_size * len(rows)):
            largest = max(rows, key=lambda task: rows[task])
            rows[largest] = max(world_size, rows[largest] - world_size)
        passes = [there[task] // number for task, number in rows.items()]
        repeats = max_repeats if shares else 1
        return cls(rows=rows, num_batches=min(max(passes), repeats * min(passes)))

    def share(self, task: str) -> float:
        """The share of a task's rows in every batch."""
        return self.rows.get(task, 0) / sum(self.rows.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The batches of one worker. `shards` are its Ray Data iterators by task, `examples` how many all workers have."""

    shards: Mapping[str, Any]
    examples: Mapping[str, int]
    mix: Mix
    features: tuple[FeatureShape, ...]
    world_size: int
    shuffle_buffer: int
    seed: int
    _held: dict[str, pa.Table] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, epoch: int) -> Iterator[ExampleBatch]:
        """The batches of an epoch; the same ones whenever it is asked for again."""
        streams = [self._endless(task, number // self.world_size, epoch) for task, number in self.mix.rows.items()]
        try:
            for _ in range(self.mix.num_batches):
                yield ExampleBatch.concatenated([next(stream) for stream in streams])
        finally:
            for stream in streams:
                stream.close()

    def _endless(self, task: str, rows: int, epoch: int) -> Generator[ExampleBatch, None, None]:
        """Batches of one task, pass after pass, each mixed in its own way."""
        one_pass = self._pass_in_memory if self._fits(task) else self._pass
        for number in count():
            yield from one_pass(task, rows, self.seed + epoch + number * _PASS_SEED_STRIDE)

    def _fits(self, task: str) -> bool:
        return self.examples[task] <= self.shuffle_buffer * self.world_size

    def _pass(self, task: str, rows: int, seed: int) -> Iterator[ExampleBatch]:
        batches: Iterator[ExampleBatch] = self.shards[task].iter_torch_batches(
            batch_size=rows,
            drop_last=True,
            local_shuffle_buffer_size=max(self.shuffle_buffer, rows),
            local_shuffle_seed=seed,
            collate_fn=Encode(self.features, Task(task)),
            prefetch_batches=2,
        )
        return batches

    def _pass_in_memory(self, task: str, rows: int, seed: int) -> Iterator[ExampleBatch]:
        if task not in self._held:
            blocks = self.shards[task].iter_batches(batch_format="pyarrow", batch_size=None)
            self._held[task] = pa.concat_tables(blocks).combine_chunks()
        held, encode = self._held[task], Encode(self.features, Task(task))
        order = np.random.default_rng(seed).permutation(held.num_rows)
        for start in range(0, len(order) - rows + 1, rows):
            yield encode(held.take(order[start : start + rows]))
